"""Pixels without data: their plane goes with the image through window, size and turn, and no pixel loss counts them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from schemas.sample import JSON, RsInfo, canonical_json
from trainers.models.mae import reconstruction_loss
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import Slot, TileBatch, View, pack
from trainers.stream.sample import Decoder, Encoded

VARIED = AugmentSettings(crop=1.0, flip=0.5, flip_vertical=0.5, rotate=0.75, jitter=0.0)
HOLE = np.ones((96, 128), bool)
HOLE[20:50, 30:90] = False
HOLE[70, 100] = False  # a speck


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def batch_of(planes: list[np.ndarray | None], on_device: bool, how: AugmentSettings = VARIED) -> TileBatch:
    """Pictures that are 200 where they are data and 0 elsewhere."""
    view = View(32)
    decoder = Decoder(view, how, on_device)
    encoded = []
    for i, plane in enumerate(planes):
        picture = np.where(np.True_ if plane is None else plane[..., None], 200, np.zeros((96, 128, 3)))
        data = {"rs.png": png(picture.astype(np.uint8))}
        info = {"member": "rs.png", "bands": ["red", "green", "blue"], "dtype": "uint8", "source": "x"}
        if plane is not None:
            data["rs.valid.png"] = png(plane)
            info["nodata_share"] = float((~plane).mean())  # type: ignore[assignment]
        RsInfo(**info)  # type: ignore[arg-type]
        data[JSON] = canonical_json({"rs": [info]})
        names = tuple(sorted(data))
        taken = decoder.wanted(names, np.uint64(i), photos=False)
        encoded.append(Encoded(names, {n: data[n] for n in taken}, None, np.uint64(i), lambda _: {}))
    slots = [
        Slot(f"k{i}", 0, np.uint64(i), np.zeros(2), np.zeros(4), np.ones(2), shown)  # type: ignore[arg-type]
        for i, shown in enumerate(decoder.decode(encoded))
    ]
    return pack(slots, view, None, 1.0, []).to("cpu")


@pytest.mark.parametrize("on_device", [False, True])
def test_the_plane_goes_with_the_image_through_window_size_and_turn(on_device: bool) -> None:
    batch = batch_of([HOLE] * 24 + [None], on_device)
    assert batch.rs_valid.shape == (25, 32, 32)
    valid = (batch.rs_valid == 255)[:, None].expand_as(batch.rs)
    # bicubic swings over beside a hole by a tenth and never below
    assert batch.rs[valid].min() >= 199
    assert batch.rs[valid].max() <= 225
    assert (batch.rs[~valid] == 200).float().mean() < 0.4  # what is left out is what the hole has touched
    assert 0.02 < (~valid[:24]).float().mean() < 0.5
    assert bool(valid[24].all())  # an image without a plane is data


def test_host_and_device_leave_out_the_same_pixels() -> None:
    host, device = (batch_of([HOLE] * 12, on_device).rs_valid == 255 for on_device in (False, True))
    assert (host != device).float().mean() < 0.01


def test_a_batch_whose_images_are_whole_carries_no_planes() -> None:
    assert batch_of([None, None], False).rs_valid.shape == (2, 0, 0)


def test_the_reconstruction_loss_leaves_pixels_without_data_out() -> None:
    noise = torch.Generator().manual_seed(1)
    pixels, predicted = (torch.randn(3, 5, 48, generator=noise) for _ in range(2))
    valid = torch.tensor([True, True, False])
    data = torch.rand(3, 5, 48, generator=noise) > 0.3
    data[0, 2] = False  # a whole patch
    predicted.requires_grad_()
    loss = reconstruction_loss(predicted, pixels, valid, data=data)
    (gradient,) = torch.autograd.grad(loss, predicted)
    other = reconstruction_loss(predicted, torch.where(data, pixels, 1e6), valid, data=data)
    assert torch.equal(loss, other)  # no value of theirs counts
    assert not gradient[~data].any()  # nor what is predicted there
    expected = []
    for b, p in np.ndindex(2, 5):
        own = data[b, p]
        if own.any():
            x = pixels[b, p][own]
            target = (x - x.mean()) / (x.var() + 1e-6).sqrt()
            expected.append(float((predicted[b, p][own].detach() - target).square().mean()))
    assert float(loss.detach()) == pytest.approx(np.mean(expected), rel=1e-5)
    whole = reconstruction_loss(predicted, pixels, valid, data=torch.ones_like(data)).detach()
    assert float(whole) == pytest.approx(float(reconstruction_loss(predicted, pixels, valid).detach()), rel=1e-6)

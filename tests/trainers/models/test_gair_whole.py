"""GAIR's parts put together: a map whose value is its coordinate comes back at each photo's place.

Images hold their own coordinates as levels, photos those of where they were taken. They go through the stream, with and
without augmentation, and through ``Gair.forward``; encoders that pass levels on show what meets what in the losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainers.batches import GAIR
from tests.trainers.synthetic import Made, SyntheticSettings, _encoded, make_sample, write_samples
from trainers.models.gair.model import PHOTO, Gair
from trainers.models.gair.pairs import Pairs
from trainers.models.gair.settings import GairLoss
from trainers.models.vit import ViTSettings
from trainers.stream.augment import AugmentSettings
from trainers.stream.stream import GeoStream

SETTINGS = replace(GAIR, rs=ViTSettings(96, 8, 32, 1, 2), photos=3)
VARY = AugmentSettings(crop=0.6, flip=0.5, flip_vertical=0.5, rotate=0.6, jitter=0.0)
#: Samples; a third channel tells them apart.
COUNT = 24


def coordinate_samples(s: SyntheticSettings) -> Iterator[Made]:
    """Samples whose images are maps of x, y and the sample's number, and whose photos are of the place's colour."""
    axis = (np.arange(s.size) + 0.5) / s.size
    for number in range(s.samples):
        meta, members, tokens = make_sample(number, s)
        levels = np.empty((s.size, s.size, 3))
        levels[..., 0], levels[..., 1], levels[..., 2] = axis[None] * 255, axis[:, None] * 255, number * 10
        members[f"rs.{s.form}"] = _encoded(np.rint(levels).astype(np.uint8), s.form)
        for photo in meta.streetview:
            colour = np.rint([photo.x * 255, photo.y * 255, number * 10]).astype(np.uint8)
            members[photo.member] = _encoded(np.broadcast_to(colour, (s.photo_size, s.photo_size, 3)))
        yield meta, members, tokens


@pytest.fixture(scope="session")
def coordinates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    s = SyntheticSettings(samples=COUNT, size=192, photos=6, form="png")
    return write_samples(tmp_path_factory.mktemp("data") / "coordinates", [list(coordinate_samples(s))], s)


def truth(s: SyntheticSettings) -> dict[tuple[float, float], tuple[float, float, float]]:
    """Degrees of each photo to x, y and number of its sample, all in 0..1 of 255 levels."""
    found = {}
    for number in range(s.samples):
        for photo in make_sample(number, s)[0].streetview:
            found[photo.lon, photo.lat] = photo.x, photo.y, number * 10 / 255
    return found


TRUTH = truth(SyntheticSettings(samples=COUNT, size=192, photos=6, form="png"))


class Means(nn.Module):
    """Levels of an image to tokens: the mean of each patch in the first three features, zero in the others."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.patch, self.dim = patch, dim

    def forward(self, image: Tensor) -> Tensor:
        tokens = nn.functional.avg_pool2d(image, self.patch).flatten(2).transpose(1, 2)
        return nn.functional.pad(tokens, (0, self.dim - tokens.shape[2]))


def passing(loss: GairLoss) -> Gair:
    """A model whose embeddings begin with the levels, 0..1, that it saw: of a photo, and of an image at a place."""
    torch.manual_seed(0)
    model = Gair(SETTINGS, "released", loss)
    model.rs = Means(SETTINGS.rs.patch, SETTINGS.rs.dim)
    model.sv = nn.Sequential(Means(SETTINGS.sv.image_size, SETTINGS.sv.dim), nn.Flatten())
    head = model.nili.imnet
    with torch.no_grad():
        for layer in (head, model.sv_head):
            layer.weight.zero_()
            layer.bias.zero_()
        for k in range(3):
            head.weight[k, 9 * k + 4] = 1  # the middle of nine taps
            model.sv_head.weight[k, k] = PHOTO[1][k] / 255
            model.sv_head.bias[k] = PHOTO[0][k] / 255
    return model


def seen_in_training(root: Path, augment: AugmentSettings, pixels: str, device: str, bf16: bool) -> list[Pairs]:
    """What the losses were given, batch by batch, when batches went through ``forward``."""
    model = passing(GairLoss()).to(device)
    found: list[Pairs] = []
    inner = model.contrast

    def contrast(pairs: Pairs) -> dict[str, Tensor]:
        found.append(pairs)
        return inner(pairs)

    model.contrast = contrast  # type: ignore[method-assign]
    stream = GeoStream(str(root), Gair.view(SETTINGS), batch_size=8, augment=augment, pixels=pixels)
    for batch in stream.batches(until_epoch=2):
        with torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
            assert model(batch.to(device))["loss"].isfinite()
    return found


def check_places(root: Path, augment: AugmentSettings = VARY, pixels: str = "workers", bf16: bool = False,
                 device: str = "cpu") -> None:  # fmt: skip
    """Each photo meets the image at its place; the outer half of the outer cells aside, where a sample is flat."""
    errors, photos, inside = [], [], 0
    for pairs in seen_in_training(root, augment, pixels, device, bf16):
        for q in pairs.valid.nonzero().flatten().tolist():
            lon, lat = pairs.lonlat[q].tolist()
            where = torch.tensor(min(TRUTH.items(), key=lambda t: abs(t[0][0] - lon) + abs(t[0][1] - lat))[1])
            photos.append((pairs.photo[q, :3].cpu() - where).abs().max())
            errors.append((pairs.place[q, :3].cpu() - where).abs())
            inside += 1
    assert inside > 60
    error = torch.stack(errors)
    assert max(photos) < (0.015 if bf16 else 0.012)
    assert error[:, 2].max() < 0.01  # another tile is 0.04 off
    # Half a cell of 12 is 0.042; a window is 0.4 to 0.9 of the tile, so that fewer than a fifth are at its border.
    assert error[:, :2].amax(1).quantile(0.75) < (0.015 if bf16 else 0.006)
    assert error[:, :2].max() < 0.06


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("pixels", ["workers", "device"])
def test_a_map_of_coordinates_comes_back_at_each_photo_s_place(coordinates: Path, pixels: str, bf16: bool) -> None:
    check_places(coordinates, VARY, pixels, bf16)


def test_a_map_of_coordinates_comes_back_as_it_is_stored(coordinates: Path) -> None:
    check_places(coordinates, AugmentSettings(enabled=False))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("bf16", [False, True])
def test_a_map_of_coordinates_comes_back_on_the_device(coordinates: Path, bf16: bool) -> None:
    check_places(coordinates, VARY, "device", bf16, "cuda")


@pytest.mark.parametrize(("width", "height"), [(96, 48), (40, 80), (64, 64)])
def test_a_photo_is_squashed_or_its_middle_cut_out_as_the_fidelity_has_it(
    tmp_path: Path, width: int, height: int
) -> None:
    """Photos whose levels are their own coordinates: what of them is shown, and that its aspect is kept."""
    s = SyntheticSettings(samples=9, size=32, photos=1, form="png")
    x, y = (np.arange(width) + 0.5) / width * 255, (np.arange(height) + 0.5) / height * 255
    levels = np.stack((np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))), 2)
    picture = np.rint(np.concatenate((levels, levels[..., :1]), 2)).astype(np.uint8)
    made = []
    for number in range(s.samples):
        meta, members, tokens = make_sample(number, s)
        made.append((meta, members | {p.member: _encoded(picture) for p in meta.streetview}, tokens))
    root = write_samples(tmp_path / "d", [made], s)
    for fidelity, fit in (("ours", "crop"), ("paper", "squash"), ("released", "squash")):
        view = Gair.view(SETTINGS, fidelity)
        batch = next(GeoStream(str(root), view, batch_size=8, augment=AugmentSettings(enabled=False)).batches())
        photo = batch.photos[int(batch.photo_valid.nonzero()[0])].float() / 255
        shown = [min(1.0, other / side) if fit == "crop" else 1.0 for side, other in ((width, height), (height, width))]
        size = view.photo_size
        for axis, (part, share) in enumerate(zip((photo[0].mean(0), photo[1].mean(1)), shown, strict=True)):
            expected = 0.5 + ((torch.arange(size) + 0.5) / size - 0.5) * share
            assert (part - expected)[2:-2].abs().max() < 0.03, (fidelity, axis)

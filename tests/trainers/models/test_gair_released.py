"""``fidelity=released`` against the composition of docs/papers/gair.md#losses in plain loops, and where it starts."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.trainers.batches import GAIR, gair_batch
from tests.trainers.models.gair_reference import Reference, Sample, distillation
from trainers.models.gair.coordinate_queue import CoordinateQueue
from trainers.models.gair.model import Gair
from trainers.models.gair.settings import GairLoss
from trainers.stream.batch import TileBatch

SETTINGS = replace(GAIR, photos=1, queue=40)


class Street(nn.Module):
    """A photo encoder's features for the reference."""

    def __init__(self, model: Gair) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(model.sv)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels)


def both(loss: GairLoss) -> tuple[Gair, Reference]:
    """Ours as released and the peer, with equal random weights."""
    torch.manual_seed(0)
    ours = Gair(SETTINGS, "released", loss)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(0, 0.1)
        for name, copied in (("rs", ours.rs), ("sv", ours.sv)) if loss.dist else ():
            for mine, other in zip(ours.first[name].parameters(), copied.parameters(), strict=True):
                mine.copy_(other + 0.05 * torch.randn_like(other))  # as after some steps
    s = SETTINGS
    peer = Reference(
        copy.deepcopy(ours.rs), Street(ours), s.rs.dim, s.sv.dim, s.dim, s.rs.grid, ours.location.frequencies,
        s.location_hidden, ours.queue.places.clone(),
    )  # fmt: skip
    with torch.no_grad():
        for mine, its in same(ours, peer):
            its.copy_(mine)
    return ours, peer


def same(ours: Gair, peer: Reference) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """Parameters that are one in both."""
    yield from zip(ours.rs.parameters(), peer.image.parameters(), strict=True)
    yield from zip(ours.sv.parameters(), peer.street.parameters(), strict=True)
    yield from zip(ours.sv_head.parameters(), peer.optical_proj.parameters(), strict=True)
    yield from zip(ours.nili.parameters(), peer.imnet.parameters(), strict=True)
    yield from zip(ours.location.parameters(), peer.capsules.parameters(), strict=True)


def samples_of(batch: TileBatch) -> list[Sample]:
    found = []
    for q in batch.photo_valid.nonzero().flatten().tolist():
        (x, y), (lon, lat) = batch.photo_xy[q].tolist(), batch.photo_lonlat[q].tolist()
        found.append(Sample(batch.rs[int(batch.photo_sample[q])], batch.photos[q], x, y, lon, lat))
    return found


@pytest.fixture(scope="module")
def steps(dataset: Path) -> list[TileBatch]:
    """Two batches of eight tiles with one photo each."""
    whole = [gair_batch(dataset, 24, skip) for skip in (0, 1)]
    found = []
    for batch in whole:
        first = torch.searchsorted(batch.photo_sample, batch.photo_sample) == torch.arange(len(batch.photo_sample))
        keep = first & batch.photo_valid
        rows = torch.cat((keep.nonzero().flatten()[:8], (~batch.photo_valid).nonzero().flatten()[:1]))
        names = [n for n in vars(batch) if n.startswith("photo")]
        batch = replace(batch, **{n: getattr(batch, n)[rows] for n in names})
        tiles = torch.isin(torch.arange(24), batch.photo_sample)
        found.append(replace(batch, valid=tiles))
        assert int(batch.photo_valid.sum()) == 8
    return found


@pytest.mark.parametrize("dist", [0.0, 0.2])
def test_losses_and_gradients_equal_those_of_the_released_composition(steps: list[TileBatch], dist: float) -> None:
    """Over two steps: the queue of the second holds the places of the first."""
    ours, peer = both(GairLoss(dist=dist))
    first = copy.deepcopy(peer)
    if dist:
        first.image = ours.first["rs"]
        first.street.encoder = ours.first["sv"]
    for batch in steps:
        ours.zero_grad()
        peer.zero_grad()
        mine = ours(batch)
        samples = samples_of(batch)
        incl, secl = peer(samples)
        total = incl + secl
        if dist:
            kept = distillation(peer, first, samples)
            torch.testing.assert_close(mine["dist"], kept, atol=1e-4, rtol=1e-4)
            total = total + 0.2 * kept
        torch.testing.assert_close(mine["incl"], incl, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mine["secl"], secl, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mine["loss"], total, atol=1e-4, rtol=1e-4)
        mine["loss"].backward()
        total.backward()
        compared = set()
        for own, its in same(ours, peer):
            if not own.requires_grad:
                continue
            assert own.grad is not None
            assert its.grad is not None
            scale = float(its.grad.abs().max().clamp_min(1e-3))
            torch.testing.assert_close(own.grad / scale, its.grad / scale, atol=1e-4, rtol=1e-4)
            compared.add(own)
        assert compared == {p for p in ours.parameters() if p.requires_grad}
    held, expected = sorted(map(tuple, ours.queue.places.tolist())), sorted(peer.queue)
    torch.testing.assert_close(torch.tensor(held), torch.tensor(expected))


def test_the_released_queue_starts_with_places_of_unit_length_in_degrees() -> None:
    torch.manual_seed(0)
    queue = CoordinateQueue(4096, "gaussian")
    assert queue.valid().all()
    torch.testing.assert_close(queue.places.norm(dim=1), torch.ones(4096).double())
    assert queue.places.mean(0).abs().max() < 0.05  # in every direction
    assert not CoordinateQueue(8).valid().any()


def test_the_released_loss_starts_where_the_release_did() -> None:
    """(2 ln 256 + 2 ln 4097) / 2 = 13.86; its log has 13.98."""
    torch.manual_seed(0)
    settings = replace(SETTINGS, dim=768, queue=4096, location_features=256, location_hidden=64)
    model = Gair(settings, "released")
    count = 256
    noise = torch.Generator().manual_seed(1)
    pixels = lambda *shape: torch.randint(0, 255, shape, generator=noise, dtype=torch.uint8)  # noqa: E731
    lonlat = (torch.rand(count, 2, generator=noise).double() - 0.5) * torch.tensor([360.0, 120.0])
    one = torch.ones(count, dtype=torch.bool)
    blank = {name: torch.zeros(0) for name in TileBatch.__dataclass_fields__}
    batch = TileBatch(**{  # type: ignore[arg-type]
        **blank, "key": ["k"] * count, "corrupt": [], "weight": 1.0, "valid": one, "has_rs": one,
        "seed": torch.arange(count), "gsd": torch.ones(count, 2), "rs": pixels(count, 3, 48, 48),
        "rs_valid": torch.zeros(count, 0, 0, dtype=torch.uint8), "photos": pixels(count, 3, 32, 32),
        "photo_valid": one, "photo_sample": torch.arange(count), "photo_lonlat": lonlat,
        "photo_xy": torch.rand(count, 2, generator=noise), "bbox": torch.cat((lonlat, lonlat + 0.02), 1),
        "window": torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(count, 4),
    })  # fmt: skip
    with torch.no_grad():
        found = float(model(batch)["loss"])
    assert math.log(256) + math.log(4097) == pytest.approx(13.86, abs=0.01)
    assert found == pytest.approx(13.86, abs=0.3)

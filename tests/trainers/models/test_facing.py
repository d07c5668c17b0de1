"""The ground around a photo in its camera's frame: known maps, turns of the square, and what is not known."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from geometry.turn import Turn
from tests.trainers.batches import GAIR, gair_batch
from tests.trainers.models.test_gair_whole import COUNT, SETTINGS, VARY, Means, coordinates
from tests.trainers.synthetic import SyntheticSettings, make_sample
from trainers.models.gair.facing import ACROSS, AHEAD, BEHIND, SIDE, CameraGround
from trainers.models.gair.model import Gair
from trainers.stream.augment import AugmentSettings
from trainers.stream.sample import frame_of
from trainers.stream.stream import GeoStream

__all__ = ["coordinates"]  # the fixture
GRID = 12


def ground(seed: int = 0) -> CameraGround:
    torch.manual_seed(seed)
    return CameraGround(16, GRID, 8, 8)


def looking(degrees: Tensor, metres: float = 200.0) -> Tensor:
    """Frames of cameras that look so many degrees clockwise from up, in a tile of so many metres a side."""
    s, c = torch.deg2rad(degrees).sin(), torch.deg2rad(degrees).cos()
    return torch.stack((torch.stack((c, s), -1), torch.stack((s, -c), -1)), 1) / metres


def test_a_camera_reads_what_is_ahead_far_first_and_from_left_to_right() -> None:
    """In a map of coordinates of 200 m, from its middle, looking east: ahead is x, right is y."""
    axis = (torch.arange(GRID) + 0.5) / GRID
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    values = torch.stack((x, y), -1).view(1, -1, 2) * torch.tensor([0.0, 1.0]).view(2, 1, 1)  # of the second tile
    second, east = torch.ones(1, dtype=torch.long), looking(torch.tensor([90.0]))
    seen = ground().seen(values, second, torch.tensor([[0.5, 0.5]]), east)
    step = (AHEAD + BEHIND) / SIDE
    ahead = [AHEAD - step * (k + 0.5) for k in range(SIDE)]
    assert sum(m < 0 for m in ahead) == round(BEHIND / step)
    right = [-ACROSS + 2 * ACROSS / SIDE * (k + 0.5) for k in range(SIDE)]
    for row, column in itertools.product(range(SIDE), repeat=2):
        place = 0.5 + ahead[row] / 200, 0.5 + right[column] / 200
        assert seen[0, row, column].tolist() == pytest.approx(place, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_a_tile_laid_another_way_looks_the_same_to_its_cameras(flips: tuple[bool, bool, bool]) -> None:
    turn, camera = Turn(*flips), ground()
    tokens = torch.randn(2, GRID, GRID, 16)
    laid = tokens.transpose(1, 2) if turn.transpose else tokens
    laid = laid.flip([axis for axis, flip in ((2, turn.flip_x), (1, turn.flip_y)) if flip])
    sample, xy, frame = torch.tensor([0, 1, 1]), torch.rand(3, 2), looking(torch.tensor([10.0, 130.0, 275.0]))
    moved = torch.from_numpy(turn.points(xy.double().numpy())).float()
    aimed = torch.from_numpy(turn.directions(frame.double().numpy())).float()
    before = camera(tokens.flatten(1, 2), sample, xy, frame)
    torch.testing.assert_close(camera(laid.flatten(1, 2), sample, moved, aimed), before, rtol=1e-4, atol=1e-5)
    assert (
        camera(tokens.flatten(1, 2), sample, xy, looking(torch.tensor([100.0, 220.0, 5.0]))) - before
    ).abs().max() > 1e-3


@torch.no_grad()
def test_the_ground_is_what_torch_samples_there() -> None:
    camera, tokens = ground(), torch.randn(3, GRID * GRID, 16)
    sample, xy, frame = torch.tensor([2, 0, 1]), torch.rand(3, 2), looking(torch.tensor([33.0, 200.0, 310.0]))
    maps = tokens.view(3, GRID, GRID, 16).permute(0, 3, 1, 2)[sample]
    at = 2 * (xy[:, None] + camera.ground @ frame).view(3, SIDE, SIDE, 2) - 1
    expected = F.grid_sample(maps, at, padding_mode="zeros", align_corners=False).permute(0, 2, 3, 1)
    torch.testing.assert_close(camera.seen(tokens, sample, xy, frame), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_outside_of_the_tile_there_is_nothing() -> None:
    """Looking out over the upper border; half a patch of 8.3 m beyond it values fade."""
    first, values = torch.zeros(1, dtype=torch.long), torch.ones(1, GRID * GRID, 1)
    seen = ground().seen(values, first, torch.tensor([[0.5, 0.0]]), looking(torch.zeros(1)))
    step = (AHEAD + BEHIND) / SIDE
    out = [AHEAD - step * (k + 0.5) > 200 / GRID / 2 for k in range(SIDE)]
    assert any(out)
    assert seen[0, out].abs().max() == 0
    assert seen[0, -1].min() > 0


def test_an_unknown_heading_adds_nothing_and_has_a_gradient_of_zero() -> None:
    camera, tokens = ground(), torch.randn(1, GRID * GRID, 16, requires_grad=True)
    frame = torch.stack((looking(torch.tensor([40.0]))[0], torch.full((2, 2), torch.nan)))
    found = camera(tokens, torch.tensor([0, 0]), torch.full((2, 2), 0.5), frame)
    assert found[0].abs().max() > 0
    assert found[1].abs().max() == 0
    found[1].sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.abs().max() == 0


@pytest.mark.parametrize("pixels", ["workers", "device"])
def test_what_lies_ahead_of_a_photo_is_read_whichever_way_its_tile_is_shown(coordinates: Path, pixels: str) -> None:
    check_ahead(coordinates, pixels)


def check_ahead(root: Path, pixels: str = "workers") -> None:
    """Images of their own coordinates: what is read 20 m ahead of a camera, and 12 m to its right, lies there."""
    s = SyntheticSettings(samples=COUNT, size=192, photos=6, form="png")
    ahead, right = {}, {}
    for number in range(COUNT):
        meta = make_sample(number, s)[0]
        metres = meta.gsd[0] * meta.footprint.width, meta.gsd[1] * meta.footprint.height
        for photo in meta.streetview:
            to_right, onwards = frame_of(photo, metres)
            ahead[photo.lon, photo.lat] = photo.x + 20 * onwards[0], photo.y + 20 * onwards[1]
            right[photo.lon, photo.lat] = photo.x + 12 * to_right[0], photo.y + 12 * to_right[1]
    camera = CameraGround(8, SETTINGS.rs.grid, 8, 8)
    camera.ground = torch.tensor([[0.0, 20.0], [12.0, 0.0]]).repeat(SIDE * SIDE // 2, 1)
    encode, counted = Means(SETTINGS.rs.patch, 8), 0
    for augment in (VARY, AugmentSettings(enabled=False)):
        stream = GeoStream(str(root), Gair.view(SETTINGS), batch_size=8, augment=augment, pixels=pixels)
        for batch in stream.batches(until_epoch=1):
            batch = batch.to("cpu")
            tokens = encode(batch.rs.float() / 255)
            frame = batch.photo_frame.nan_to_num()
            seen = camera.seen(tokens, batch.photo_sample.clamp_max(7), batch.photo_xy, frame)[:, 0, :2, :2]
            for q in batch.photo_valid.nonzero().flatten().tolist():
                reach = batch.photo_xy[q] + camera.ground[:2] @ batch.photo_frame[q]
                if not ((reach > 0.05) & (reach < 0.95)).all():
                    continue
                lon, lat = batch.photo_lonlat[q].tolist()
                key = min(ahead, key=lambda place: abs(place[0] - lon) + abs(place[1] - lat))
                expected = torch.tensor([ahead[key], right[key]])
                assert (seen[q] - expected).abs().max() < 0.012
                counted += 1
    assert counted > 40


@torch.no_grad()
def test_headings_are_hidden_at_their_rate_in_training_alone(dataset: Path) -> None:
    batch = gair_batch(dataset, 8)
    known = batch.photo_frame.isfinite().all(-1).all(-1) & batch.photo_valid
    assert known.any()
    model, hidden = Gair(replace(GAIR, heading_drop=0.3)), []
    for seed in range(200):
        drawn = replace(batch, seed=torch.arange(8) + 8 * seed)
        hidden.append(model.frames(drawn)[known].isnan().all(-1).all(-1))
    share = torch.cat(hidden).float().mean()
    assert 0.25 < float(share) < 0.35
    assert torch.equal(model.eval().frames(batch)[known], batch.photo_frame[known])
    assert Gair(GAIR, "released").facing is None


@torch.no_grad()
def test_the_photo_s_own_direction_decides_what_it_is_compared_with(dataset: Path) -> None:
    torch.manual_seed(0)
    model, batch = Gair(GAIR).eval(), gair_batch(dataset, 8)
    tokens, known = model.encode_tiles(batch), batch.photo_valid & batch.photo_frame.isfinite().all(-1).all(-1)
    around = replace(batch, photo_frame=-batch.photo_frame)
    blind = replace(batch, photo_frame=torch.full_like(batch.photo_frame, torch.nan))
    found, back, place = (model.localise(tokens, b)[known] for b in (batch, around, blind))
    assert (found - back).abs().amax(1).min() > 1e-5
    torch.testing.assert_close(place, model.query(tokens, batch, batch.photo_sample, batch.photo_xy)[known])
    assert np.isfinite(found.numpy()).all()

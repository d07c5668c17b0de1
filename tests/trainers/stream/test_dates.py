"""Several images of one tile: which are shown, that they move together, and which are missing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from schemas.sample import JSON
from tests.trainers.synthetic import Made, SyntheticSettings, make_sample, write_samples
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import TileBatch, View
from trainers.stream.stream import GeoStream, Pixels, StreamSettings

SIZE, STEP = 40, 30
SETTINGS = SyntheticSettings(samples=12, size=SIZE, form="npy", bands=("red", "green", "blue"))
STORED, MOVED = AugmentSettings(enabled=False), AugmentSettings(crop=1.0, flip=0.5, rotate=0.5, jitter=0.0)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def count_of(index: int) -> int:
    """1, 2, 3 or 4 dates; sample 11 has no image."""
    return 0 if index == 11 else 1 + index % 4


def dated(index: int) -> Made:
    """A slope whose levels rise by STEP from date to date; of sample 3 the second date lacks its left half."""
    meta, members, tokens = make_sample(index, SETTINGS)
    slope = np.add.outer(np.arange(SIZE), 2 * np.arange(SIZE)).astype(np.uint8)
    members = {name: data for name, data in members.items() if not name.startswith("rs")}
    infos = []
    for date in range(count_of(index)):
        name = f"rs.{date}.npy"
        members[name] = npy(np.stack([slope + STEP * date] * 3))
        infos.append(replace(meta.rs[0], member=name))
        if (index, date) == (3, 1):
            infos[-1] = replace(infos[-1], nodata_share=0.5)
            file = io.BytesIO()
            Image.fromarray(np.arange(SIZE)[None].repeat(SIZE, 0) >= SIZE // 2).save(file, "PNG")
            members["rs.1.valid.png"] = file.getvalue()
    meta = replace(meta, rs=infos)
    return meta, members | {JSON: meta.to_bytes()}, tokens


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("dates"), [[dated(i) for i in range(12)]], SETTINGS)


def batches(root: Path, dates: int, augment: AugmentSettings, pixels: Pixels = "workers", seed: int = 0) -> TileBatch:
    settings = StreamSettings(shuffle="none", workers=0, augment=augment, pixels=pixels)
    view = View(32, dates=dates, photos=2, photo_size=16)
    stream = GeoStream(str(root), view, batch_size=12, settings=settings, seed=seed)
    return next(stream.batches()).to("cpu")


@pytest.mark.parametrize("pixels", ["workers", "device"])
def test_each_date_is_there_as_stored_and_the_missing_are_named(root: Path, pixels: Pixels) -> None:
    batch = batches(root, 3, STORED, pixels)
    assert batch.rs.shape == (12, 3, 3, 32, 32)
    assert not batch.corrupt
    for i in range(12):
        count = min(3, count_of(i))
        assert batch.has_date[i].tolist() == [d < count for d in range(3)]
        assert bool(batch.has_rs[i]) is (count > 0)
        for date in range(count):
            apart = batch.rs[i, date].int() - batch.rs[i, 0].int()
            assert ((apart - STEP * date).abs() <= 1).all()
        assert not batch.rs[i, count:].any()


@pytest.mark.parametrize("pixels", ["workers", "device"])
def test_what_is_no_data_belongs_to_its_date(root: Path, pixels: Pixels) -> None:
    batch = batches(root, 3, STORED, pixels)
    plane = batch.rs_valid[batch.has_rs]
    assert plane.shape == (11, 3, 32, 32)
    lacking = (plane < 255).flatten(2).any(2).nonzero().tolist()
    assert lacking == [[3, 1]]
    assert not plane[3, 1, :, :14].any()
    assert (plane[3, 1, :, 18:] == 255).all()


def test_dates_move_together_in_the_loader_as_on_the_device(root: Path) -> None:
    here, there = (batches(root, 3, MOVED, pixels) for pixels in ("workers", "device"))
    assert (here.rs.int() - there.rs.int()).abs().max() <= 1
    assert torch.equal(here.has_date, there.has_date)
    for i, date in here.has_date[:, 1:].nonzero().tolist():
        apart = here.rs[i, date + 1].int() - here.rs[i, 0].int()
        first = here.rs[i, 0].float().mean()
        assert apart.float().std() < 1  # the same window, the same way round
        assert first < 150


def test_colours_change_alike_on_all_dates_and_on_both_roads(root: Path) -> None:
    loud = AugmentSettings(flip=0.0, jitter=1.0, brightness=0.4, contrast=0.0, saturation=0.5)
    here, there = (batches(root, 2, loud, pixels) for pixels in ("workers", "device"))
    assert (here.rs.int() - there.rs.int()).abs().max() <= 1
    plain = batches(root, 2, STORED)
    for i in range(1, 12, 4):  # of two dates, so that none is drawn
        first, second = (here.rs[i].double().mean((1, 2, 3)) / plain.rs[i].double().mean((1, 2, 3))).tolist()
        assert first == pytest.approx(second, rel=0.02)
        assert abs(first - 1) > 1e-3


def test_of_more_dates_than_are_taken_each_is_shown_at_some_time(root: Path) -> None:
    def levels(augment: AugmentSettings) -> Iterator[tuple[int, ...]]:
        base = batches(root, 1, STORED).rs[3].float().mean()
        for seed in range(12):
            shown = batches(root, 2, augment, seed=seed)
            assert shown.has_date[3].all()
            yield tuple(((shown.rs[3].float().mean((1, 2, 3)) - base) / STEP).round().int().tolist())

    drawn = set(levels(AugmentSettings(flip=0.0, jitter=0.0)))
    assert {date for pair in drawn for date in pair} == {0, 1, 2, 3}
    assert all(a < b for a, b in drawn)
    assert set(levels(STORED)) == {(0, 1)}


def test_a_model_of_one_date_gets_images_without_that_axis(root: Path) -> None:
    batch = batches(root, 1, STORED)
    assert batch.rs.shape == (12, 3, 32, 32)
    assert torch.equal(batch.has_date[:, 0], batch.has_rs)

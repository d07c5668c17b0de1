"""That the stream calls its rules, and with what they need: each is tested elsewhere, its use here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from schemas.errors import DatasetError
from schemas.sample import JSON, OSM_TOKENS
from storage.dataset import sample_rows
from storage.store import Store
from tests.trainers.stream.indexes import make_index
from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import TileBatch, View
from trainers.stream.catalog.index import load_index
from trainers.stream.order import Order, slot_seeds
from trainers.stream.sample import Decoder
from trainers.stream.schedule import Request, Schedule
from trainers.stream.stream import GeoStream

VIEW = View(image_size=32, osm=("objects",), tag_width=8, photos=1, photo_size=16)


def epoch(root: object, number: int = 0, **options: object) -> list[TileBatch]:
    return list(GeoStream(root, VIEW, batch_size=8, epoch=number, **options))  # type: ignore[arg-type]


def by_key(batches: list[TileBatch], name: str) -> dict[str, torch.Tensor]:
    return {k: v for b in batches for k, v in zip(b.key, getattr(b, name), strict=True) if k}


@pytest.mark.parametrize("mixed", [False, True])
def test_slots_of_another_epoch_or_run_have_other_seeds(mixed: bool) -> None:
    indexes = [make_index(16, name) for name in "ab"]
    first, again, *others = (
        schedule.choose(request).seed.tolist()
        for seed, request in ((0, Request(0, 0, 0)), (0, Request(0, 0, 0)), (0, later(mixed)), (1, Request(0, 0, 0)))
        for schedule in [Schedule(indexes, [1, 1] if mixed else None, Order(), seed=seed, batch_size=32, parts=1)]
    )
    assert first == again
    assert all(not set(first) & set(other) for other in others)
    assert len(set(first)) == 32


def later(mixed: bool) -> Request:
    """A batch of samples that have been seen before."""
    return Request(0, 32, 0) if mixed else Request(1, 0, 0)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_run_of_another_seed_reads_in_another_order(mixed: bool) -> None:
    """Of one dataset and of each of a mixture, from epoch to epoch as from run to run."""
    indexes = [make_index(16, name) for name in "ab"]
    orders = set()
    for seed in (0, 1):
        schedule = Schedule(indexes, [1, 1] if mixed else None, Order(), seed=seed, batch_size=32, parts=1)
        for request in (Request(0, 0, 0), later(mixed)):
            chosen = schedule.choose(request)
            for i in (0, 1):
                assert sorted(chosen.sample[chosen.source == i].tolist()) == list(range(16))
            orders |= {tuple(chosen.sample[chosen.source == i].tolist()) for i in (0, 1)}
    assert len(orders) == 8


def test_a_sample_is_cropped_and_shown_in_another_way_in_another_epoch(dataset: Path) -> None:
    augment = AugmentSettings(crop=1.0)
    windows = [by_key(epoch(dataset, n, augment=augment), "window") for n in (0, 1)]
    assert len({tuple(w.tolist()) for w in windows[0].values()}) > 40
    cropped = [k for k, w in windows[0].items() if tuple(w.tolist()) != (0, 0, 1, 1)]  # else no object would be left
    assert len(cropped) > 40
    assert not any(torch.equal(windows[0][k], windows[1][k]) for k in cropped)


@pytest.mark.parametrize("draw", ["flip", "flip_vertical", "rotate", "jitter", "drop_objects", "photo_flip"])
def test_each_slot_draws_for_itself_and_anew_in_each_epoch(dataset: Path, draw: str) -> None:
    off = dict.fromkeys(("crop", "flip", "flip_vertical", "rotate", "jitter", "drop_objects", "photo_flip"), 0.0)
    augment = AugmentSettings(**off | {draw: 0.05 if draw == "drop_objects" else 0.5})
    view = replace(VIEW, photos=2)  # all that there are: none is chosen
    first, second = (
        {k: v for b in GeoStream(dataset, view, batch_size=8, epoch=n, augment=augment) for k, v in shown(b).items()}
        for n in (0, 1)
    )
    differ = sum(any(not torch.equal(a, b) for a, b in zip(first[k], second[k], strict=True)) for k in first)
    assert 10 < differ < 50


def shown(batch: TileBatch) -> dict[str, tuple[torch.Tensor, ...]]:
    """Image, places of the objects, and photos of each sample."""
    photos = [batch.photos[(batch.photo_sample == i) & batch.photo_valid] for i in range(len(batch))]
    own = nodes(batch)
    return {k: (batch.rs[i], own[k], photos[i]) for i, k in enumerate(batch.key) if k}


def test_places_within_polygons_are_drawn_anew_for_each_crop(dataset: Path) -> None:
    same = AugmentSettings(crop=1.0, crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0)  # one window in every slot
    first, second = (
        {k: v.tolist() for b in epoch(dataset, n, augment=same) for k, v in nodes(b).items()} for n in (0, 1)
    )
    assert sum(first[k] != second[k] for k in first) > 20


def nodes(batch: TileBatch) -> dict[str, torch.Tensor]:
    """Places of the objects of each sample."""
    own = [batch.anchors[(batch.node_sample == i) & batch.node_valid] for i in range(len(batch))]
    return {k: torch.nan_to_num(a) for k, a in zip(batch.key, own, strict=True) if k}


def test_samples_of_one_batch_keep_their_own_ground(tmp_path: Path) -> None:
    """Two zooms in one batch: each slot has its own size of a pixel, place and bounds."""
    small = SyntheticSettings(samples=6, size=32, photos=0, objects=2)
    roots = [write_dataset(tmp_path / str(z), replace(small, zoom=z, seed=z)) for z in (16, 18)]
    rows = {r["key"]: r for root in roots for r in sample_rows(Store(str(root)))}
    (batch,) = GeoStream(roots, VIEW, batch_size=12)
    assert len({round(r["gsd_x"]) for r in rows.values()}) > 1
    for i, key in enumerate(batch.key):
        row = rows[key]
        np.testing.assert_array_equal(batch.gsd[i], np.float32([row["gsd_x"], row["gsd_y"]]))
        assert batch.lonlat[i].tolist() == [row["lon"], row["lat"]]
        assert batch.bbox[i].tolist() == [row["bbox"][side] for side in ("xmin", "ymin", "xmax", "ymax")]


@pytest.mark.parametrize(
    "select",
    ["split <> 'train'", "split = 'buffer' OR split = 'val'", "split IN ('val', 'test', 'buffer')", "n_rs > 0"],
)
def test_no_condition_reaches_a_buffered_sample(split_dataset: Path, select: str) -> None:
    if "OR" in select or "IN" in select:
        pytest.importorskip("duckdb")
    buffered = {r["key"] for r in sample_rows(Store(str(split_dataset))) if r["split"] == "buffer"}
    assert len(buffered) == 6
    keys = set(load_index(str(split_dataset), select).keys())
    assert keys
    assert not keys & buffered


@pytest.mark.parametrize("select", ["rs_time <> '2020'", "rs_time = '2020'", "NOT rs_time = '2020'", "rs_time < '3'"])
def test_what_is_unknown_meets_no_condition(dataset: Path, tmp_path: Path, select: str) -> None:
    import shutil

    pytest.importorskip("duckdb")
    root = tmp_path / "d"
    shutil.copytree(dataset, root)
    file = root / "catalog/samples/part-00000.parquet"
    table = pq.read_table(file)
    times = ["2020", "2021", None] * 17 + ["2020", None]
    pq.write_table(table.set_column(table.column_names.index("rs_time"), "rs_time", [times]), file)
    held = dict(zip(table["key"].to_pylist(), times, strict=True))
    right = {
        "rs_time <> '2020'": {"2021"}, "rs_time = '2020'": {"2020"}, "NOT rs_time = '2020'": {"2021"},
        "rs_time < '3'": {"2020", "2021"},
    }[select]  # fmt: skip
    keys = load_index(str(root), select).keys()
    assert {held[k] for k in keys} == right
    assert len(keys) == sum(t in right for t in times)


def test_a_batch_is_augmented_as_its_settings_say(dataset: Path) -> None:
    still, mirrored = (epoch(dataset, augment=AugmentSettings(flip=f, jitter=0)) for f in (0, 1))
    for a, b in zip(still, mirrored, strict=True):
        assert torch.equal(a.rs.flip(-1), b.rs)
        torch.testing.assert_close(1 - a.photo_xy[a.photo_valid][:, 0], b.photo_xy[b.photo_valid][:, 0])


def test_photos_lie_in_the_window_that_is_shown(dataset: Path) -> None:
    seen = 0
    whole = {p[2:]: p[:2] for b in epoch(dataset, augment=AugmentSettings(enabled=False)) for p in photos(b)}
    for batch in epoch(dataset, augment=AugmentSettings(crop=1.0, flip=0)):
        for slot, place in zip(batch.photo_sample[batch.photo_valid].tolist(), photos(batch), strict=True):
            left, top, right, bottom = batch.window[slot].tolist()
            x, y = place[:2]
            assert 0 <= x < 1
            assert 0 <= y < 1
            if place[2:] in whole:
                first = whole[place[2:]]
                assert first == pytest.approx((left + x * (right - left), top + y * (bottom - top)), abs=1e-5)
                seen += right - left < 1
    assert seen > 5


def photos(batch: TileBatch) -> list[tuple[float, ...]]:
    """x, y, lon, lat of each photo."""
    held = (batch.photo_xy[batch.photo_valid], batch.photo_lonlat[batch.photo_valid])
    return [(*a, *b) for a, b in zip(*(t.tolist() for t in held), strict=True)]


def test_of_several_photos_and_dates_each_is_shown_at_some_time(dataset: Path) -> None:
    shown = [{p[2:] for b in epoch(dataset, n) for p in photos(b)} for n in range(4)]
    plain = AugmentSettings(enabled=False)
    still = [{p[2:] for b in epoch(dataset, n, augment=plain) for p in photos(b)} for n in (0, 1)]
    assert still[0] == still[1]
    assert len(set.union(*shown)) > len(shown[0])
    dates, seeds = ("json", "rs.0.npy", "rs.1.npy"), slot_seeds(3, np.arange(20))
    drawn = {Decoder(VIEW, AugmentSettings()).wanted(dates, seed, False)[0] for seed in seeds}
    assert drawn == {"rs.0.npy", "rs.1.npy"}
    assert {Decoder(VIEW, plain).wanted(dates, s, False) for s in seeds} == {("rs.0.npy", OSM_TOKENS, JSON)}
    every = Decoder(VIEW, plain).wanted(dates, None, False)  # a block is fetched for whichever slot
    assert every == ("rs.0.npy", "rs.1.npy", OSM_TOKENS, JSON)


def test_a_state_of_other_features_of_tags_is_refused(dataset: Path) -> None:
    narrow, wide = (GeoStream(dataset, replace(VIEW, tag_width=w), batch_size=8) for w in (8, 16))
    with pytest.raises(DatasetError, match="tags was"):
        wide.load_state_dict(narrow.state_dict())


def test_parts_of_a_tail_weigh_as_much_as_they_hold() -> None:
    schedule = Schedule([make_index(11)], None, Order(), seed=0, batch_size=8, parts=4)
    parts = [schedule.choose(Request(0, 8, part)) for part in range(4)]
    assert [(int((p.sample >= 0).sum()), p.weight) for p in parts] == [(1, 4 / 3), (1, 4 / 3), (1, 4 / 3), (0, 0.0)]

"""Promises of the index, its cache, the neighbours in a batch, and the ways in: options, limits, webdataset."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from schemas.errors import ConfigError, CorruptSampleError, DatasetError
from schemas.tokens import OsmTokens
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import TileBatch, View
from trainers.stream.datasets import Datasets, parse_datasets
from trainers.stream.decode import decode_rgb, resize
from trainers.stream.flat import Mapped
from trainers.stream.index import Index, load_index
from trainers.stream.neighbours import neighbour_rate, same_block_rate
from trainers.stream.order import Order
from trainers.stream.read import ShardReader
from trainers.stream.schedule import Request, Schedule
from trainers.stream.stream import GeoStream, StreamSettings
from trainers.stream.tokens import parse_tokens
from trainers.stream.wds import wds_pipeline

from .indexes import make_index

VIEW = View(image_size=32, osm=True, tag_width=8, photos=2, photo_size=16)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path / "cache"))


def alike(a: Index, b: Index) -> None:
    assert (a.shard_names, a.layouts, a.selection_hash, a.digests) == (
        b.shard_names, b.layouts, b.selection_hash, b.digests
    )  # fmt: skip
    for name, array in a.arrays.items():
        assert array.dtype == b.arrays[name].dtype
        np.testing.assert_array_equal(array, b.arrays[name])


@pytest.mark.parametrize(("select", "limit"), [("", None), ("n_polygon > 2", None), ("", 7)])
def test_a_cached_index_is_the_index(split_dataset: Path, dataset: Path, select: str, limit: int | None) -> None:
    for root in (dataset, split_dataset):
        held = load_index(str(root), select, limit=limit)
        first, again = (load_index(str(root), select, limit=limit, cached_from=0) for _ in range(2))
        assert isinstance(again.arrays, Mapped)
        assert not held.folder
        alike(held, first)
        alike(held, again)
        alike(held, pickle.loads(pickle.dumps(again)))
        assert len(pickle.dumps(again)) < 8000  # a loader process maps the arrays again
        again.arrays.release()
        alike(held, again)


def test_a_catalog_that_changed_is_read_again(dataset: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    before = load_index(str(other), cached_from=0)
    file = next((other / "catalog" / "samples").iterdir())
    shutil.copy(file, file.with_name("part-00001.parquet"))
    assert len(load_index(str(other), cached_from=0)) == 2 * len(before)


def test_processes_that_start_together_build_one_index(dataset: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.path[0] = sys.argv[1]\nfrom trainers.stream.index import load_index\n"
        "i = load_index(sys.argv[2], cached_from=0)\nprint(i.selection_hash)"
    )
    words = [sys.executable, "-c", script, str(Path(__file__).resolve().parents[2]), str(dataset)]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {p.communicate(timeout=100)[0].strip() for p in running}
    assert said == {load_index(str(dataset)).selection_hash}
    assert len([p for p in (tmp_path / "cache" / "index").iterdir() if p.is_dir()]) == 1


def test_a_damaged_cache_says_what_to_delete(dataset: Path) -> None:
    folder = Path(load_index(str(dataset), cached_from=0).folder)
    (folder / "shard.npy").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=rf"{folder}.* delete it"):
        load_index(str(dataset), cached_from=0)


def test_a_cache_that_cannot_be_written_is_no_error(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path / "file"))
    assert len(load_index(str(dataset), cached_from=0)) == 53
    assert "the index is held in memory" in capsys.readouterr().err


def test_a_limit_is_a_fixed_part_of_the_selection(dataset: Path) -> None:
    whole = load_index(str(dataset)).keys()
    some = load_index(str(dataset), limit=10)
    assert some.keys() == [whole[i * 53 // 10] for i in range(10)]
    assert len(load_index(str(dataset), limit=999)) == 53
    with pytest.raises(ConfigError, match="limit=0"):
        load_index(str(dataset), limit=0)
    assert len(GeoStream(dataset, VIEW, batch_size=4, limit=10)) == 3


@pytest.mark.parametrize("order", ["block", "spread", "near"])
def test_orders_of_a_cached_index_are_those_of_one_in_memory(dataset: Path, order: str) -> None:
    how = Order(shuffle=order, block=5, window=2, near=2)  # type: ignore[arg-type]
    held = Schedule([load_index(str(dataset))], None, how, seed=0, batch_size=8, parts=1)
    mapped = Schedule([load_index(str(dataset), cached_from=0)], None, how, seed=0, batch_size=8, parts=1)
    again = pickle.loads(pickle.dumps(mapped))
    for start in (0, 8, 48):
        expected = held.choose(Request(1, start, 0)).sample
        assert np.array_equal(expected, mapped.choose(Request(1, start, 0)).sample)
        assert np.array_equal(expected, again.choose(Request(1, start, 0)).sample)


def centres(order: Order, size: int = 32) -> np.ndarray:
    index = make_index(4096, block=3.0)
    schedule = Schedule([index], None, order, seed=5, batch_size=size, parts=1)
    chosen = [schedule.choose(Request(0, start, 0)).sample for start in range(0, 4096, size)]
    return index.arrays["lonlat"][np.array(chosen)]


def test_spread_keeps_neighbours_apart_and_near_packs_them() -> None:
    spread, whole, near = (centres(Order(shuffle=s, near=4)) for s in ("spread", "global", "near"))  # type: ignore[arg-type]
    rates = [neighbour_rate(c, 10.0) for c in (spread, whole, near)]
    assert rates[0] < 0.5 * rates[1] < 0.25 * rates[2]
    blocks = [same_block_rate(c, 0.1) for c in (spread, whole, near)]
    assert blocks[0] < blocks[1] < blocks[2]


def test_rates_count_pairs_as_a_loop_does() -> None:
    rng = np.random.default_rng(0)
    lonlat = rng.uniform(-0.05, 0.05, (3, 12, 2)) + np.array([9.0, 47.0])
    lonlat[0, 3] = np.nan  # a masked slot
    near = same = pairs = 0
    for batch in lonlat:
        held = [p for p in batch if np.isfinite(p).all()]
        for i, (lon, lat) in enumerate(held):
            for other, height in held[:i]:
                a, b, d = *np.radians([lat, height]), np.radians(lon - other)
                half = np.sin((a - b) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(d / 2) ** 2  # haversine
                near += 2 * 6371.0088 * np.arcsin(np.sqrt(half)) <= 4.0
                width = 360 / round(360 / 0.1 * np.cos(np.radians((np.floor(lat / 0.1) + 0.5) * 0.1)))
                same += lat // 0.1 == height // 0.1 and lon // width == other // width
                pairs += 1
    assert neighbour_rate(lonlat, 4.0) == pytest.approx(near / pairs)
    assert same_block_rate(lonlat, 0.1) == pytest.approx(same / pairs)
    assert neighbour_rate(np.full((1, 1, 2), 0.0), 1.0) == 0.0


def test_near_needs_batches_of_whole_runs(dataset: Path) -> None:
    with pytest.raises(ConfigError, match=r"multiple of stream.near=4"):
        GeoStream(dataset, VIEW, batch_size=6, shuffle="near")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a/", Datasets(("a",))),
        ("a,s3://b/c", Datasets(("a", "s3://b/c"))),
        ("http://host:8080", Datasets(("http://host:8080",))),
        ("http://host:8080,b", Datasets(("http://host:8080", "b"))),
        ("s3://b/c:0.7,d:.3", Datasets(("s3://b/c", "d"), (0.7, 0.3))),
        ({"a": 2, "b": 1}, Datasets(("a", "b"), (2.0, 1.0))),
        ([Path("a"), "b"], Datasets(("a", "b"))),
    ],
)
def test_datasets_are_named_in_many_ways(given: object, expected: Datasets) -> None:
    assert parse_datasets(given) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a:1,b", "b has no weight"),
        ("a,a", "names a twice"),
        ({"a": 0.0, "b": 1}, "must be positive"),
        ("a,", "no data"),
    ],
)
def test_datasets_that_make_no_sense_are_refused(given: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_datasets(given)  # type: ignore[arg-type]


def test_options_are_settings_by_name(dataset: Path) -> None:
    stream = GeoStream(dataset, batch_size=8, select="n_streetview > 0", num_workers=0, seed=3, epoch=2)
    assert stream.settings == StreamSettings(select="n_streetview > 0", workers=0)
    assert stream.samples == 46
    assert stream.samples_seen == 92
    with pytest.raises(ConfigError, match="unknown setting suffle; did you mean shuffle"):
        GeoStream(dataset, batch_size=8, suffle="none")


def test_a_data_loader_takes_it_whole(dataset: Path) -> None:
    stream = GeoStream(dataset, VIEW, batch_size=8)
    loader = torch.utils.data.DataLoader(stream, batch_size=None)
    assert sum(b.samples for b in loader) == 53
    wrong = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=1)
    with pytest.raises(ConfigError, match="its own loader processes"):
        next(iter(wrong))


def test_a_batch_moves_as_one_buffer(dataset: Path) -> None:
    batch = next(iter(GeoStream(dataset, VIEW, batch_size=8)))
    tensors = [getattr(batch, f.name) for f in fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)]
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == 1
    assert all(t.data_ptr() % 64 == 0 for t in tensors if t.numel())
    for other in (batch.to("cpu"), pickle.loads(pickle.dumps(batch))):
        assert isinstance(other, TileBatch)
        for f in fields(batch):
            a, b = getattr(batch, f.name), getattr(other, f.name)
            assert torch.equal(a.nan_to_num(), b.nan_to_num()) if isinstance(a, torch.Tensor) else a == b
    assert batch.to("meta").rs.shape == batch.rs.shape


def test_token_buffers_of_a_batch_pass_as_each_alone(dataset: Path) -> None:
    index = load_index(str(dataset))
    reader = ShardReader(index)
    good = [bytes(reader.one(i, ["osm.safetensors"])["osm.safetensors"]) for i in range(12)]
    rng = np.random.default_rng(0)
    for trial in range(60):
        buffers = list(good)
        for _ in range(int(rng.integers(0, 3))):
            k = int(rng.integers(0, 12))
            data = bytearray(buffers[k])
            for _ in range(int(rng.integers(1, 4))):
                data[int(rng.integers(0, len(data)))] = int(rng.integers(0, 256))
            buffers[k] = bytes(data[: int(rng.integers(1, len(data)))] if trial % 5 == 0 else data)
        for data, found in zip(buffers, parse_tokens(buffers), strict=True):
            if isinstance(found, CorruptSampleError):
                with pytest.raises(CorruptSampleError, match=re.escape(str(found))):
                    OsmTokens.from_bytes(data)
                continue
            alone = OsmTokens.from_bytes(data)
            for f in fields(alone):
                a, b = getattr(alone, f.name), getattr(found, f.name)
                assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def test_tokens_are_views_of_what_was_read(dataset: Path) -> None:
    buffer = ShardReader(load_index(str(dataset))).one(0, ["osm.safetensors"])["osm.safetensors"]
    tokens = parse_tokens([buffer])[0]
    assert isinstance(tokens, OsmTokens)
    whole = np.frombuffer(buffer, np.uint8)
    assert all(np.shares_memory(getattr(tokens, f.name), whole) for f in fields(tokens) if getattr(tokens, f.name).size)


def test_the_webdataset_pipeline_decodes_the_same(dataset: Path, split_dataset: Path) -> None:
    pytest.importorskip("webdataset")
    for root in (dataset, split_dataset):
        plain = StreamSettings(augment=AugmentSettings(enabled=False))
        stream = GeoStream(root, VIEW, batch_size=1, settings=plain)
        own = {b.key[0]: b for b in stream}
        seen = 0
        for batch in wds_pipeline(root, VIEW, batch_size=1, tags=stream.tags):
            other = own[batch.key[0]]
            seen += 1
            for f in fields(batch):
                a, b = getattr(batch, f.name), getattr(other, f.name)
                if f.name not in ("seed", "weight") and isinstance(a, torch.Tensor):
                    torch.testing.assert_close(a, b, equal_nan=True, rtol=0, atol=1e-12)
        assert seen == len(own)
    assert [len(b) for b in wds_pipeline(dataset, VIEW, batch_size=20)] == [20, 20, 13]
    with pytest.raises(ConfigError, match="GeoStream reads URLs"):
        wds_pipeline("s3://bucket/d", VIEW, batch_size=1)
    with pytest.raises(DatasetError, match="no shard"):
        wds_pipeline(dataset / "catalog", VIEW, batch_size=1)


def test_a_state_is_plain_json_and_small(dataset: Path) -> None:
    state = GeoStream(dataset, VIEW, batch_size=8).state_dict()
    assert json.loads(json.dumps(state)) == state


@pytest.mark.parametrize("side", [256, 255])
def test_a_jpeg_much_larger_than_needed_is_decoded_smaller_where_places_stay(side: int) -> None:
    y, x = np.mgrid[0:side, 0:side] / side
    pixels = (np.stack((x, y, 1 - x), -1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    small = decode_rgb(buffer.getvalue(), "rs.jpg", 100, exact=True)
    assert small.shape == ((3, 128, 128) if side == 256 else (3, 255, 255))
    window = (0.2, 0.3, 0.9, 0.8)
    shown = resize(small, 32, window).astype(int)
    whole = resize(decode_rgb(buffer.getvalue(), "rs.jpg"), 32, window).astype(int)
    assert np.abs(shown - whole).max() <= 3

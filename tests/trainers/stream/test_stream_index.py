"""Promises of the index, its cache, the neighbours in a batch, and the ways in: options, limits, webdataset."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from schemas.errors import ConfigError, CorruptSampleError, DatasetError
from schemas.index import IndexPart, index_file, key_hashes
from schemas.tokens import GRANULARITIES, OsmTokens
from tests.trainers.stream.indexes import make_index, members_of, shard_of
from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import TileBatch, View
from trainers.stream.catalog.flat import KeptColumn
from trainers.stream.catalog.index import Index, load_index
from trainers.stream.datasets import Datasets, parse_datasets
from trainers.stream.members.decode import decode_rgb, resize
from trainers.stream.members.read import ShardReader
from trainers.stream.neighbours import neighbour_rate, same_block_rate
from trainers.stream.order import Order, Shuffle
from trainers.stream.schedule import Request, Schedule
from trainers.stream.stream import GeoStream, StreamSettings
from trainers.stream.wds import wds_pipeline

VIEW = View(image_size=32, osm=GRANULARITIES, tag_width=8, photos=2, photo_size=16)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path / "cache"))


def alike(a: Index, b: Index) -> None:
    assert (a.parts.shard_names, a.parts.layouts, a.selection_hash, a.digests, a.keys()) == (
        b.parts.shard_names, b.parts.layouts, b.selection_hash, b.digests, b.keys()
    )  # fmt: skip
    for name in ("shard", "lonlat", "bbox", "gsd"):
        np.testing.assert_array_equal(a.column(name), b.column(name))
    assert a.entries(np.arange(len(a))) == b.entries(np.arange(len(b)))


@pytest.mark.parametrize(("select", "limit"), [("", None), ("n_polygon > 2", None), ("", 7)])
def test_a_cached_index_is_the_index(split_dataset: Path, dataset: Path, select: str, limit: int | None) -> None:
    for root in (dataset, split_dataset):
        held = load_index(str(root), select, limit=limit)
        first, again = (load_index(str(root), select, limit=limit, cached_from=0) for _ in range(2))
        assert isinstance(again.held, KeptColumn)
        assert not isinstance(held.held, KeptColumn)
        alike(held, first)
        alike(held, again)
        alike(held, pickle.loads(pickle.dumps(again)))
        assert len(pickle.dumps(again)) < 8000  # a loader process maps the arrays again
        again.release()
        alike(held, again)


def cut(dataset: Path, root: Path, pieces: int) -> Path:
    """A copy of the dataset whose catalog lies in several files, as that of many shards does."""
    shutil.copytree(dataset, root)
    table = pq.read_table(root / "catalog/samples/part-00000.parquet")
    shards = np.array(sorted(set(table["shard"].to_pylist())))
    for number, names in enumerate(np.array_split(shards, pieces)):
        part = table.filter(pc.is_in(table["shard"], pa.array(names)))
        pq.write_table(part, root / f"catalog/samples/part-{number:05d}.parquet")
        (root / index_file(number)).write_bytes(IndexPart.of(part).to_bytes())
    return root


@pytest.mark.parametrize("select", ["", "n_polygon > 2"])
def test_a_catalog_of_several_files_is_one_index(dataset: Path, tmp_path: Path, select: str) -> None:
    whole, parted = (load_index(str(r), select) for r in (dataset, cut(dataset, tmp_path / "cut", 2)))
    assert len(parted.parts.starts) == 3
    for name in ("keys", "rows"):
        np.testing.assert_array_equal(getattr(whole, name)(), getattr(parted, name)())
    some = np.random.default_rng(0).permutation(len(whole))[:20]
    rows = parted.rows(some)
    assert parted.parts.key_column(rows).to_pylist() == parted.parts.keys(rows)
    for name in ("shard", "lonlat", "bbox", "gsd"):
        np.testing.assert_array_equal(whole.column(name, some), parted.column(name, some))
    a, b = whole.entries(some), parted.entries(some)
    assert (a.key, a.shard) == (b.key, b.shard)
    for i in range(len(some)):
        names = [index.parts.layouts[e.layout[i]] for index, e in ((whole, a), (parted, b))]
        assert names[0] == names[1] == whole.names(int(some[i])) == parted.names(int(some[i]))
        places = [(e.start[e.first[i] + k], e.size[e.first[i] + k]) for e in (a, b) for k in range(len(names[0]))]
        assert places[: len(names[0])] == places[len(names[0]) :]
    parted = pickle.loads(pickle.dumps(parted))
    here, there = (ShardReader(index).read(some) for index in (whole, parted))
    assert [dict(m) for m in here] == [dict(m) for m in there]  # type: ignore[call-overload]


def test_the_index_has_what_the_catalog_has(dataset: Path) -> None:
    index = load_index(str(dataset))
    rows = pq.read_table(dataset / "catalog/samples/part-00000.parquet").to_pylist()
    assert sorted(index.keys()) == sorted(r["key"] for r in rows)
    for sample in range(len(index)):
        row = rows[index.rows()[sample]]
        assert (row["key"], row["shard"]) == (index.key(sample), shard_of(index, sample))
        assert {m["name"]: (m["offset"], m["size"]) for m in row["members"]} == members_of(index, sample)
        assert [m["name"] for m in row["members"]] == list(index.names(sample))
        at = np.array([sample])
        assert index.column("lonlat", at)[0].tolist() == [row["lon"], row["lat"]]
        assert index.column("gsd", at)[0].tolist() == [row["gsd_x"], row["gsd_y"]]
        assert index.column("bbox", at)[0].tolist() == [row["bbox"][s] for s in ("xmin", "ymin", "xmax", "ymax")]


def test_a_catalog_that_changed_is_read_again(dataset: Path, tmp_path: Path) -> None:
    other = cut(dataset, tmp_path / "other", 2)
    before = load_index(str(other), cached_from=0)
    (other / index_file(1)).unlink()
    assert 0 < len(load_index(str(other), cached_from=0)) < len(before)


def test_a_key_held_twice_is_refused_by_its_shards(dataset: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    shutil.copy(other / index_file(0), other / index_file(1))
    with pytest.raises(DatasetError, match=r"holds the sample \S+ twice, in part-\d+.tar and part-\d+.tar"):
        load_index(str(other))


def test_keys_of_one_hash_are_in_order_of_keys(dataset: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    held = IndexPart.from_buffer((other / index_file(0)).read_bytes(), "")
    held.arrays["key_hash"] = held.arrays["key_hash"] % np.uint64(3)
    (other / index_file(0)).write_bytes(held.to_bytes())
    groups: dict[int, list[str]] = {}
    keys = load_index(str(other)).keys()
    for key in keys:
        groups.setdefault(int(key_hashes([key])[0] % np.uint64(3)), []).append(key)
    assert sorted(groups) == list(groups) == [0, 1, 2]
    assert all(own == sorted(own) for own in groups.values())


def test_samples_and_index_of_different_builds_are_refused(dataset: Path, tmp_path: Path) -> None:
    other = cut(dataset, tmp_path / "other", 2)
    file = other / "catalog/samples/part-00001.parquet"
    rows = pq.read_table(file)
    for changed in (rows.slice(1), rows.take(np.arange(rows.num_rows)[::-1])):
        pq.write_table(changed, file)
        with pytest.raises(DatasetError, match=r"has other rows than .*index; build the dataset again"):
            load_index(str(other), "n_polygon > 2")


@pytest.mark.parametrize("harm", ["cut", "empty", "zeros", "header", "length"])
def test_a_damaged_index_is_named(dataset: Path, tmp_path: Path, harm: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    file = other / index_file(0)
    data = file.read_bytes()
    changed = {
        "cut": data[: len(data) // 2], "empty": b"", "zeros": b"\0" * 8, "header": data[:8] + b"[" + data[9:],
        "length": data.replace(b'"lonlat":{"dtype":"F64"', b'"lonlat":{"dtype":"F32"'),
    }  # fmt: skip
    assert changed[harm] != data
    file.write_bytes(changed[harm])
    with pytest.raises(DatasetError, match=r"part-00000.safetensors .*build the dataset again"):
        load_index(str(other))


def read_all(root: Path, order: Order, cached_from: int) -> list[object]:
    """All that the stream takes from the index, in the order of an epoch."""
    index = load_index(str(root), "n_polygon > 0", cached_from=cached_from)
    schedule = Schedule([index], None, order, seed=1, batch_size=8, parts=1)
    samples = np.concatenate([schedule.choose(Request(0, start, 0)).sample for start in range(0, len(index), 8)])
    samples = samples[samples >= 0]
    columns = [index.column(n, samples).tolist() for n in ("lonlat", "bbox", "gsd", "sha256")]
    names = [index.names(s) for s in samples.tolist()]
    shown = [index.parts.keys(index.rows(samples)), index.entries(samples), index.parts.shard_names]
    return [names, shown, columns, index.selection_hash, index.split_hash, index.digests, schedule.pools[0].key(0, 0)]


def flips(size: int, count: int, seed: int) -> list[int]:
    """Bits of a file of ``size`` bytes to flip, half of them among its first thousand bytes."""
    rng = np.random.default_rng(seed)
    return [*rng.integers(0, 8 * size, count).tolist(), *rng.integers(0, 8 * min(size, 1000), count).tolist()]


def flip(file: Path, bit: int) -> None:
    """Where it lies: its time, by which the cache knows it, and its number stay."""
    facts = file.stat()
    with file.open("r+b") as held:
        held.seek(bit // 8)
        value = held.read(1)[0] ^ 1 << bit % 8
        held.seek(bit // 8)
        held.write(bytes([value]))
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.parametrize("shuffle", ["global", "none", "block", "spread"])
def test_a_flipped_bit_of_the_index_or_of_the_cache_is_an_error_and_never_another_order(
    dataset: Path, tmp_path: Path, shuffle: Shuffle
) -> None:
    order = Order(shuffle=shuffle, block=8, window=2)
    root = cut(dataset, tmp_path / "cut", 2)
    right = read_all(root, order, 0)
    kept = sorted((tmp_path / "cache" / "index").iterdir())
    assert len(kept) == 1 + (shuffle != "global")
    said: list[tuple[Path, str]] = []
    for file in (root / index_file(0), root / index_file(1), *kept):
        for bit in flips(file.stat().st_size, 25, seed=len(str(shuffle))):
            flip(file, bit)
            try:
                assert read_all(root, order, 0) == right
            except DatasetError as error:
                said.append((file, str(error)))
            flip(file, bit)
    assert len(said) > 100  # those that nobody reads do not matter
    for file, text in said:
        assert file.name in text
        assert ("--repair" if file.is_relative_to(root) else "delete it") in text
        assert "\n" not in text
    assert read_all(root, order, 0) == right


def test_every_bit_of_an_index_that_is_read_counts(dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "d"
    shutil.copytree(dataset, root)
    file = root / index_file(0)
    for bit in flips(file.stat().st_size, 100, seed=9):
        flip(file, bit)
        with pytest.raises(DatasetError, match=r"part-00000.safetensors .*--repair"):
            IndexPart.from_buffer(file.read_bytes(), str(file)).whole()
        flip(file, bit)


def test_a_stream_names_the_damage_that_it_reads(dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "d"
    shutil.copytree(dataset, root)
    stream = GeoStream(root, VIEW, batch_size=8)
    file = root / index_file(0)
    flip(file, 8 * file.read_bytes().index(load_index(str(dataset)).column("bbox")[0].tobytes()))
    with pytest.raises(DatasetError, match=r"part-00000.safetensors is damaged: bbox is not .*--repair") as caught:
        list(stream)
    assert "\n" not in str(caught.value)


def test_processes_that_start_together_build_one_index(dataset: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.path[0] = sys.argv[1]\nfrom trainers.stream.catalog.index import load_index\n"
        "i = load_index(sys.argv[2], cached_from=0)\nprint(i.selection_hash)"
    )
    words = [sys.executable, "-c", script, str(Path(__file__).resolve().parents[3]), str(dataset)]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {p.communicate(timeout=100)[0].strip() for p in running}
    assert said == {load_index(str(dataset)).selection_hash}
    assert len(list((tmp_path / "cache" / "index").iterdir())) == 1


def test_a_damaged_cache_says_what_to_delete(dataset: Path) -> None:
    held = load_index(str(dataset), cached_from=0).held
    assert isinstance(held, KeptColumn)
    held.path.write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=rf"{held.path} is damaged .* delete it"):
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
    assert some.keys() == whole[:10]
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


def test_what_is_kept_of_one_choice_is_never_taken_for_another(tmp_path: Path) -> None:
    """One cache for selections, splits, limits, layouts and orders, each of which decides what is kept."""
    small = SyntheticSettings(samples=24, size=16, photos=0, objects=4, splits=("train", "train", "val"))
    roots = [write_dataset(tmp_path / f"{n}", replace(small, samples_per_shard=n)) for n in (5, 24)]
    rows = roots[1] / "catalog/samples/part-00000.parquet"
    dealt = pq.read_table(rows)[::-1]  # in one shard they lie the other way round
    pq.write_table(dealt, rows)
    (roots[1] / index_file(0)).write_bytes(IndexPart.of(dealt).to_bytes())
    shuffles: tuple[Shuffle, ...] = ("block", "spread", "none")
    found: set[tuple[str, ...]] = set()
    for root in map(str, roots):
        for choice in (("", "train", None), ("", "val", None), ("", "train", 7), ("n_polygon > 0", "train", 7)):
            for order in (Order(shuffle=shuffle, block=3, window=2, strata=4) for shuffle in shuffles):
                walked = []
                for cached_from in (1 << 30, 0):
                    index = load_index(root, *choice, cached_from=cached_from)
                    schedule = Schedule([index], None, order, seed=0, batch_size=len(index), parts=1)
                    walked.append(tuple(map(index.key, schedule.choose(Request(0, 0, 0)).sample.tolist())))
                assert walked[0] == walked[1], (root, choice, order.shuffle)
                found.add(walked[0])
    assert len(found) == 2 * 4 + 4 * 2  # a layout changes the order along the shards alone


def test_a_remote_index_that_was_written_again_is_fetched_again(dataset: Path) -> None:
    """Hashes of the dataset and sizes of its files are the same: a split has changed."""
    memory = fsspec.filesystem("memory")
    memory.put(str(dataset), "/again", recursive=True)
    try:
        before = load_index("memory://again", cached_from=0)
        table = pq.read_table(dataset / "catalog/samples/part-00000.parquet")
        moved = table.set_column(table.column_names.index("split"), "split", pa.array(["val"] * 3 + ["train"] * 50))
        memory.pipe_file(f"/again/{index_file(0)}", IndexPart.of(moved).to_bytes())
        after = load_index("memory://again", cached_from=0)
        assert (len(before), len(after)) == (53, 50)
        assert sorted({*before.keys()} - {*after.keys()}) == sorted(table["key"].to_pylist()[:3])
    finally:
        memory.rm("/again", recursive=True)


def centres(order: Order, size: int = 32) -> np.ndarray:
    index = make_index(4096, block=3.0)
    schedule = Schedule([index], None, order, seed=5, batch_size=size, parts=1)
    chosen = [schedule.choose(Request(0, start, 0)).sample for start in range(0, 4096, size)]
    return index.column("lonlat")[np.array(chosen)]


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
        for data, found in zip(buffers, OsmTokens.from_buffers(buffers), strict=True):
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
    tokens = OsmTokens.from_buffers([buffer])[0]
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

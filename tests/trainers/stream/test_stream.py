"""Promises of the stream: resume, ranks, workers, selection, corruption, augmentation."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import operator
import shutil
import tarfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from geometry.turn import Turn
from schemas.errors import ConfigError, CorruptSampleError, DatasetError
from schemas.index import IndexPart, index_file
from schemas.tokens import FIELDS, GRANULARITIES, Granularity, OsmTokens
from storage.dataset import read_catalog
from storage.store import Store
from tests.trainers.stream.indexes import members_of, shard_of
from trainers.stream.augment import AugmentSettings, Photo, TileSample, augment, turned
from trainers.stream.batch import TENSORS, TileBatch, View, bucket
from trainers.stream.catalog.index import load_index
from trainers.stream.members.decode import decode_npy, decode_rgb
from trainers.stream.members.read import ShardReader
from trainers.stream.order import Place, slot_seeds
from trainers.stream.stream import GeoStream, StreamSettings

VIEW = View(image_size=32, osm=GRANULARITIES, tag_width=16, photos=2, photo_size=16)


def stream(root: Path | str, **options: object) -> GeoStream:
    settings = options.pop("settings", StreamSettings())
    return GeoStream(str(root), VIEW, settings=settings, **({"batch_size": 8} | options))  # type: ignore[arg-type]


def equal(a: TileBatch, b: TileBatch) -> bool:
    def same(x: object, y: object) -> bool:
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
            return x.shape == y.shape and torch.equal(torch.nan_to_num(x), torch.nan_to_num(y))
        return x == y

    return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_an_epoch_holds_every_sample_once_and_a_masked_tail(dataset: Path) -> None:
    batches = list(stream(dataset))
    keys = [k for b in batches for k in b.key if k]
    assert len(keys) == len(set(keys)) == 53
    assert len(batches) == len(stream(dataset)) == 7
    assert batches[-1].valid.tolist() == [True] * 5 + [False] * 3
    assert not batches[-1].rs[5:].any()
    assert sum(b.weight for b in batches) == 7


@pytest.mark.parametrize("consumed", [1, 3, 9])
def test_resume_after_k_batches_is_byte_identical(dataset: Path, consumed: int) -> None:
    straight = list(stream(dataset).batches(steps=12))
    first = stream(dataset)
    for _ in zip(range(consumed), first.batches(), strict=False):
        pass
    state = json.loads(json.dumps(first.state_dict()))
    second = stream(dataset)
    second.load_state_dict(state)
    rest = list(second.batches(steps=12 - consumed))
    assert all(equal(a, b) for a, b in zip(straight[consumed:], rest, strict=True))


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_ranks_shares_the_same_global_batches(dataset: Path, world: int) -> None:
    alone = [b.key for b in stream(dataset)]
    ranks = [list(stream(dataset, place=Place(rank=r, world=world))) for r in range(world)]
    assert len({len(r) for r in ranks}) == 1
    for i, keys in enumerate(alone):
        joined = [""] * 8
        for r in range(world):
            joined[r::world] = ranks[r][i].key
        assert joined == keys


def test_accumulation_splits_a_batch_as_ranks_do(dataset: Path) -> None:
    split = list(stream(dataset, accumulate=2))
    ranks = [list(stream(dataset, place=Place(rank=r, world=2))) for r in range(2)]
    assert all(equal(split[2 * i + r], ranks[r][i]) for i in range(7) for r in range(2))


@pytest.mark.parametrize(("world", "micro"), [(2, 2), (2, 4), (4, 2)])
def test_ranks_that_accumulate_share_a_batch_as_one_that_does_so_alone(dataset: Path, world: int, micro: int) -> None:
    """Micro-batch m of rank r is number m * world + r of those of a process alone; a step is done with the last."""
    alone = list(stream(dataset, accumulate=world * micro).batches(steps=2))
    for rank in range(world):
        own = stream(dataset, accumulate=micro, place=Place(rank=rank, world=world))
        for number, batch in enumerate(own.batches(steps=2)):
            assert equal(batch, alone[number * world + rank])
            assert own.samples_seen == (number + 1) // micro * 8


def test_save_on_one_rank_resume_on_two(dataset: Path) -> None:
    first = stream(dataset)
    straight = [b.key for b in stream(dataset).batches(steps=9)]
    next(first.batches())
    joined = []
    for r in range(2):
        again = stream(dataset, place=Place(rank=r, world=2))
        again.load_state_dict(first.state_dict())
        joined.append([b.key for b in again.batches(steps=8)])
    for i in range(8):
        assert sorted(joined[0][i] + joined[1][i]) == sorted(straight[i + 1])


def test_loader_processes_do_not_change_a_byte(dataset: Path) -> None:
    alone = list(stream(dataset).batches(steps=9))
    processes = list(stream(dataset, place=Place(workers=2)).batches(steps=9))
    assert all(equal(a, b) for a, b in zip(alone, processes, strict=True))


def test_an_error_in_a_loader_process_reads_as_in_the_trainer(dataset: Path, tmp_path: Path) -> None:
    lacking = tmp_path / "lacking"
    shutil.copytree(dataset, lacking)
    shutil.rmtree(lacking / "shards")
    with pytest.raises(DatasetError, match=r"part-\d+.tar is missing") as caught:
        next(stream(lacking, place=Place(workers=1), tag_weight="paper").batches())
    assert "Traceback" not in str(caught.value)


def test_only_what_was_handed_out_is_consumed(dataset: Path) -> None:
    s = stream(dataset, accumulate=2)
    batches = s.batches()
    next(batches)
    assert s.samples_seen == 0  # half of a step
    next(batches)
    assert s.samples_seen == 8


def test_epochs_differ_and_set_epoch_does_not_replay(dataset: Path) -> None:
    s = stream(dataset)
    first = [b.key for b in s]
    assert (s.epoch, s.position) == (1, 0)
    second = [b.key for b in s]
    assert first != second
    assert sorted(functools.reduce(operator.iadd, first, [])) == sorted(functools.reduce(operator.iadd, second, []))
    s.set_epoch(0)
    next(iter(s))
    s.set_epoch(0)
    assert s.position == 8


@pytest.mark.parametrize("change", [{"seed": 1}, {"settings": StreamSettings(select="n_streetview > 0")}])
def test_a_state_of_another_order_is_refused_by_name(dataset: Path, change: dict[str, object]) -> None:
    with pytest.raises(DatasetError, match=r"seed was 0, is 1|selection_hash was"):
        stream(dataset, **change).load_state_dict(stream(dataset).state_dict())


def test_a_corrupt_sample_keeps_its_place_and_is_named(dataset: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(dataset, broken)
    index = load_index(str(dataset))
    victim = index.key(3)
    start, size = members_of(index, 3)["rs.jpg"]
    shard = broken / "shards" / shard_of(index, 3)
    data = bytearray(shard.read_bytes())
    data[start : start + size] = bytes(size)
    shard.write_bytes(data)
    good, bad = list(stream(dataset)), list(stream(broken))
    places = [(i, j) for i, b in enumerate(good) for j, k in enumerate(b.key) if k == victim]
    assert len(places) == 1
    (i, j), other = places[0], [b.key for b in bad]
    assert other[i][j] == ""
    assert not bad[i].valid[j]
    assert victim in bad[i].corrupt[0]
    other[i][j] = victim
    assert other == [b.key for b in good]
    assert sum(len(b.corrupt) for b in bad) == 1
    with pytest.raises(DatasetError, match="max_corrupt=0"):
        list(stream(broken, settings=StreamSettings(max_corrupt=0)))


def test_a_catalog_of_another_shard_is_noticed(dataset: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(dataset, mixed)
    shards = sorted((mixed / "shards").iterdir())
    shutil.copy(shards[0], shards[1])
    batch = next(iter(stream(mixed, batch_size=52)))
    assert any("stands where the catalog has" in message for message in batch.corrupt)


def test_a_missing_shard_stops_the_stream(dataset: Path, tmp_path: Path) -> None:
    lacking = tmp_path / "lacking"
    shutil.copytree(dataset, lacking)
    (lacking / "shards" / "part-0000001.tar").unlink()
    with pytest.raises(DatasetError, match=r"part-0000001.tar is missing"):
        list(stream(lacking))


def test_reads_by_offset_equal_the_tar(dataset: Path) -> None:
    index = load_index(str(dataset))
    reader = ShardReader(index)
    for sample in range(0, len(index), 7):
        with tarfile.open(dataset / "shards" / shard_of(index, sample)) as tar:
            for name in members_of(index, sample):
                member = tar.extractfile(f"{index.key(sample)}.{name}")
                assert member is not None
                assert reader.one(sample, [name])[name] == member.read()


def test_a_remote_dataset_reads_as_a_local_one(dataset: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(dataset), "/geoshards-test", recursive=True)
    try:
        alone, remote = list(stream(dataset)), list(stream("memory://geoshards-test"))
        assert all(equal(a, b) for a, b in zip(alone, remote, strict=True))
    finally:
        memory.rm("/geoshards-test", recursive=True)


def test_the_buffer_is_never_read(split_dataset: Path) -> None:
    sizes = {s: len(load_index(str(split_dataset), "", s)) for s in ("train", "val", "test")}
    assert sizes == {"train": 6, "val": 6, "test": 6}
    with pytest.raises(DatasetError, match="buffer 6"):
        load_index(str(split_dataset), "split = 'buffer'")


def test_an_empty_selection_says_what_to_do(split_dataset: Path, dataset: Path) -> None:
    with pytest.raises(DatasetError, match=r"loosen it with stream.select"):
        load_index(str(split_dataset), "n_streetview > 1000")
    with pytest.raises(DatasetError, match=r"held: train 53.*split.val=0"):
        load_index(str(dataset), "", "val")


@pytest.mark.parametrize(
    "select",
    [
        "n_streetview > 0",
        "n_polygon >= 3 AND n_line<2",
        "split = 'val'",
        "key <> 'x' and gsd_y < 2.5e0",
        "osm_time = 'x'",
    ],
)
def test_duckdb_and_pyarrow_select_the_same(split_dataset: Path, select: str) -> None:
    pytest.importorskip("duckdb")
    from trainers.stream.catalog.select import _duckdb, _simple

    table = read_catalog(Store(str(split_dataset)), "samples")
    table = table.drop_columns(["members", "geometry"])
    simple = _simple(table, select)
    assert simple is not None
    assert np.array_equal(simple, _duckdb(table, select))


def test_without_a_shuffle_samples_come_by_key(dataset: Path) -> None:
    read = [key for batch in stream(dataset, settings=StreamSettings(shuffle="none", workers=0)) for key in batch.key]
    assert [key for key in read if key] == sorted(load_index(str(dataset)).keys())


def test_any_condition_of_duckdb_selects(split_dataset: Path) -> None:
    pytest.importorskip("duckdb")
    whole = load_index(str(split_dataset), "n_streetview BETWEEN 0 AND 9 OR bbox.xmin > 0")
    assert len(whole) == 6
    assert sorted(whole.keys()) == sorted(load_index(str(split_dataset)).keys())


@pytest.mark.parametrize(
    "select",
    [
        "random() < 0.5",
        "now() > '2020-01-01'",
        "uuid() <> key",
        "current_date > '2020-01-01'",
        "1=1; drop table samples",
        "key IN (SELECT key FROM samples LIMIT 3)",
        "n_rs > 0 -- all",
        "txid_current() > 0",
    ],
)
def test_a_selection_that_may_change_is_refused(split_dataset: Path, select: str) -> None:
    with pytest.raises(ConfigError):
        load_index(str(split_dataset), select)


def test_a_selection_cannot_read_files(split_dataset: Path) -> None:
    pytest.importorskip("duckdb")
    with pytest.raises(ConfigError):
        load_index(str(split_dataset), "read_text('/etc/hostname') IS NOT NULL")


def test_an_unknown_column_names_the_nearest(split_dataset: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean n_streetview"):
        load_index(str(split_dataset), "n_streetviews > 0")


@pytest.mark.parametrize("name", ["../../etc/passwd", "pipe:cat x.tar", "a/b.tar"])
def test_a_shard_name_is_never_a_path_or_a_command(dataset: Path, tmp_path: Path, name: str) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(dataset, bad)
    file = bad / index_file(0)
    held = IndexPart.from_buffer(file.read_bytes(), "")
    file.write_bytes(replace(held, shards=[name] * len(held.shards)).to_bytes())
    with pytest.raises(DatasetError, match="names the shard"):
        load_index(str(bad))


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("{", "cannot be read"),
        ('{"schema_version": 99, "content_hash": "", "layout_hash": ""}', "update geoshards"),
        ('{"schema_version": 1}', "lacks content_hash"),
    ],
)
def test_an_unusable_dataset_says_why(dataset: Path, tmp_path: Path, info: str, message: str) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(dataset, bad)
    (bad / "dataset.json").write_text(info)
    with pytest.raises(DatasetError, match=message):
        load_index(str(bad))
    with pytest.raises(DatasetError, match="does not exist"):
        load_index(str(tmp_path / "nowhere"))


def test_a_flip_moves_image_anchors_patches_and_photos_together(dataset: Path) -> None:
    index = load_index(str(dataset), "n_polygon > 0")
    tokens = OsmTokens.from_bytes(bytes(ShardReader(index).one(0, ["osm.safetensors"])["osm.safetensors"]))
    image = np.zeros((3, 14, 14), np.uint8)
    grid = image[0].reshape(-1)
    own = tokens.patch_object == len(tokens) - 1
    grid[tokens.patch_cell[own]] = 255  # the cells that the last object covers
    photo = Photo(np.zeros((3, 2, 2), np.uint8), 0.25, 0.5, 0.0, 0.0, np.array([[0, 0.01], [0.01, 0]]))
    mirrored = turned(TileSample(image, tokens, (photo,)), Turn(flip_x=True))
    assert mirrored.rs is not None
    assert mirrored.tokens is not None
    cells = set(np.flatnonzero(mirrored.rs[0].reshape(-1)).tolist())
    assert cells == set(mirrored.tokens.patch_cell[own].tolist())
    np.testing.assert_allclose(
        mirrored.tokens.anchors[..., 0] + tokens.anchors[..., 0],
        np.where(np.isnan(tokens.anchors[..., 0]), np.nan, 1.0),
        atol=1e-6,
    )
    assert mirrored.tokens.problem() is None
    assert (mirrored.photos[0].x, mirrored.photos[0].y) == (0.75, 0.5)
    assert mirrored.photos[0].frame.tolist() == [[0, 0.01], [-0.01, 0]]
    twice = turned(mirrored, Turn(flip_x=True))
    assert twice.tokens is not None
    assert np.array_equal(twice.tokens.patch_cell, tokens.patch_cell)


def test_augmentation_follows_the_slot_and_can_be_off() -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 8, 8)).astype(np.uint8)
    sample = TileSample(image, None, ())
    seeds = slot_seeds(1, np.arange(64))
    shown = [augment(sample, seed, AugmentSettings()).rs for seed in seeds]
    again = [augment(sample, seed, AugmentSettings()).rs for seed in seeds]
    assert all(np.array_equal(a, b) for a, b in zip(shown, again, strict=True))  # type: ignore[arg-type]
    assert len({a.tobytes() for a in shown if a is not None}) > 20
    assert augment(sample, seeds[0], AugmentSettings(enabled=False)) is sample


def test_packed_indices_point_at_their_own_sample(dataset: Path) -> None:
    for b in stream(dataset):
        nodes = len(b.node_valid)
        assert not b.node_valid[-1]
        assert nodes == bucket(int(b.node_valid.sum()) + 1)
        first, second = b.edges[:, b.edge_valid]
        assert torch.equal(b.node_sample[first], b.node_sample[second])
        assert (b.edges[:, ~b.edge_valid] == nodes - 1).all()
        assert (b.node_sample[~b.node_valid] == len(b)).all()
        sums = torch.zeros(nodes).index_add(0, b.tag_node, b.tag_weight)
        assert torch.allclose(sums[b.node_valid], torch.ones(int(b.node_valid.sum())))
        assert b.valid[b.photo_sample[b.photo_valid]].all()


def test_few_shapes_occur(dataset: Path) -> None:
    assert len({bucket(n) for n in range(1, 5000)}) < 20
    assert all(n <= bucket(n) <= max(16, 1.5 * n) for n in range(1, 5000))


@pytest.mark.parametrize("name", ["rs.jpg", "rs.png", "rs.npy"])
def test_damaged_bytes_raise_nothing_but_a_corrupt_sample(name: str) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    if name == "rs.npy":
        np.save(buffer, pixels)
    else:
        Image.fromarray(pixels).save(buffer, {"rs.jpg": "JPEG", "rs.png": "PNG"}[name])
    data = buffer.getvalue()
    decode = decode_npy if name == "rs.npy" else decode_rgb
    for trial in range(300):
        damaged = bytearray(data[: int(rng.integers(1, len(data)))] if trial % 3 == 0 else data)
        for _ in range(int(rng.integers(1, 8))):
            damaged[int(rng.integers(0, min(len(damaged), 200)))] = int(rng.integers(0, 256))
        with contextlib.suppress(CorruptSampleError):
            decode(bytes(damaged), name)


@pytest.mark.parametrize("osm", [("objects",), ("objects", "relations"), ("objects", "patches")])
def test_a_view_of_fewer_granularities_shows_the_same_of_those(dataset: Path, osm: tuple[Granularity, ...]) -> None:
    augment = AugmentSettings(crop=0.8, rotate=0.5, drop_objects=0.1)
    whole, some = (
        GeoStream(dataset, replace(VIEW, osm=o), batch_size=8, settings=StreamSettings(augment=augment))
        for o in (GRANULARITIES, osm)
    )
    for a, b in zip(whole, some, strict=True):
        for name, field in TENSORS.items():
            x, y = getattr(a, name), getattr(b, name)
            if FIELDS[field].granularity in osm:
                torch.testing.assert_close(x, y, equal_nan=True, rtol=0, atol=0)
            else:
                assert y.numel() == 0
        assert bool(b.patch_grid[0]) == ("patches" in osm)
        torch.testing.assert_close(a.rs, b.rs)

"""Laws 1 to 8 of the stream (DESIGN section 4), as properties, and one run of real processes that are killed."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError, DatasetError
from schemas.index import IndexPart, index_file
from schemas.tokens import GRANULARITIES
from tests.trainers.stream.indexes import make_index, members_of, shard_of
from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import TileBatch, View
from trainers.stream.catalog.choose import split_digest
from trainers.stream.catalog.index import Index, ShardDigests, load_index
from trainers.stream.members.read import ShardReader, Verify
from trainers.stream.order import Order
from trainers.stream.schedule import Request, Schedule
from trainers.stream.state import changed_shards
from trainers.stream.stream import GeoStream
from trainers.stream.wds import wds_pipeline

VIEW = View(image_size=16, osm=GRANULARITIES, tag_width=8, photos=1, photo_size=8)
ORDERS = st.builds(
    Order, shuffle=st.sampled_from(["global", "block", "spread", "near", "none"]),
    block=st.integers(1, 12), window=st.integers(1, 4), near=st.just(1),
)  # fmt: skip
COUNTS = st.lists(st.integers(1, 60), min_size=1, max_size=3)
WEIGHTS = st.lists(st.one_of(st.integers(1, 9), st.floats(0.01, 1)), min_size=2, max_size=5)


@cache
def index_of(count: int, number: int, reshard: int = 0) -> Index:
    return make_index(count, "abcde"[number], reshard=reshard)


def batch(schedule: Schedule, epoch: int, start: int) -> list[tuple[int, int, int]]:
    """(source, sample, seed) of every slot of a global batch, part after part."""
    parts = [schedule.choose(Request(epoch, start, part)) for part in range(schedule.parts)]
    return [
        (int(s), int(i), int(k)) for p in parts for s, i, k in zip(p.source, p.sample, p.seed, strict=True)
    ]  # fmt: skip


def same(a: TileBatch, b: TileBatch) -> bool:
    def equal(x: object, y: object) -> bool:
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
            return x.shape == y.shape and torch.equal(torch.nan_to_num(x), torch.nan_to_num(y))
        return x == y

    return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two small datasets; keys of the second are among those of the first."""
    folder = tmp_path_factory.mktemp("two")
    small = SyntheticSettings(samples=23, size=32, photo_size=16, objects=3, samples_per_shard=8)
    return write_dataset(folder / "a", small), write_dataset(folder / "b", replace(small, samples=11, seed=7))


@given(
    consumed=st.integers(0, 9),
    mode=st.sampled_from(["global", "block", "spread", "near", "none"]),
    mixed=st.booleans(),
    seed=st.integers(0, 3),
)
@settings(max_examples=12)
def test_law_1_resume_is_byte_identical_augmentation_included(
    two: tuple[Path, Path], consumed: int, mode: str, mixed: bool, seed: int
) -> None:
    mixed = mixed and mode != "near"
    data = {str(two[0]): 2, str(two[1]): 1} if mixed else str(two[0])
    augment = AugmentSettings(crop=0.5, rotate=0.5, drop_objects=0.2, hue=0.1)

    def fresh() -> GeoStream:
        return GeoStream(data, VIEW, batch_size=4, seed=seed, shuffle=mode, block=4, window=2, near=2, augment=augment)

    straight = list(fresh().batches(steps=consumed + 2))
    first = fresh()
    for _ in first.batches(steps=consumed):
        pass
    second = fresh()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = list(second.batches(steps=2))
    assert all(same(a, b) for a, b in zip(straight[consumed:], rest, strict=True))


@given(COUNTS, ORDERS, st.booleans(), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**40))
@settings(max_examples=120)
def test_law_2_ranks_and_accumulation_share_one_global_order(
    counts: list[int], order: Order, mixed: bool, world: int, micro: int, each: int, seed: int
) -> None:
    indexes = [index_of(c, i) for i, c in enumerate(counts)]
    weights = [1.0 + i for i in range(len(counts))] if mixed and order.shuffle != "near" else None
    size = world * micro * each
    alone = Schedule(indexes, weights, order, seed=seed, batch_size=size, parts=1)
    shared = Schedule(indexes, weights, order, seed=seed, batch_size=size, parts=world * micro)
    for start in range(0, 3 * size, size):
        if weights is None and start >= sum(counts):
            break
        assert sorted(batch(alone, 1, start)) == sorted(batch(shared, 1, start))


@given(COUNTS, ORDERS, st.integers(1, 3), st.integers(1, 7), st.integers(0, 2**40), st.integers(0, 3))
@settings(max_examples=120)
def test_laws_3_and_4_every_sample_once_an_epoch_and_equal_batches(
    counts: list[int], order: Order, parts: int, each: int, seed: int, epoch: int
) -> None:
    indexes = [index_of(c, i) for i, c in enumerate(counts)]
    schedule = Schedule(indexes, None, order, seed=seed, batch_size=parts * each, parts=parts)
    seen: list[tuple[int, int]] = []
    weight = 0.0
    for start in range(0, sum(counts), parts * each):
        chosen = [schedule.choose(Request(epoch, start, part)) for part in range(parts)]
        assert {len(c.sample) for c in chosen} == {each}
        seen += [(int(s), int(i)) for c in chosen for s, i in zip(c.source, c.sample, strict=True) if i >= 0]
        weight = sum(c.weight for c in chosen)
        assert weight == pytest.approx(parts)
    assert Counter(seen) == Counter((s, i) for s, c in enumerate(counts) for i in range(c))


@given(WEIGHTS, st.lists(st.integers(1, 40), min_size=5, max_size=5), st.integers(1, 3), st.integers(0, 10**6))
@settings(max_examples=20)
def test_law_5_mixtures_keep_their_weights_and_each_source_its_epochs(
    weights: list[float], counts: list[int], parts: int, skipped: int
) -> None:
    indexes = [index_of(c, i) for i, c in enumerate(counts[: len(weights)])]
    size = parts * 4
    schedule = Schedule(indexes, weights, Order(), seed=0, batch_size=size, parts=parts)
    assert schedule.mixture is not None
    share = schedule.mixture.share / schedule.mixture.share.sum()
    assert np.abs(share - np.array(weights) / sum(weights)).max() < 5e-3  # thousandths, one slot at least for each
    slots = np.arange(skipped, skipped + 500)
    source, before = schedule.mixture.at(slots)
    for i, s in enumerate(share):
        mine = source == i
        held = before[mine][0] + np.cumsum(mine) if mine.any() else np.zeros(1)
        if mine.any():
            first = int(before[mine][0])
            assert abs(first - s * slots[mine][0]) < 1
            assert np.abs(held - s * (slots + 1)).max() < 1
            assert np.array_equal(before[mine], first + np.arange(mine.sum()))
    seen: dict[int, list[int]] = {i: [] for i in range(len(indexes))}
    for step in range(60):
        for s, i, _ in batch(schedule, 0, step * size):
            seen[s].append(i)
    for i, taken in seen.items():
        whole = len(taken) // counts[i]
        tally = Counter(taken)
        assert set(tally.values()) <= {whole, whole + 1}
        assert sum(tally.values()) == len(taken)


@given(WEIGHTS)
def test_law_5_two_sources_stay_within_one_in_any_window(weights: list[float]) -> None:
    schedule = Schedule([index_of(5, 0), index_of(6, 1)], weights[:2], Order(), seed=0, batch_size=2, parts=1)
    assert schedule.mixture is not None
    source, _ = schedule.mixture.at(np.arange(2500))
    share = schedule.mixture.share[0] / schedule.mixture.share.sum()
    gap = np.concatenate(([0.0], np.cumsum(source == 0))) - share * np.arange(2501)
    assert gap.max() - gap.min() <= 1 + 1e-9


@given(st.integers(2, 60), ORDERS, st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=60)
def test_a_resharded_copy_has_the_same_order_unless_it_follows_the_shards(
    count: int, order: Order, size: int, reshard: int
) -> None:
    there = Schedule([index_of(count, 0)], None, order, seed=3, batch_size=size, parts=1)
    here = Schedule([index_of(count, 0, reshard)], None, order, seed=3, batch_size=size, parts=1)
    if order.shuffle != "block":
        assert batch(there, 0, 0) == batch(here, 0, 0)
    else:
        assert here.pools[0].key(3, 0) != there.pools[0].key(3, 0)


def test_law_6_the_state_is_small_and_names_the_shard_that_changed(two: tuple[Path, Path], tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(two[0], changed)
    file = changed / "catalog" / "shards" / "part-00000.parquet"
    table = pq.read_table(file)
    digests = table["sha256"].to_pylist()
    digests[1] = "0" * 64
    pq.write_table(table.set_column(table.column_names.index("sha256"), "sha256", [digests]), file)
    info = json.loads((changed / "dataset.json").read_text())

    def stream(**options: object) -> GeoStream:
        return GeoStream(str(changed), VIEW, batch_size=4, **options)  # type: ignore[arg-type]

    for name, mode, refused in (
        ("layout_hash", "global", False), ("layout_hash", "block", True), ("content_hash", "global", True),
    ):  # fmt: skip
        state = GeoStream(str(two[0]), VIEW, batch_size=4, shuffle=mode).state_dict()
        assert len(json.dumps(state)) < 4096
        (changed / "dataset.json").write_text(json.dumps(info | {name: "other"}))
        if refused:
            with pytest.raises(DatasetError, match=rf"{name} was .*, is other; changed: part-0000001.tar"):
                stream(shuffle=mode).load_state_dict(state)
        else:
            stream(shuffle=mode).load_state_dict(state)
    a, b = (GeoStream(str(two[0]), VIEW, batch_size=s, shuffle="spread") for s in (4, 8))
    with pytest.raises(DatasetError, match="order was spread-4, is spread-8"):
        b.load_state_dict(a.state_dict())
    with pytest.raises(DatasetError, match="cannot be read"):
        stream().load_state_dict({"epoch": 0})


def resplit(root: Path, split: list[str]) -> None:
    """Deal the samples to other splits: in the catalog and its index, whose times and sizes stay."""
    file, index = root / "catalog/samples/part-00000.parquet", root / index_file(0)
    before = index.stat()
    table = pq.read_table(file)
    table = table.set_column(table.column_names.index("split"), "split", [split])
    pq.write_table(table, file)
    index.write_bytes(IndexPart.of(table).to_bytes())
    os.utime(index, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert index.stat().st_size == before.st_size


def test_of_many_changed_shards_three_are_named_and_the_others_counted() -> None:
    names = [f"part-{i}.tar" for i in range(6)]
    now = ShardDigests(6, tuple("abcdef"), tuple((n, n) for n in names))
    for count in range(1, 7):
        said = changed_shards(6, ["x"] * count + list("abcdef")[count:], now)
        assert [n for n in names if n in said] == names[: min(count, 3)]
        assert said.endswith(f" and {count - 3} more groups") if count > 3 else "more" not in said
    pairs = ShardDigests(4, ("a", "b"), (("part-0.tar", "part-1.tar"), ("part-2.tar", "part-3.tar")))
    assert changed_shards(4, ["a", "x"], pairs) == "changed: one of part-2.tar to part-3.tar"
    assert changed_shards(4, ["a", "b"], pairs) == "every shard is the same: dataset.json is not"
    assert changed_shards(3, ["a", "b"], pairs) == "it had 3 shards, has 4, the last of them part-3.tar"


@pytest.mark.parametrize("cached", [False, True])
def test_law_6_a_split_that_changed_is_read_and_an_old_state_refused(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    if cached:
        monkeypatch.setattr(load_index, "__defaults__", ("", "train", None, 0, False))
    root = tmp_path / "resplit"
    shutil.copytree(two[0], root)
    keys = pq.read_table(root / "catalog/samples/part-00000.parquet")["key"].to_pylist()

    def stream(**options: object) -> GeoStream:
        return GeoStream(str(root), VIEW, batch_size=4, **options)  # type: ignore[arg-type]

    def shown(split: str) -> set[str]:
        return {k for b in stream(split=split) for k in b.key if k}

    old, held = stream().state_dict(), stream(select="split <> 'test'").state_dict()
    resplit(root, ["val" if i % 3 else "train" for i in range(23)])
    assert shown("train") == set(keys[::3])
    assert shown("val") == set(keys) - set(keys[::3])
    pytest.importorskip("webdataset")
    seen = [k for b in wds_pipeline(root, VIEW, batch_size=4, split="val", shuffle=0) for k in b.key]
    assert seen == [k for i, k in enumerate(keys) if i % 3]
    with pytest.raises(DatasetError, match=r"split_hash was .*the catalog deals its samples to train, val and test"):
        stream().load_state_dict(old)
    # Also where the same samples are selected: those that a run is measured on may be others.
    with pytest.raises(DatasetError, match=r"split_hash was .*the catalog deals") as caught:
        stream(select="split <> 'test'").load_state_dict(held)
    assert "selection_hash" not in str(caught.value)
    now = stream().state_dict()
    stream().load_state_dict(now)
    resplit(root, ["train"] * 23)
    stream().load_state_dict(old)


@given(st.integers(1, 40), st.integers(1, 5), st.data())
@settings(max_examples=30)
def test_the_split_hash_is_that_of_the_assignment_and_of_no_layout(
    count: int, reshard: int, data: st.DataObject
) -> None:
    split = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)), np.uint8)
    by_key = dict(zip(sorted(index_of(count, 0).keys()), split, strict=True))
    digests = set()
    for layout in (0, reshard):
        parts = make_index(count, "a", reshard=layout).parts
        parts._parts[0].arrays["split"][:] = [by_key[k.decode()] for k in parts.keys(np.arange(count))]
        digests.add(split_digest(parts))
    assert len(digests) == 1
    at = data.draw(st.integers(0, count - 1))
    parts._parts[0].arrays["split"][at] = (parts._parts[0].arrays["split"][at] + 1) % 4
    assert split_digest(parts) not in digests


@given(st.sets(st.integers(0, 22), max_size=4), st.sampled_from(["rs.jpg", "osm.safetensors", "json"]), st.booleans())
@settings(max_examples=10)
def test_law_7_corrupt_samples_keep_their_places(
    two: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, victims: set[int], member: str, header: bool
) -> None:
    broken = tmp_path_factory.mktemp("broken") / "d"
    shutil.copytree(two[0], broken)
    index = load_index(str(two[0]))
    for sample in victims:
        start, size = members_of(index, sample)[member]
        path = broken / "shards" / shard_of(index, sample)
        data = bytearray(path.read_bytes())
        data[start - 512 if header else start : start + (0 if header else size)] = bytes(512 if header else size)
        path.write_bytes(data)
    has_photos = {i for i in range(len(index)) if any(n.startswith("sv.") for n in index.names(i))}
    lost = {index.key(i) for i in victims if member != "json" or i in has_photos}
    good = GeoStream(str(two[0]), VIEW, batch_size=6)
    bad = GeoStream(str(broken), VIEW, batch_size=6)
    for a, b in zip(good, bad, strict=True):
        assert [k if k not in lost else "" for k in a.key] == b.key
        assert b.valid.tolist() == [bool(k) for k in b.key]
        assert a.weight == b.weight
    assert {c.split(":")[0] for c in bad.corrupt} == lost


def flip_in(root: Path, sample: int, member: str, share: float = 0.9) -> None:
    """Flip a bit of a member's content, where most decoders notice nothing."""
    index = load_index(str(root))
    start, size = members_of(index, sample)[member]
    with (root / "shards" / shard_of(index, sample)).open("r+b") as file:
        file.seek(start + int(size * share))
        value = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([value ^ 4]))


@pytest.mark.parametrize(("verify", "workers"), [("crc", 0), ("crc", 1), ("sha256", 0)])
def test_law_7_a_flipped_bit_of_a_sample_is_a_masked_slot(
    two: tuple[Path, Path], tmp_path: Path, verify: str, workers: int
) -> None:
    root = tmp_path / "flipped"
    shutil.copytree(two[0], root)
    index = load_index(str(root))
    photos = [[n for n in index.names(i) if n.startswith("sv.")] for i in range(len(index))]
    one = max(i for i, names in enumerate(photos) if len(names) == 1)
    lost = {0: "rs.jpg", 1: "osm.safetensors", one: "sv.0.jpg"}  # a photo is read once it is known to be shown
    unread = min(i for i, names in enumerate(photos) if names and i not in lost)
    for sample, member in lost.items():
        flip_in(root, sample, member)
    good = GeoStream(str(two[0]), VIEW, batch_size=6)
    bad = GeoStream(str(root), VIEW, batch_size=6, verify=verify, num_workers=workers)
    names = {index.key(i) for i in lost}
    for a, b in zip(good, bad, strict=True):
        assert [k if k not in names else "" for k in a.key] == b.key
        assert b.valid.tolist() == [bool(k) for k in b.key]
    assert {c.split(":")[0] for c in bad.corrupt} == names
    assert len(bad.corrupt) == 3
    assert all("is not what was written; `geoshards verify --repair`" in c for c in bad.corrupt)
    if not workers:
        shown = [k for b in GeoStream(str(root), VIEW, batch_size=6, verify="none") for k in b.key]
        assert index.key(0) in shown  # which is why bytes are compared
    view = replace(VIEW, photos=0, osm=())
    flip_in(root, unread, "sv.0.jpg")
    seen = {k for b in GeoStream(str(root), view, batch_size=6, verify=verify) for k in b.key}
    assert (index.key(unread) in seen) == (verify == "crc")  # sha256 is that of the whole sample


def test_each_way_of_checking_gives_the_members_that_were_asked_for(two: tuple[Path, Path]) -> None:
    index = load_index(str(two[0]))
    wanted = [("json",), ("rs.jpg", "sv.99.jpg"), (), ("osm.safetensors", "json")]
    found = [ShardReader(index, verify=verify).read(range(4), wanted) for verify in get_args(Verify)]
    assert [list(members) for members in found[0]] == [["json"], ["rs.jpg"], [], ["json", "osm.safetensors"]]
    assert found[0] == found[1]
    assert [dict(sorted(m.items())) for m in found[2]] == [dict(sorted(m.items())) for m in found[0]]
    every = [ShardReader(index, verify=verify).read(range(4)) for verify in get_args(Verify)]
    assert every[0] == every[1] == every[2]


def test_a_way_of_checking_that_does_not_exist_is_refused(two: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match=r"stream.verify=md5: choose none, crc, sha256"):
        GeoStream(str(two[0]), VIEW, batch_size=4, verify="md5")


@given(st.permutations(range(23)))
@settings(max_examples=6)
def test_law_8_a_selection_is_total_by_key_whatever_the_order_of_rows(
    two: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    other = tmp_path_factory.mktemp("rows") / "d"
    shutil.copytree(two[0], other)
    file = other / "catalog" / "samples" / "part-00000.parquet"
    rows = pq.read_table(file).take(order)
    pq.write_table(rows, file)
    (other / index_file(0)).write_bytes(IndexPart.of(rows).to_bytes())
    a, b = (load_index(str(root), "n_polygon > 1 AND n_rs = 1") for root in (two[0], other))
    assert a.keys() == b.keys()
    assert a.selection_hash == b.selection_hash
    assert len(GeoStream(str(other), VIEW, batch_size=4)) == 6


def test_datasets_as_one_hold_every_sample_once_though_keys_recur(two: tuple[Path, Path]) -> None:
    forth = GeoStream(f"{two[0]},{two[1]}", VIEW, batch_size=8)
    back = GeoStream([two[1], two[0]], VIEW, batch_size=8)
    assert len(set(forth.indexes[0].keys()) & set(forth.indexes[1].keys())) > 0
    seen: list[tuple[int, str]] = []
    for a, b in zip(forth, back, strict=True):
        assert a.key == b.key
        seen += [(int(s), k) for s, k in zip(a.source, a.key, strict=True) if k]
    assert len(seen) == len(set(seen)) == 34
    copy = two[0].with_name("copy")
    shutil.copytree(two[0], copy, dirs_exist_ok=True)
    with pytest.raises(DatasetError, match="a copy of itself"):
        GeoStream([two[0], copy], VIEW, batch_size=8)


def test_a_mixture_says_that_it_has_no_epoch(two: tuple[Path, Path]) -> None:
    stream = GeoStream(f"{two[0]}:0.7,{two[1]}:0.3", VIEW, batch_size=10)
    with pytest.raises(ConfigError, match="steps=N"):
        len(stream)
    batches = list(stream.batches(steps=5))
    assert sum(int((b.source == 0).sum()) for b in batches) == 35
    assert stream.samples_seen == 50
    with pytest.raises(ConfigError, match="a mixture cannot"):
        GeoStream({str(two[0]): 1, str(two[1]): 1}, VIEW, batch_size=8, shuffle="near")


#: Ranks are forks of one process that has imported what they need, which takes far longer than their work.
_RANKS = """
import json, os, signal, sys
from pathlib import Path
sys.path[0] = sys.argv[1]
import torch, torch.distributed as dist
from trainers.stream.batch import View
from trainers.stream.stream import GeoStream

def read(data, out, workers):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    view = View(image_size=16, osm=("objects", "relations"), tag_width=8)
    stream = GeoStream(data, view, batch_size=12, num_workers=workers)
    state = out / "state.json"
    if state.exists():
        stream.load_state_dict(json.loads(state.read_text()))
    with open(out / f"keys-{dist.get_world_size()}-{rank}", "a") as log:
        for batch in stream:
            step = (stream.position or stream.epoch_samples) - 1
            log.write(json.dumps([step // 12, batch.key]) + chr(10))
            log.flush()
            dist.barrier()
            if rank == 0:
                (out / "state.tmp").write_text(json.dumps(stream.state_dict()))
                (out / "state.tmp").rename(state)
            dist.barrier()
    dist.destroy_process_group()

def fork(rank, world, port, workers):
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.setsid()
        os.environ.update(WORLD_SIZE=str(world), RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        read(sys.argv[2], Path(sys.argv[3]), workers)
        status = 0
    finally:
        os._exit(status)

if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        port, workers = json.loads(line)
        pids = [fork(rank, len(workers), port, own) for rank, own in enumerate(workers)]
        print(json.dumps(pids), flush=True)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)
"""


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_four_ranks_killed_and_three_others_read_every_sample_once(tmp_path: Path) -> None:
    """Some of them with loader processes, some without."""
    small = SyntheticSettings(samples=301, size=16, photos=0, objects=2, samples_per_shard=64)
    data = write_dataset(tmp_path / "data", small)
    script, state, root = tmp_path / "ranks.py", tmp_path / "state.json", Path(__file__).resolve().parents[3]
    script.write_text(_RANKS)
    words = [sys.executable, str(script), str(root), str(data), str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ranks:
        assert ranks.stdin is not None
        assert ranks.stdout is not None

        def launch(*workers: int) -> list[int]:
            ranks.stdin.write(f"[{free_port()}, {list(workers)}]\n")
            ranks.stdin.flush()
            return list(json.loads(ranks.stdout.readline()))

        pids = launch(2, 2, 0, 0)
        try:
            while not state.exists() or json.loads(state.read_text())["position"] < 60:
                assert not select.select([ranks.stdout], [], [], 0.02)[0], "the ranks have ended"
        finally:
            for pid in pids:
                os.killpg(pid, signal.SIGKILL)
        assert json.loads(ranks.stdout.readline()) == [-signal.SIGKILL] * 4
        done = json.loads(state.read_text())["position"] // 12
        assert 5 <= done < 25
        launch(1, 0, 0)
        assert json.loads(ranks.stdout.readline()) == [0] * 3
        ranks.stdin.close()
    keys: list[str] = []
    for file in tmp_path.glob("keys-*"):
        for line in file.read_text().splitlines():
            step, held = json.loads(line)
            if "keys-3" in file.name or step < done:
                keys += [k for k in held if k]
    assert len(keys) == 301
    assert sorted(keys) == sorted(load_index(str(data)).keys())

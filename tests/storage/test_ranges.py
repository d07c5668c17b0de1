"""Byte ranges: joined with little waste, kept within a size, fetched once by processes that want the same."""

from __future__ import annotations

import multiprocessing
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError, DatasetError
from storage.ranges import CacheSettings, Range, RangeCache, RemoteShards, coalesce

PIECES = st.lists(
    st.builds(lambda s, a, n: Range(s, a, a + n), st.integers(0, 2), st.integers(0, 10**6), st.integers(1, 10**5)),
    max_size=30,
)


@given(PIECES, st.floats(0, 0.2))
def test_joined_ranges_cover_the_pieces_and_waste_little(pieces: list[Range], waste: float) -> None:
    joined = coalesce(pieces, waste)
    assert all(any(r.shard == p.shard and r.start <= p.start and p.end <= r.end for r in joined) for p in pieces)
    assert all(a.shard != b.shard or a.end < b.start for a, b in pairwise(joined))
    dense = coalesce(pieces, 0)
    used = sum(r.end - r.start for r in dense)
    assert sum(r.end - r.start for r in joined) <= used * (1 + waste) + 1


def test_the_cache_keeps_to_its_size_and_drops_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 100_000)
    for i in range(40):
        cache.keep(f"{i:032x}", bytes(5000))
        os.utime(cache._path(f"{i:032x}"), (1e9 + i, 1e9 + i))
        held = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
        assert held <= 100_000 + 5000
    fresh = RangeCache(tmp_path, 100_000)
    assert fresh.find(f"{0:032x}", 5000) is None
    found = fresh.find(f"{39:032x}", 5000)
    assert found is not None
    assert bytes(found) == bytes(5000)
    assert fresh.find(f"{39:032x}", 4999) is None  # of another size: not the entry that was asked for


def test_the_folder_of_the_cache_follows_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert CacheSettings().path == tmp_path / "stream"
    assert CacheSettings("~/c").path == tmp_path / "home" / "c"
    assert CacheSettings("none").path is None
    with pytest.raises(ConfigError, match="cache_gb"):
        CacheSettings(gigabytes=0)


def fetch(folder: Path, shards: str, together: Any, out: Any) -> None:
    asked: list[int] = []

    class Counting(RemoteShards):
        def _request(self, requests: Any) -> list[bytes]:
            asked.extend(r.end - r.start for r in requests)
            time.sleep(1.0)  # until the other one waits
            return super()._request(requests)

    remote = Counting(shards, ["a.tar", "b.tar"], "v", CacheSettings(str(folder)))
    wanted = [Range(s, a, a + 9000) for s in (0, 1) for a in range(0, 200_000, 40_000)]
    together.wait()
    found = remote.get(wanted)
    out.put((sum(asked), all(bytes(found[r]) == content(r.shard)[r.start : r.end] for r in wanted)))


def content(shard: int) -> bytes:
    return bytes((i * 7 + shard) % 251 for i in range(200_000))


def test_two_processes_fetch_each_range_once_and_read_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for number, name in enumerate(("a.tar", "b.tar")):
        (tmp_path / "shards" / name).write_bytes(content(number))
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(2), context.Queue()
    both = [
        context.Process(target=fetch, args=(tmp_path / "cache", f"file://{tmp_path}/shards", together, results))
        for _ in range(2)
    ]
    for process in both:
        process.start()
    found = [results.get(timeout=100) for _ in both]
    for process in both:
        process.join()
    assert [right for _, right in found] == [True, True]
    assert sum(asked for asked, _ in found) == 2 * 5 * 9000  # together, once


def test_a_range_past_the_end_of_a_shard_is_short_and_not_kept(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/ranges/a.tar", content(0))
    remote = RemoteShards("memory://ranges", ["a.tar"], "v", CacheSettings(str(tmp_path)))
    past = Range(0, 199_000, 202_000)
    assert remote.get([past]) == {past: content(0)[199_000:]}
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and f.name != "lock"]


def remote(folder: Path, version: str = "v") -> RemoteShards:
    fs = fsspec.filesystem("memory")
    for number, name in enumerate(("a.tar", "b.tar")):
        fs.pipe_file(f"/ranges/{name}", content(number))
    return RemoteShards("memory://ranges", ["a.tar", "b.tar"], version, CacheSettings(str(folder)))


def test_large_ranges_are_asked_for_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.ranges.MAX_REQUEST", 10_000)
    shards, asked = remote(tmp_path), list[int]()
    request = shards._request
    monkeypatch.setattr(shards, "_request", lambda rs: asked.extend(r.end - r.start for r in rs) or request(rs))
    wanted = [Range(0, 5, 25_006), Range(0, 9_000, 31_000), Range(1, 100_000, 110_000)]
    assert shards.get(wanted) == {r: content(r.shard)[r.start : r.end] for r in wanted}
    assert (max(asked), sum(asked)) == (10_000, 30_995 + 10_000)


def test_another_version_of_a_dataset_has_ranges_of_its_own(tmp_path: Path) -> None:
    wanted = Range(0, 0, 500)
    remote(tmp_path).get([wanted])
    other = remote(tmp_path, "w")
    fsspec.filesystem("memory").pipe_file("/ranges/a.tar", bytes(500))
    assert bytes(other.get([wanted])[wanted]) == bytes(500)
    assert bytes(remote(tmp_path).get([wanted])[wanted]) == content(0)[:500]


def test_what_is_found_counts_as_used_and_what_is_dropped_is_gone(tmp_path: Path) -> None:
    cache, name = RangeCache(tmp_path, 100_000), "ab" * 16
    cache.keep(name, b"held")
    path = cache._path(name)
    os.utime(path, (1e9, 1e9))
    assert bytes(cache.find(name, 4) or b"") == b"held"
    assert path.stat().st_mtime > 1e9
    cache.drop(name)
    assert cache.find(name, 4) is None
    assert not path.exists()


def test_a_sweep_leaves_what_is_being_written_and_takes_what_a_kill_left(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 1000)
    (tmp_path / "ab").mkdir()
    young, old = (tmp_path / "ab" / f".{name}.tmp" for name in ("young", "old"))
    for path, age in ((young, 60), (old, 7200)):
        path.write_bytes(bytes(900))
        os.utime(path, (time.time() - age, time.time() - age))
    cache.keep("cd" * 16, bytes(900))
    assert young.exists()
    assert not old.exists()
    assert cache.find("cd" * 16, 900) is not None


@pytest.mark.parametrize("harm", ["fails", "torn"])
def test_each_range_is_asked_for_until_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    monkeypatch.setattr("storage.retry.FIRST_PAUSE", 0.0)
    shards = remote(tmp_path)
    right, rounds = shards._fs.cat_ranges, list[int]()

    def flaky(paths: Any, starts: Any, ends: Any, **options: Any) -> list[Any]:
        rounds.append(len(paths))
        answers = right(paths, starts, ends, **options)
        return [a if k == 0 else OSError("busy") if harm == "fails" else a[:-9] for k, a in enumerate(answers)]

    monkeypatch.setattr(shards._fs, "cat_ranges", flaky)
    wanted = [Range(k % 2, at, at + 500) for k, at in enumerate(range(0, 200_000, 50_000))]
    assert {r: bytes(data) for r, data in shards.get(wanted).items()} == {
        r: content(r.shard)[r.start : r.end] for r in wanted
    }
    assert rounds == [4, 3, 2, 1]


def test_who_may_not_read_is_told_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = remote(tmp_path)
    asked: list[int] = []
    monkeypatch.setattr(shards._fs, "cat_ranges", lambda *_, **__: asked.append(1) or [PermissionError("no")])
    with pytest.raises(DatasetError, match=r"a.tar may not be read \(no\); check the credentials"):
        shards.get([Range(0, 0, 9)])
    assert asked == [1]


def test_what_was_fetched_is_held_until_it_is_forgotten(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/held/a.tar", content(0))
    remote = RemoteShards("memory://held", ["a.tar"], "v", CacheSettings(str(tmp_path)))
    wanted = {r: content(0)[r.start : r.end] for r in (Range(0, 0, 9000), Range(0, 50_000, 59_000))}
    assert {r: bytes(found) for r, found in remote.get(list(wanted)).items()} == wanted
    fs.pipe_file("/held/a.tar", content(1))
    assert {r: bytes(found) for r, found in remote.get(list(wanted)).items()} == wanted
    first, second = wanted
    remote.forget([first])
    assert {r: bytes(found) for r, found in remote.get(list(wanted)).items()} == {
        first: content(1)[:9000], second: wanted[second],
    }  # fmt: skip
    assert RemoteShards("memory://held", ["a.tar"], "v", CacheSettings("none")).get([second])[second] != wanted[second]

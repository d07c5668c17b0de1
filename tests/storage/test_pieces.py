"""Pieces of remote files: found as they were kept, fetched once by processes that want the same, within a size."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.cache import contents
from storage.pieces import PIECE, KeptPieces, PieceStore


def content(first: int, last: int) -> bytes:
    """Of pieces; no two are alike."""
    return b"".join(np.random.default_rng(n).bytes(PIECE) for n in range(first, last))


def kept(folder: Path, identity: str = "a", capacity: int = 10**9) -> KeptPieces:
    found = PieceStore(folder, capacity).of(identity)
    assert found is not None
    return found


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6)), max_size=6), st.sets(st.integers(0, 50)))
@settings(max_examples=20)
def test_what_is_found_is_what_was_kept(tmp_path_factory: Any, runs: list[tuple[int, int]], asked: set[int]) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    own, held = kept(folder), set[int]()
    for first, count in runs:
        own.keep(first, content(first, first + count))
        held |= set(range(first, first + count))
    found = kept(folder).find(sorted(asked))
    assert found == {n: content(n, n + 1) for n in asked & held}
    assert kept(folder, "b").find(sorted(asked)) == {}


def test_the_last_piece_may_be_short_and_a_damaged_one_is_not_believed(tmp_path: Path) -> None:
    kept(tmp_path).keep(2, content(2, 4) + b"end")
    assert kept(tmp_path).find([2, 3, 4, 5]) == {2: content(2, 3), 3: content(3, 4), 4: b"end"}
    with (tmp_path / "a" / "data").open("r+b") as file:  # as a lost write leaves it
        file.seek(3 * PIECE)
        file.write(bytes(PIECE))
    assert kept(tmp_path).find([2, 3, 4]) == {2: content(2, 3), 4: b"end"}


def test_a_store_keeps_to_its_size_and_the_file_used_longest_ago_goes_first(tmp_path: Path) -> None:
    store = PieceStore(tmp_path / "ranges", 20 * PIECE)
    for i in range(10):
        own = store.of(f"f{i}")
        assert own is not None
        own.keep(100, content(0, 4))  # a sparse file, which counts by what it holds
        os.utime(tmp_path / "ranges" / f"f{i}" / "sums", (1e9 + i, 1e9 + i))
    names = sorted(p.name for p in (tmp_path / "ranges").iterdir())
    assert "f0" not in names
    assert names[-1] == "f9"
    assert 3 <= len(names) <= 5
    items = [i for i in contents(tmp_path) if i.kind == "ranges"]
    assert [i.path.name for i in items] == names
    assert all(4 * PIECE <= i.bytes < 8 * PIECE for i in items)


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "ranges").write_text("")
    assert PieceStore(tmp_path / "ranges", 10**6).of("a") is None


def fetch(folder: Path, wanted: list[int], together: Any, out: Any) -> None:
    own, count = kept(folder), 0
    together.wait()
    with own.alone(wanted):
        if own.find(wanted) == {}:
            time.sleep(0.5)  # until the other one waits
            own.keep(wanted[0], content(wanted[0], wanted[-1] + 1))
            count += 1
    out.put((count, own.find(wanted) == {n: content(n, n + 1) for n in wanted}))


def test_two_processes_fetch_each_piece_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    together, results = context.Barrier(2), context.Queue()
    both = [context.Process(target=fetch, args=(tmp_path, [3, 4], together, results)) for _ in range(2)]
    for process in both:
        process.start()
    found = [results.get(timeout=100) for _ in both]
    for process in both:
        process.join()
    assert [right for _, right in found] == [True, True]
    assert sum(count for count, _ in found) == 1

"""What machines keep of files behind URLs, and what a store holds for them."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigError, InputError
from storage.entries import find_place, have_place
from storage.nodes.copies import copy_of, make_room, node_cache, scratch
from storage.nodes.held import hash_of, held_in, hold_by_hash, local_copy, size_of
from storage.store import Store
from storage.urls import cache_folder
from tests.buckets import Fault, s3_server


class Kept:
    """A bucket of that name, and how its server fails."""

    def __init__(self) -> None:
        self.fs: Any = None
        self.fault: Fault = lambda method, path: ""


@pytest.fixture(scope="module")
def server() -> Iterator[Kept]:
    kept = Kept()
    with s3_server("kept", lambda method, path: kept.fault(method, path)) as kept.fs:
        yield kept


@pytest.fixture
def kept(server: Kept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kept]:
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path / "own"))
    server.fs.invalidate_cache()
    yield server
    server.fault = lambda method, path: ""


def test_a_cache_at_a_url_leaves_each_machine_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path / "own"))
    assert node_cache("s3://bucket/cache") == node_cache() == tmp_path / "own"
    assert node_cache(str(tmp_path / "given")) == tmp_path / "given"
    monkeypatch.delenv("GEOSHARDS_CACHE")
    assert str(os.getuid()) in node_cache("s3://bucket/cache").name
    assert node_cache() == cache_folder()


def test_a_temporary_folder_that_another_may_have_made_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GEOSHARDS_CACHE", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = node_cache("s3://bucket/cache")
    assert own.stat().st_mode & 0o077 == 0
    own.rmdir()
    (tmp_path / "elsewhere").mkdir()
    own.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is not yours; set GEOSHARDS_CACHE"):
        node_cache("s3://bucket/cache")


def test_a_file_is_fetched_once_whoever_asks_and_a_torn_one_is_never_seen(kept: Kept) -> None:
    asked: Counter[str] = Counter()

    def fault(method: str, path: str) -> str:
        asked[method] += path.endswith("/a/x")
        return "torn" if method == "GET" and path.endswith("/a/x") and asked["GET"] == 1 else ""

    data = os.urandom(300_000)
    kept.fs.pipe_file("kept/a/x", data)
    kept.fault = fault
    found: list[bytes] = []

    def ask() -> None:
        found.append(copy_of("s3://kept/a", "x").read_bytes())

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [data] * 3
    before = asked["GET"]
    assert Store("s3://kept/a").local("x").read_bytes() == data
    assert asked["GET"] == before
    with pytest.raises(FileNotFoundError):
        Store("s3://kept/a").local("y")


def test_copies_go_when_the_disk_fills_but_none_that_was_just_asked_for(tmp_path: Path) -> None:
    old, new = tmp_path / "a" / "old", tmp_path / "b" / "new"
    for path in (old, new):
        path.parent.mkdir()
        path.write_bytes(bytes(1000))
    os.utime(old, (time.time() - 1000,) * 2)
    make_room(tmp_path, free=0.0)
    assert old.exists()
    with old.open("rb") as file:
        make_room(tmp_path, free=1.0)
        assert file.read() == bytes(1000)  # who has one open goes on
    assert (old.exists(), new.exists()) == (False, True)


def test_what_a_killed_task_had_in_the_making_goes_before_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path))
    left = tmp_path / ".task.left.12345678.tmp"
    left.mkdir()
    with scratch() as here:
        assert here.is_dir()
        assert not left.exists()
        with scratch() as other:
            assert here.is_dir()
            assert other != here
    assert not list(tmp_path.iterdir())


def test_a_part_of_a_file_is_read_by_its_own_offsets(kept: Kept, tmp_path: Path) -> None:
    data = bytes(range(200))
    (tmp_path / "x").write_bytes(data)
    kept.fs.pipe_file("kept/part/x", data)
    for store in (Store(tmp_path), Store("s3://kept/part")):
        with store.part("x", 50, 150) as file:
            assert file.seek(60) == 60
            assert file.read(10) == data[60:70]
            assert file.tell() == 70


def test_what_is_filled_is_there_whole_or_not_at_all(kept: Kept) -> None:
    store = Store("s3://kept/filled")
    with pytest.raises(FileNotFoundError), store.filling("x") as path:
        (path.parent / "none" / "x").write_bytes(b"half")
    assert not kept.fs.exists("kept/filled/x")
    with store.filling("x") as path:
        path.write_bytes(b"whole")
    assert store.read("x") == b"whole"
    store.remove_all()
    assert not kept.fs.exists("kept/filled/x")
    store.remove_all()


@pytest.mark.parametrize("remote", [False, True])
def test_an_entry_is_made_once_and_again_where_it_is_damaged(kept: Kept, tmp_path: Path, remote: bool) -> None:
    made: list[str] = []

    def make(store: Store) -> dict[str, Any]:
        made.append(store.root)
        store.write("x", b"12345")
        store.write("below/y", b"1")
        return {"n": len(made)}

    place = Store("s3://kept/entries/e-1" if remote else tmp_path / "e-1")
    assert find_place(place) is None
    assert have_place(place, make) == ({"n": 1}, False)
    assert have_place(place, make) == ({"n": 1}, True)
    assert find_place(place) == {"n": 1}
    place.write("below/y", b"longer")
    assert have_place(place, make) == ({"n": 2}, False)
    place.remove("x")
    assert have_place(place, make) == ({"n": 3}, False)


def write_one(store: Store) -> dict[str, Any]:
    store.write("x", b"1")
    return {"n": 1}


def test_who_fails_beside_another_that_has_made_the_entry_takes_it(kept: Kept) -> None:
    def make(store: Store) -> dict[str, Any]:
        have_place(store, write_one)
        raise InputError("what it worked with is tidied up")

    def fail(_: Store) -> dict[str, Any]:
        raise InputError("no room")

    assert have_place(Store("s3://kept/e"), make) == ({"n": 1}, True)
    with pytest.raises(InputError, match="no room"):
        have_place(Store("s3://kept/f"), fail)


def test_inputs_lie_in_the_store_under_their_hash_once(kept: Kept, tmp_path: Path) -> None:
    sent: Counter[str] = Counter()

    def note(method: str, path: str) -> str:
        sent[path.rpartition("/")[2]] += method == "PUT"
        return ""

    paths = [tmp_path / "a.osm.pbf", tmp_path / "b.jpg"]
    for path in paths:
        path.write_text(path.name)
    kept.fault, home = note, Store("s3://kept/held")
    first, again = held_in(home, paths[0]), held_in(home, paths[0])
    assert first == again == held_in(home, first.url)
    assert sent["a.osm.pbf"] == 1
    assert local_copy(first.url).read_text() == "a.osm.pbf"
    assert (size_of(first.url), size_of(paths[0])) == (9, 9)
    urls = [hold_by_hash(home, "photos", [str(paths[1])])[str(paths[1])] for _ in range(2)]
    assert urls[0] == urls[1]
    assert hash_of(urls[0]) == hash_of(str(paths[1]))
    assert sent[hash_of(urls[0])] == 1
    with pytest.raises(InputError, match="not held by the cache"):
        held_in(home, "s3://kept/held/other")

"""The cache as a whole: what is used stays, what was used longest ago goes first, what a kill left is swept."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.cache import contents, prune, sweep, using
from storage.entries import find_entry, have_entry
from storage.files import abandoned, beside
from storage.owner import Owner

GONE = replace(Owner.here(), pid=2**22 + 1)


def entry(cache: Path, name: str, size: int, used: float) -> None:
    def make(folder: Path) -> dict[str, Any]:
        (folder / "data").write_bytes(b"\0" * size)
        return {}

    have_entry(cache / name, make)
    age(cache / name, used)


def age(path: Path, used: float) -> None:
    for file in [path, *path.rglob("*")]:
        os.utime(file, (used, used))


def kinds(cache: Path) -> dict[str, int]:
    return {f"{i.kind} {i.path.name}": i.bytes for i in contents(cache)}


def test_each_thing_is_listed_with_its_kind_and_size(tmp_path: Path) -> None:
    entry(tmp_path, "features-abc", 1000, 5.0)
    for name in ("extracts/1f/a.osm.pbf", "extracts/1f/.a.osm.pbf.json", "photos/ab/abcd", "photos/names/ab/x.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0" * 10)
    beside(tmp_path / "cells-x").mkdir()
    found = kinds(tmp_path)
    assert found.pop("features features-abc") > 1000
    assert found == {"extracts 1f": 20, "photos abcd": 10, "photos x.json": 10}


def test_what_was_used_longest_ago_goes_first_and_only_as_much_as_must(tmp_path: Path) -> None:
    for n, name in enumerate(("features-a", "cells-b", "features-c", "cells-d")):
        entry(tmp_path, name, 10_000, 1e9 + n)
    find_entry(tmp_path / "features-a")  # it is used again
    gone = prune(tmp_path, 25_000)
    assert [i.path.name for i in gone] == ["cells-b", "features-c"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells-d", "features-a"]
    assert prune(tmp_path, 25_000) == []


def test_what_a_living_process_may_have_opened_stays(tmp_path: Path) -> None:
    entry(tmp_path, "features-a", 10_000, 1e9)
    entry(tmp_path, "features-b", 10_000, 1e9)
    with using(tmp_path):
        find_entry(tmp_path / "features-a")
        assert [i.path.name for i in prune(tmp_path, 0)] == ["features-b"]
    age(tmp_path / "features-a", time.time() - 100)
    assert [i.path.name for i in prune(tmp_path, 0)] == ["features-a"]


def test_what_cannot_be_made_again_stays_and_bases_go_last(tmp_path: Path) -> None:
    for name in ("inputs/a.json", "bases/a/x.osm.pbf"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"\0" * 10)
        os.utime(tmp_path / name, (1.0, 1.0))
    entry(tmp_path, "features-a", 10_000, 1e9)
    assert [i.kind for i in prune(tmp_path, 100)] == ["features"]
    assert [i.kind for i in prune(tmp_path, 0)] == ["bases"]
    assert (tmp_path / "inputs/a.json").exists()


def test_what_a_kill_left_is_swept_when_the_next_run_ends_well_and_no_sooner(tmp_path: Path) -> None:
    (tmp_path / ".users").mkdir()
    (tmp_path / ".users" / "dead").write_text(GONE.text())
    left, deep, ours = abandoned(tmp_path / "cells-a"), abandoned(tmp_path / "photos/ab/c"), beside(tmp_path / "x")
    for path in (left, deep.parent, ours):
        path.mkdir(parents=True)
    deep.write_text("")
    with pytest.raises(ValueError, match="stopped"), using(tmp_path):
        raise ValueError("stopped")
    assert left.exists()
    with using(tmp_path):
        assert left.exists()
    assert not left.exists()
    assert not deep.exists()
    assert ours.exists()


def test_a_run_without_a_kill_before_it_looks_at_nothing(tmp_path: Path) -> None:
    left = abandoned(tmp_path / "cells-a")
    left.mkdir()
    with using(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [left.name]
    assert sweep(tmp_path) == 1
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    monkeypatch.setattr("os.link", refuse)
    ran = False
    with using(tmp_path):
        ran = True
    assert ran


def test_locks_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path: Path) -> None:
    """Of entries that no later run may ask for."""
    (tmp_path / "photos").mkdir()
    dead = [tmp_path / ".cells-a.lock", tmp_path / "photos/.x.lock", tmp_path / "..cells-a.lock.break"]
    for path in dead:
        path.write_text(GONE.text())
    (tmp_path / ".cells-b.lock").write_text(Owner.here().text())
    elsewhere = tmp_path / ".cells-c.lock"
    elsewhere.write_text(replace(GONE, boot="another boot").text())
    assert sweep(tmp_path) == len(dead)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [".cells-b.lock", ".cells-c.lock"]
    age(elsewhere, 1e9)
    assert sweep(tmp_path) == 1

"""An entry of the cache is there whole or not at all, made once, whoever wants it and whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import InputError
from storage.entries import MARKER, entry_problems, find_entry, have_entry
from storage.files import beside, is_left

ROOT = Path(__file__).resolve().parents[2]
ABOUT = {"rows": 2}


def make(folder: Path) -> dict[str, Any]:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "a").write_text("first")
    (folder / "b").write_bytes(b"\0" * 1000)
    return dict(ABOUT)


def test_it_is_made_once_and_found_afterwards(tmp_path: Path) -> None:
    assert find_entry(tmp_path / "x") is None
    assert have_entry(tmp_path / "x", make) == (ABOUT, False)
    assert have_entry(tmp_path / "x", lambda folder: pytest.fail("made again")) == (ABOUT, True)
    assert entry_problems(tmp_path / "x") == []
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_of_several_that_want_it_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    made, told, start = list[int](), list[str](), threading.Barrier(4)

    def slowly(folder: Path) -> dict[str, Any]:
        made.append(1)
        time.sleep(0.3)
        return make(folder)

    def want(_: int) -> tuple[dict[str, Any], bool]:
        start.wait()
        return have_entry(tmp_path / "x", slowly, told.append)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(want, range(4)))
    assert len(made) == 1
    assert sorted(there for _, there in found) == [False, True, True, True]
    assert told == ["x: another process makes it; waiting"] * 3


@pytest.mark.parametrize("damage", ["shorter", "missing", "no marker", "marker cut", "marker of another shape"])
def test_what_its_marker_does_not_vouch_for_is_made_again(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "x"
    have_entry(folder, make)
    match damage:
        case "shorter":
            (folder / "b").write_bytes(b"\0" * 999)
        case "missing":
            (folder / "sub" / "a").unlink()
        case "no marker":
            (folder / MARKER).unlink()
        case "marker cut":
            (folder / MARKER).write_bytes((folder / MARKER).read_bytes()[:-9])
        case _:
            (folder / MARKER).write_text("[1]")
    assert entry_problems(folder)
    assert have_entry(folder, make) == (ABOUT, False)
    assert entry_problems(folder) == []
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_changed_content_of_the_same_size_and_strange_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    have_entry(folder, make)
    (folder / "b").write_bytes(b"\0" * 999 + b"\1")
    (folder / "c").write_text("")
    assert entry_problems(folder) == [
        f"{folder / 'b'}: its content is not what was written", f"{folder / 'c'}: not of the entry",
    ]  # fmt: skip


def test_what_is_finished_of_an_interrupted_one_is_gone_on_with(tmp_path: Path) -> None:
    def stops(folder: Path) -> dict[str, Any]:
        (folder / "half").write_text("done")
        raise KeyboardInterrupt

    def goes_on(folder: Path) -> dict[str, Any]:
        assert (folder / "half").read_text() == "done"
        return make(folder)

    with pytest.raises(KeyboardInterrupt):
        have_entry(tmp_path / "x", stops)
    (left,) = tmp_path.iterdir()
    assert is_left(left)
    assert find_entry(tmp_path / "x") is None
    assert have_entry(tmp_path / "x", goes_on) == (ABOUT, False)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_killed_maker_holds_nobody_up_and_a_living_one_keeps_its_folder(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path[0] = sys.argv[1]\n"
        "from pathlib import Path\nfrom storage.entries import have_entry\n"
        "def make(folder):\n    (folder / 'half').write_text('1'); print('begun', flush=True); time.sleep(60)\n"
        "have_entry(Path(sys.argv[2]), make)\n"
    )
    words = [sys.executable, "-c", code, str(ROOT), str(tmp_path / "x")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    (private,) = (p for p in tmp_path.iterdir() if p.is_dir())
    assert not is_left(private)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(have_entry, tmp_path / "x", make)
        time.sleep(0.3)
        assert not waiting.done()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert waiting.result(30) == (ABOUT, False)
    assert (tmp_path / "x" / "half").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_the_folder_of_a_maker_that_lives_is_not_gone_on_with_though_its_lock_was_broken(tmp_path: Path) -> None:
    theirs = beside(tmp_path / "x")
    theirs.mkdir()
    (theirs / "half").write_text("theirs")
    assert have_entry(tmp_path / "x", make) == (ABOUT, False)
    assert (theirs / "half").read_text() == "theirs"
    assert not (tmp_path / "x" / "half").exists()


def test_an_unfinished_folder_of_another_machine_is_left_for_a_day(tmp_path: Path) -> None:
    elsewhere = tmp_path / ".x.00000000-1-2.abcd.tmp"
    elsewhere.mkdir()
    assert not is_left(elsewhere)
    os.utime(elsewhere, (time.time() - 90_000,) * 2)
    assert is_left(elsewhere)
    for other in (".x.tmp", "x.00000000-1-2.abcd.tmp", ".x.00000000-1-2.abcd.new"):
        assert not is_left(tmp_path / other)


def test_a_cache_that_cannot_be_written_gives_what_it_holds_and_says_so_of_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_entry(tmp_path / "x", make)

    def refuse(path: object, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    for name in ("os.utime", "os.link", "pathlib.Path.mkdir", "pathlib.Path.write_text", "pathlib.Path.touch"):
        monkeypatch.setattr(name, refuse)
    assert have_entry(tmp_path / "x", make) == (ABOUT, True)
    with pytest.raises(InputError, match=r"cannot be written: Read-only file system; .*GEOSHARDS_CACHE"):
        have_entry(tmp_path / "y", make)

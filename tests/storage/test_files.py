"""A file or folder appears whole or not at all, whoever is killed when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from schemas.errors import InputError
from storage.files import atomic_file, atomic_folder, file_sha256, put
from storage.store import Store

ROOT = Path(__file__).resolve().parents[2]


def listed(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.bin"
    put(path, "old")

    def fail() -> None:
        with atomic_file(path) as fresh:
            fresh.write_text("half")
            assert path.read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    put(path, b"new")
    assert path.read_bytes() == b"new"
    assert listed(tmp_path) == ["a", "a/x.bin"]


def test_a_folder_takes_the_place_of_another_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with atomic_folder(path) as fresh:
        (fresh / "sub").mkdir()
        (fresh / "sub" / "one").write_text("1")

    def fail() -> None:
        with atomic_folder(path) as fresh:
            (fresh / "two").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert listed(tmp_path) == ["f", "f/sub", "f/sub/one"]
    with atomic_folder(path) as fresh:
        (fresh / "two").write_text("2")
    assert listed(tmp_path) == ["f", "f/two"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_flushed_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """The order in which the system is asked: content, name, folder."""
    done: list[str] = []
    flush, replace = os.fsync, Path.replace

    def fsync(number: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{number}"))
        flush(number)

    def rename(self: Path, target: Path) -> Path:
        done.append(f"rename to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    put(tmp_path / "x", b"1", durable)
    if not durable:
        assert done == ["rename to x"]
    else:
        assert done[0].endswith(".tmp")
        assert done[1:] == ["rename to x", str(tmp_path)]


def test_a_folder_is_flushed_with_all_that_is_in_it_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    flush, move = os.fsync, Path.rename

    def fsync(number: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{number}"))
        flush(number)

    def rename(self: Path, target: Path) -> Path:
        done.append(f"rename to {Path(target).name}")
        return move(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    with atomic_folder(tmp_path / "f") as fresh:
        (fresh / "sub").mkdir()
        (fresh / "sub" / "one").write_text("1")
    assert sorted(done[:-2]) == [f"{fresh}", f"{fresh}/sub", f"{fresh}/sub/one"]
    assert done[-2:] == ["rename to f", str(tmp_path)]


def test_a_process_killed_in_the_middle_leaves_the_old_file_and_one_that_is_swept(tmp_path: Path) -> None:
    put(tmp_path / "shards" / "x", "old")
    code = (
        "import sys, time; sys.path[0] = sys.argv[1]\nfrom pathlib import Path\nfrom storage.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[2])) as fresh:\n"
        "    fresh.write_text('half'); print('written', flush=True); time.sleep(60)\n"
    )
    words = [sys.executable, "-c", code, str(ROOT), str(tmp_path / "shards" / "x")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "shards" / "x").read_text() == "old"
    store = Store(tmp_path)
    assert store.names("shards") == ["x"]
    assert len(listed(tmp_path)) == 3
    store.sweep()
    assert listed(tmp_path) == ["shards", "shards/x"]


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/x cannot be written: .*; free space, or choose another folder"):
        Store(tmp_path / "file").write("x", b"")


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    put(tmp_path / "x", bytes(3_000_000))
    assert file_sha256(tmp_path / "x") == sha256(bytes(3_000_000)).hexdigest()

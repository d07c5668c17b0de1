"""One holder at a time, among processes and threads; a dead one holds nobody up."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.errors import InputError, LockError
from storage.locks import SILENCE, locked, locked_places, one_writer
from storage.owner import Owner

ROOT = Path(__file__).resolve().parents[2]


def holder(how: str, *words: str) -> subprocess.Popen[str]:
    """A process that holds a lock until it is killed."""
    code = (
        "import sys, time; sys.path[0] = sys.argv[1]\nfrom pathlib import Path\nfrom storage.locks import *\n"
        "from storage.locks import locked_places\n"
        f"with {how}:\n    print('held', flush=True); time.sleep(100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(ROOT), *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def add_one(path: Path, waiting: bool) -> None:
    with locked(path.with_suffix(".lock"), (lambda: time.sleep(0.001)) if waiting else None):
        number = int(path.read_text())
        time.sleep(0.002)
        path.write_text(str(number + 1))


@pytest.mark.parametrize("waiting", [True, False])
def test_no_two_threads_hold_it_although_its_file_goes_with_each(tmp_path: Path, waiting: bool) -> None:
    path = tmp_path / "n"
    path.write_text("0")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: add_one(path, waiting), range(100)))
    assert path.read_text() == "100"
    assert [p.name for p in tmp_path.iterdir()] == ["n"]


def test_processes_wait_for_each_other_and_a_dead_one_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "x.lock"
    process = holder("locked(Path(sys.argv[2]))", str(path))
    tried: list[int] = []

    def wait() -> None:
        tried.append(1)
        if len(tried) == 3:
            kill(process)
        time.sleep(0.01)

    with locked(path, wait):
        assert len(tried) >= 3
    assert not path.exists()


def test_a_wait_may_give_up(tmp_path: Path) -> None:
    def wait() -> None:
        raise TimeoutError

    with locked(tmp_path / "x"), pytest.raises(TimeoutError), locked(tmp_path / "x", wait):
        pass
    with locked(tmp_path / "x", wait):
        pass


def test_places_of_one_file_are_held_apart(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder("locked_places(Path(sys.argv[2]), [5, 3])", str(path))
    taken: list[str] = []

    def take() -> None:
        with locked_places(path, [4, 2**58]):
            taken.append("others")
        with locked_places(path, [9, 5]):
            taken.append("its own")

    thread = threading.Thread(target=take)
    thread.start()
    thread.join(0.5)
    assert taken == ["others"]
    kill(process)
    thread.join(30)
    assert taken == ["others", "its own"]


def test_a_second_writer_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    process = holder("one_writer(sys.argv[2])", str(tmp_path / "d"))
    said = f"d is being written by process {process.pid} on {socket.gethostname()}, whose .*; wait for it"
    with pytest.raises(LockError, match=said), one_writer(str(tmp_path / "d")):
        pass
    assert [p.name for p in (tmp_path / "d").iterdir()] == [".lock"]
    kill(process)
    with one_writer(str(tmp_path / "d")):
        owner = Owner.parse((tmp_path / "d" / ".lock").read_text())
        assert owner is not None
        assert (owner.host, owner.pid, owner.alive()) == (socket.gethostname(), os.getpid(), True)
    assert not list((tmp_path / "d").iterdir())


def test_a_second_thread_of_the_same_process_is_refused(tmp_path: Path) -> None:
    with one_writer(str(tmp_path)), pytest.raises(LockError), one_writer(str(tmp_path)):
        pass


#: A process of another machine, and one of this machine that is gone.
ELSEWHERE = Owner("elsewhere", "another boot", 1, 2, "theirs")
GONE = replace(Owner.here("dead"), pid=2**22 + 1)


def test_what_a_writer_of_another_machine_left_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(ELSEWHERE.text())
    os.utime(tmp_path / ".lock", (0, 0))
    said = r"process 1 on elsewhere, whose last sign of life is \d{6,} s old; .*delete .*\.lock"
    with pytest.raises(LockError, match=said), one_writer(str(tmp_path)):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_a_number_that_another_process_has_now_is_not_its_owner(tmp_path: Path) -> None:
    """Containers begin with the same numbers each time."""
    (tmp_path / ".lock").write_text(replace(Owner.here("dead"), started=1).text())
    with one_writer(str(tmp_path)):
        assert Owner.parse((tmp_path / ".lock").read_text()) != GONE
    with one_writer(str(tmp_path)), pytest.raises(LockError), one_writer(str(tmp_path)):
        pass


def test_an_owner_elsewhere_counts_as_gone_when_it_has_long_been_silent(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(ELSEWHERE.text())
    tried: list[int] = []

    def wait() -> None:
        tried.append(1)
        if len(tried) == 3:
            os.utime(path, (time.time() - SILENCE - 5,) * 2)

    with locked(path, wait):
        assert len(tried) == 3
    assert not list(tmp_path.iterdir())


def test_an_owner_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.locks.BEAT", 0.02)
    with locked(tmp_path / "x"):
        os.utime(tmp_path / "x", (0, 0))
        deadline = time.monotonic() + 30
        while (tmp_path / "x").stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_lock_of_who_came_after_stays(tmp_path: Path) -> None:
    """One whose lock was broken gives back nothing."""
    with locked(tmp_path / "x"):
        (tmp_path / "x").write_text(ELSEWHERE.text())
    assert Owner.parse((tmp_path / "x").read_text()) == ELSEWHERE


def test_a_breaker_that_was_killed_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(GONE.text())
    (tmp_path / ".x.break").write_text(GONE.text())
    with locked(tmp_path / "x"):
        pass
    assert not list(tmp_path.iterdir())


def test_neither_locks_of_the_kernel_nor_hard_links_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    for name in ("fcntl.flock", "fcntl.lockf", "os.link"):
        monkeypatch.setattr(f"storage.locks.{name}", unsupported)
    with one_writer(str(tmp_path)), pytest.raises(LockError), one_writer(str(tmp_path)):
        pass
    with one_writer(str(tmp_path)), locked(tmp_path / "x"), locked_places(tmp_path / "y", [1]):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["y"]


def test_of_many_writers_at_once_one_is_let_in(tmp_path: Path) -> None:
    """Each begins where a dead writer's lock lies; nobody is let in beside another."""
    inside, most, refused = 0, 0, 0
    guard, start = threading.Lock(), threading.Barrier(8)

    def enter(_: int) -> None:
        nonlocal inside, most, refused
        start.wait()
        try:
            with one_writer(str(tmp_path)):
                with guard:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.01)
                with guard:
                    inside -= 1
        except LockError:
            with guard:
                refused += 1

    for _ in range(20):
        (tmp_path / ".lock").write_text(GONE.text())
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(enter, range(8)))
    assert most == 1
    assert 0 < refused < 160
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/d cannot be written"), one_writer(str(tmp_path / "file" / "d")):
        pass


def test_a_full_disk_leaves_no_lock_that_nobody_owns(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot be written: File too large"), one_writer(str(tmp_path)):
            raise AssertionError
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    with one_writer(str(tmp_path)):
        pass

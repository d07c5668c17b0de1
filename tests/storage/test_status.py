"""What a run says of itself: seen while it lives, marked by how it ended, no part of what it makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from schemas.errors import DatasetError, LockError
from storage import status as module
from storage.manifest import read_manifest, write_manifest
from storage.owner import Owner
from storage.progress import Progress, Usage
from storage.status import FAILED, FINISHED, GONE, NAME, RUNNING, STOPPED, Snapshot, Status, read_status
from storage.store import Store


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.02)
    monkeypatch.setattr(module, "EVERY_REMOTE", 0.02)


def wait_for_word(store: Store) -> Snapshot:
    deadline = time.monotonic() + 20
    while (found := read_status(store)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("root", ["{}", "memory://status-of-a-run"])
def test_a_run_is_seen_while_it_works_and_leaves_nothing_where_it_ends_well(tmp_path: Path, root: str) -> None:
    store, status = Store(root.format(tmp_path / "out")), Status("shards")
    status.stage = "samples"
    with status.telling(store.root), Progress("samples", 100, "tiles", quiet=True) as line:
        line.advance(25)
        status.done.update(tiles=25)
        status.drops.update(nodata=3)
        while not (found := wait_for_word(store)).drops:
            time.sleep(0.01)
        store.write("shards/a.tar", b"a")
        write_manifest(store)
    (reading,) = [r for r in found.readings() if r.name == "samples"]
    assert (reading.done, reading.total, reading.unit) == (25, 100, "tiles")
    assert reading.rate > 0
    assert found.drops == {"nodata": 3}
    assert found.standing(time.time()) == RUNNING
    assert list(read_manifest(store)) == ["shards/a.tar"]
    assert read_status(store) is None


def test_a_failure_an_interrupt_and_a_training_leave_their_last_word(tmp_path: Path) -> None:
    for error, state in ((DatasetError("the disk is gone"), FAILED), (KeyboardInterrupt(), STOPPED), (None, FINISHED)):
        store, status = Store(tmp_path / state), Status("train")
        try:
            with status.telling(store.root, stay=True):
                status.values = {"loss": 0.5}
                wait_for_word(store)
                if error is not None:
                    raise error
        except (DatasetError, KeyboardInterrupt):
            pass
        said = read_status(store)
        assert said is not None
        assert (said.state, said.values) == (state, {"loss": 0.5})
        assert (said.reason == "the disk is gone") == (state == FAILED)


def test_a_run_that_was_refused_at_once_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 60.0)
    with pytest.raises(DatasetError), Status("shards").telling(str(tmp_path / "out")):
        raise DatasetError("no")
    assert not list(tmp_path.iterdir())


def test_a_killed_run_is_gone_at_once_here_and_by_its_silence_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """if True:
        import sys, time
        from storage import status
        status.EVERY = 0.05
        with status.Status("shards").telling(sys.argv[1]):
            time.sleep(60)
        """
    run = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=Path(__file__).parents[2])
    try:
        said = wait_for_word(Store(tmp_path))
        assert said.standing(time.time()) == RUNNING
    finally:
        run.kill()
        run.wait()
    assert said.standing(time.time()) == GONE
    elsewhere = replace(said, owner=said.owner | {"boot": "another machine"})
    assert elsewhere.standing(said.written + 59) == RUNNING
    assert elsewhere.standing(said.written + 61) == GONE
    with Status("shards").telling(str(tmp_path)):  # the next run says its own
        while (found := read_status(Store(tmp_path))) is None or found.owner["pid"] != os.getpid():
            time.sleep(0.01)
    Store(tmp_path).write(NAME, json.dumps(asdict(said)).encode())
    monkeypatch.setattr(module, "EVERY", 60.0)
    with Status("shards").telling(str(tmp_path)):  # or takes the other's away
        pass
    assert not list(tmp_path.iterdir())


def test_a_second_run_leaves_the_word_of_one_that_lives(tmp_path: Path) -> None:
    parent = Owner.here()
    other = replace(Status("shards").snapshot(), owner=asdict(parent) | {"boot": "another machine"})
    store = Store(tmp_path)
    store.write(NAME, json.dumps(asdict(other)).encode())
    with Status("shards").telling(str(tmp_path)):
        time.sleep(0.1)
    assert read_status(store) == other


def test_a_run_that_another_one_kept_out_leaves_no_word_of_its_own(tmp_path: Path) -> None:
    """Both read the same inputs; the first to speak need not be the first to write."""

    def run() -> None:
        with Status("shards").telling(str(tmp_path)):
            wait_for_word(Store(tmp_path))
            raise LockError("being written by another")

    with pytest.raises(LockError):
        run()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [{"drops": [1]}, {"drops": {"a": "b"}}, {"lines": [{}]}, {"state": "well"}, {"written": None}, {"usage": {"x": 1}},
     {"owner": 3}, {"lines": [{"name": "a", "done": "x", "total": 1, "unit": "b", "rate": 1}]}],
)  # fmt: skip
def test_a_document_of_somebody_else_is_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    store = Store(tmp_path)
    store.write(NAME, json.dumps(asdict(Status("shards").snapshot()) | change).encode())
    with pytest.raises(DatasetError, match=r"is no status of a run"):
        read_status(store)


def test_what_a_process_uses_is_counted(tmp_path: Path) -> None:
    before = Usage.here()
    (tmp_path / "x").write_bytes(bytes(1_000_000))
    (tmp_path / "x").read_bytes()
    Store("memory://usage").write("a", bytes(1000))
    Store("memory://usage").read("a")
    sum(i * i for i in range(300_000))
    used = Usage.here() - before
    assert 1_000_000 <= used.bytes_read < 1_200_000
    assert 1_000_000 <= used.bytes_written < 1_200_000
    assert (used.bytes_fetched, used.bytes_sent) == (1000, 1000)
    assert used.cpu_seconds > 0

"""One round of some kinds of chaos, of which `make chaos` plays many; and that it sees what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.kinds import stop_before
from tests.chaos.world import Round, World, differing

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(400)
def test_builds_at_once_or_killed_and_stores_that_fail_end_right_or_with_one_clear_line() -> None:
    words = [sys.executable, "-m", "tests.chaos", "--rounds=1", "--kind=builds,points,expiry"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = [line.split("|")[1].strip() for line in done.stdout.splitlines()]
    assert kinds == ["kind", "---", "builds", "points", "expiry", "all"]


@pytest.mark.parametrize(("number", "left"), [(1, []), (2, ["a"]), (3, ["a", "b"]), (4, ["b"]), (5, ["b"])])
def test_a_process_is_killed_just_before_the_change_that_is_meant(tmp_path: Path, number: int, left: list[str]) -> None:
    pid = os.fork()
    if not pid:
        stop_before(tmp_path, number)
        (tmp_path / "a").write_bytes(b"")
        assert not (tmp_path / "a").read_bytes()  # no change
        (tmp_path / "b").write_bytes(b"")
        (tmp_path / "a").unlink()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == (-signal.SIGKILL if number < 4 else 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == left


def test_bytes_that_are_missing_others_or_too_many_are_lost_ones() -> None:
    right = {"a": (5, "x"), "b": (7, "y")}
    assert differing(right, dict(right)) == 0
    others = ({"a": (5, "x")}, right | {"b": (3, "z")}, right | {"c": (9, "w")})
    assert [differing(right, found) for found in others] == [7, 7, 9]


def play(tmp_path: Path, code: str, **how: bool) -> Round:
    """A round of one command: Python code in the place of ``geoshards``."""
    case = Round("kind", 0, tmp_path, World(None, {}, {}, tmp_path, {}, 1.0, "", tmp_path))  # type: ignore[arg-type]
    case.judge(case.start([], before=lambda: exec(code, {})), lambda: 0, **how)  # type: ignore[arg-type]
    case.end()
    return case


@pytest.mark.parametrize(
    ("code", "end", "found"),
    [
        ("import os; os._exit(0)", "right", ""),
        ("import os; os.kill(os.getpid(), 9)", "killed", ""),
        ("import os; os.write(2, b'error: run the same again'); os._exit(1)", "refused", ""),
        ("import os; os.write(2, b'error: who knows'); os._exit(1)", "wrong", "who knows"),
        ("raise KeyError('x')", "wrong", "ended with 1"),
        ("import os; open('.x.tmp', 'w').close(); os._exit(0)", "right", "left behind: .x.tmp"),
    ],
)
def test_an_end_without_a_clear_line_and_what_is_left_are_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, end: str, found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    case = play(tmp_path, code)
    assert dict(case.ends) == {end: 1}
    assert [found in what for what in case.findings] == [True] * bool(found)


def test_a_run_that_nothing_disturbs_may_not_be_refused(tmp_path: Path) -> None:
    code = "import os; os.write(2, b'error: run the same again'); os._exit(1)"
    assert dict(play(tmp_path, code, again=True).ends) == {"wrong": 1}


def test_a_run_that_is_stopped_leaves_one_line_and_no_folder(tmp_path: Path) -> None:
    """Told twice, and its forks too, as `timeout` does."""
    words = [sys.executable, "-m", "tests.chaos", "--kind", "points", "--rounds", "1"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    run = subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True, env=environment)

    def folders() -> list[Path]:
        return [p for place in (tmp_path, Path("/dev/shm")) for p in place.glob(f"chaos-{run.pid}-*/village")]

    while not folders() and run.poll() is None:
        time.sleep(0.05)
    for _ in range(2):
        os.killpg(run.pid, signal.SIGTERM)
    assert run.communicate()[1] == b"stopped\n"
    assert run.returncode == 143
    assert not folders()

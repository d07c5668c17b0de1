"""What goes wrong in a cluster: workers, the driver, Ray's own servers killed while a build of two workers runs."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.chaos.world import CLEAR, Process, Round, drop

#: What is killed, and how its command line begins.
VICTIMS = {"driver": "", "worker": ("ray::_", "ray::IDLE"), "raylet": "raylet", "gcs_server": "gcs_server"}


def cluster(case: Round) -> None:
    """A build of two workers one of whose processes is killed at some moment; then the same again."""
    rng, out = case.rng, case.folder / "out"
    victim = list(VICTIMS)[case.number % len(VICTIMS)]
    base = case.folder.parent if len(str(case.folder.parent)) < 30 else "/tmp"  # paths of sockets are short
    sessions = Path(tempfile.mkdtemp(prefix="r", dir=base))
    environment = {"RAY_TMPDIR": str(sessions), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    try:
        words = case.world.words(18, out, case.cache, workers=2)
        process = case.start(words, environment)
        _kill(case, process, victim, rng.random())
        case.judge(process, case.compared(out, "18"), clear=(*CLEAR, "Ray gave up"), noise=True)
        deadline = time.monotonic() + 90  # Ray's servers see that their driver is gone, and end
        while (left := case.others()) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            case.end_others(f"outlives its build, whose {victim} was killed")
        case.judge(case.build(18, out), case.compared(out, "18"), again=True)
    finally:
        drop(sessions)


def _kill(case: Round, process: Process, victim: str, moment: float) -> None:
    """Kill it, some time after the cluster is up: while Ray starts, its own code ends a process whose server is gone,
    with words of its own, and lets nobody else in that process run."""
    while process.poll() is None:
        others = [pid for pid in case.others() if _words(pid).startswith(VICTIMS[victim])]
        found = [process.pid] if victim == "driver" else others
        up = any(_words(pid).startswith(VICTIMS["worker"]) for pid in case.others())
        if found and (up or victim == "driver"):
            time.sleep(moment * (6.0 if victim == "driver" else 2.0) * case.world.seconds)
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.02)


def _words(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return words[0].decode(errors="replace").rsplit("/", 1)[-1]
    except OSError:
        return ""

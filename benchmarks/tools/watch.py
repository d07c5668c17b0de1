"""Not a race: runs a command and watches what its processes take."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Watched:
    """What a command took."""

    seconds: float  # by the clock
    anonymous_mb: float  # largest RssAnon, summed over all its processes
    processor_s: float  # of itself and those that it waited for
    output: str


def anonymous_mb(pid: int) -> float:
    """RssAnon of a process and those below it, in MB."""
    own, children = 0.0, []
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                own = int(line.split()[1]) / 1024
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children += (thread / "children").read_text().split()
    except OSError:  # it has ended
        pass
    return own + sum(anonymous_mb(int(c)) for c in children)


def watched(words: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None) -> Watched:
    """Run a command in a folder.

    Raises:
        SystemExit: it fails.
    """
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(words, cwd=folder, env=variables, stdout=output, stderr=subprocess.DEVNULL)
        peak, done = 0.0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.is_set():
                peak = max(peak, anonymous_mb(process.pid))
                time.sleep(0.3)  # looking at the many threads of Ray takes time from the two cores

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = status
        done.set()
        watcher.join()
        if status:
            raise SystemExit(f"error: {' '.join(words[:3])} … ended with {status}")
        output.seek(0)
        return Watched(seconds, peak, usage.ru_utime + usage.ru_stime, output.read())

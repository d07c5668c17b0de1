"""Inputs read in a process of its own that is watched: one that dies or stands still is a finding.

What an input came to is a line of text; the rest goes on without one that ended its process. The files of the input
that is read lie in a folder that outlives it.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa

SECONDS, MEGABYTES = 5, 1000
Outcome = Callable[[int, Path], str]  # of an input's number and an empty folder
Found = Callable[[int, str], None]


def _megabytes() -> int:
    """The most that this process has held; getrusage would tell that of its parent."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024


class Judge:
    """Reads inputs one by one in the process that it is in, and sends what each came to down a pipe."""

    def __init__(self, folder: Path, pipe: int) -> None:
        self.own, self.pipe = folder / "in", pipe
        # What libraries hold before the first input is not its own.
        self.most = max(MEGABYTES, _megabytes() + MEGABYTES // 2)

    def __call__(self, number: int, outcome: Outcome) -> bool:
        """Whether the process may go on."""
        self.own.mkdir()
        begin = time.process_time()
        result = outcome(number, self.own)
        if (spent := time.process_time() - begin) > SECONDS:
            result = f"{spent:.0f} s"
        if (most := _megabytes()) > self.most:
            result = f"{most} MB"
        os.write(self.pipe, f"{number}\t{ascii(result)[1:-1][:2000]}\n".encode())
        shutil.rmtree(self.own)
        return most <= self.most  # it never falls again


class _Patience:
    """How long a process may say nothing: four times its seconds of a core, or of waiting for something else than one,
    for the machine may be busy with others. One whose threads use a core does not wait.
    """

    def __init__(self, child: int) -> None:
        self._stat, self._most = Path(f"/proc/{child}/stat"), 4 * SECONDS
        self.heard()

    def heard(self) -> None:
        """It said something."""
        self._used, self._waited = self._seconds()[1], 0.0
        self._last = self._used

    def ends(self, quiet: float) -> bool:
        """After more seconds of quiet."""
        runs, used = self._seconds()
        self._waited += 0.0 if runs or used > self._last else quiet
        self._last = used
        return used - self._used > self._most or self._waited >= self._most

    def _seconds(self) -> tuple[bool, float]:
        fields = self._stat.read_text().rpartition(")")[2].split()
        return fields[0] == "R", (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def nothing_of_the_user() -> None:
    """What a read may depend on is the same in a run and in a test, and nothing is asked of the web: a link that is
    damaged may lead there.
    """
    for name in [n for n in os.environ if n.lower().endswith("_proxy") or n.startswith(("GEOSHARDS_", "AWS_"))]:
        del os.environ[name]
    os.environ |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    warnings.simplefilter("ignore")
    logging.disable()


def each(numbers: Iterable[int], outcome: Outcome, until: float) -> Callable[[Judge], None]:
    """What a watched process does: inputs by number, one at least, until a time of the monotonic clock."""

    def work(judge: Judge) -> None:
        for number in numbers:
            if not judge(number, outcome) or time.monotonic() > until:
                return

    return work


def watched(work: Callable[[Judge], None], found: Found, lost: Callable[[str, Path], None]) -> bool:
    """Do ``work`` in a fork; ``found`` is told of each input, ``lost`` why the process ended within one, and the folder
    in which its files lie still. Whether it ended by itself.
    """
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (4000 << 20, 4000 << 20))
            nothing_of_the_user()
            pa.set_cpu_count(1)  # inputs are small: to share one out costs more than to read it
            work(Judge(folder, writing))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    rest, still, patience = b"", False, _Patience(child)
    while not still:
        if not select.select([reading], [], [], SECONDS)[0]:
            still = patience.ends(SECONDS)
            continue
        data = os.read(reading, 1 << 16)
        if not data:
            break
        patience.heard()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            number, result = line.decode().split("\t", 1)
            found(int(number), result)
    os.close(reading)
    if still:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if still or status:
        lost("stands still" if still else f"the process died ({status})", folder / "in")
    shutil.rmtree(folder, ignore_errors=True)
    return not (still or status)


def run(first: int, last: int, outcome: Outcome, found: Found, until: float = float("inf")) -> None:
    """Inputs of a range, one after another in watched processes, one at least, until a time of the monotonic clock."""
    begun = False
    while first < last and (not begun or time.monotonic() < until):
        begun = True

        def told(number: int, result: str) -> None:
            nonlocal first
            first = number + 1
            found(number, result)

        watched(each(range(first, last), outcome, until), told, lambda why, _: told(first, why))

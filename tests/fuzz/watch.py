"""Inputs read in a process of its own that is watched: one that dies or stands still is a finding.

What an input came to is a line of text; the rest goes on without one that ended its process. The files of the input
that is read lie in a folder that outlives it.
"""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import tempfile
import time
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


def _waits_for_a_core(child: int) -> bool:
    """Whether a process would go on, but the machine is busy with others: it has not had its seconds since it was asked
    last, or since its start.
    """
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    before = _used.get(child, 0.0)
    _used[child] = used
    return fields[0] == "R" and used - before < 4 * SECONDS


_used: dict[int, float] = {}


def each(numbers: Iterable[int], outcome: Outcome, until: float) -> Callable[[Judge], None]:
    """What a watched process does: inputs by number, until a time of the monotonic clock."""

    def work(judge: Judge) -> None:
        for number in numbers:
            if time.monotonic() > until or not judge(number, outcome):
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
            pa.set_cpu_count(1)  # inputs are small: to share one out costs more than to read it
            work(Judge(folder, writing))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    rest, still = b"", False
    while not still:
        quiet = not select.select([reading], [], [], 20 * SECONDS)[0]
        if quiet and _waits_for_a_core(child):
            continue
        still = quiet
        data = b"" if still else os.read(reading, 1 << 16)
        if not data:
            break
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
    """All inputs of a range, one after the other in watched processes, until a time of the monotonic clock."""
    while first < last and time.monotonic() < until:

        def told(number: int, result: str) -> None:
            nonlocal first
            first = number + 1
            found(number, result)

        before = first
        whole = watched(each(range(first, last), outcome, until), told, lambda why, _: told(first, why))
        if whole and first == before:  # the time was over
            return

"""Inputs by number, read in a process of its own that is watched: one that dies or stands still is a finding.

What an input came to is a line of text; the rest goes on without one that ended its process.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SECONDS, MEGABYTES = 5, 1000
Outcome = Callable[[int, Path], str]  # of an input's number and an empty folder


def _megabytes() -> int:
    """The most that this process has held; getrusage would tell that of its parent."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024


def _child(numbers: Iterable[int], outcome: Outcome, pipe: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (4000 << 20, 4000 << 20))
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(dir=place))
    try:
        for number in numbers:
            own = folder / "in"
            own.mkdir()
            begin = time.process_time()
            result = outcome(number, own)
            if (spent := time.process_time() - begin) > SECONDS:
                result = f"{spent:.0f} s"
            if (most := _megabytes()) > MEGABYTES:
                result = f"{most} MB"
            os.write(pipe, f"{number}\t{ascii(result)[1:-1][:2000]}\n".encode())
            shutil.rmtree(own)
            if most > MEGABYTES:  # it never falls again
                return
    finally:
        shutil.rmtree(folder)


def run(first: int, last: int, outcome: Outcome, found: Callable[[int, str], None]) -> None:
    """All inputs of a range, one after the other in a watched process; ``found`` is told each outcome."""
    while first < last:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            status = 1
            try:
                _child(range(first, last), outcome, writing)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        rest, still = b"", False
        while not still:
            # A machine that is busy with other things makes a second last longer.
            still = not select.select([reading], [], [], 20 * SECONDS)[0]
            data = b"" if still else os.read(reading, 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                number, result = line.decode().split("\t", 1)
                found(int(number), result)
                first = int(number) + 1
        os.close(reading)
        if still:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if first < last and (still or status):
            found(first, "stands still" if still else f"the process died ({status})")
            first += 1


def command(description: str, outcome: Outcome, good: frozenset[str], files: int, words: list[str]) -> int:
    """``--files N --first N --workers N``: prints what is not ``good``, then counts and seconds; 1 if anything is."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=files)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args(words)
    counts: Counter[str] = Counter()
    begin = time.monotonic()

    def found(number: int, result: str) -> None:
        counts[result if result in good else "wrong"] += 1
        if result not in good:
            print(f"file {number}: {result}", flush=True)
        if sum(counts.values()) % 10_000 == 0:
            print(f"{dict(counts)}, {time.monotonic() - begin:.0f} s", flush=True)

    step = -(-args.files // args.workers)
    starts = range(args.first, args.first + args.files, step)
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(lambda s: run(s, min(s + step, args.first + args.files), outcome, found), starts))
    print(f"{dict(counts)}, {time.monotonic() - begin:.0f} s")
    return int(counts["wrong"] > 0)

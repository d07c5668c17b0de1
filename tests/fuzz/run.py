#!/usr/bin/env python3
"""Damaged inputs at every door end in a result, in named drops or in one line that names the file or the setting, each
within 5 s and 1 GB, and none ends the process.

Usage: python -m tests.fuzz.run [TARGET …] --seconds 60 | --files 5000 [--first N] [--workers 2] [--keep FOLDER]

Each target has an equal share of the seconds; what it takes to make whole inputs, and to make findings smaller at the
end, comes on top. An input is made from its target and number alone: `--first N --files 1` does one again. With seconds
and no first number it is drawn anew each time; where atheris is installed one worker of two then goes by coverage. Of
each kind of finding the smallest input that shows it is kept under FOLDER (tests/fuzz/corpus), which the tests read
ever after.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import re
import secrets
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp, mkstemp

import numpy as np

from tests.fuzz.damage import GOOD, Files, Target
from tests.fuzz.targets import NAMES, target_of
from tests.fuzz.watch import Judge, run, watched

ROOMS = ["schemas", "geometry", "storage", "pipeline", "trainers"]
CORPUS = Path(__file__).parent / "corpus"
#: Runs of the shrinking of one finding, and seconds.
_TRIES, _PATIENCE = 300, 20.0


def write(files: Files, folder: Path) -> Path:
    """Files by name; returns the first."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder / next(iter(files))


def outcome(target: Target, files: Files, folder: Path) -> str:
    """How one input ends: one of `GOOD`, or what is wrong."""
    path = write(files, folder)
    told = _errors(os.getpid())
    before = told.stat().st_size
    try:
        result = target.read(path)
    except BaseException as error:  # noqa: BLE001  # any is a finding
        where = "; ".join(
            f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-4:]
        )
        return f"{type(error).__name__}: {error} at {where}"
    if told.stat().st_size == before:
        return result
    with told.open("rb") as file:
        file.seek(before)
        text = file.read().decode(errors="replace")
    return f"stderr: {text}" if "Traceback" in text or "Exception" in text else result


@cache
def _errors(_: int) -> Path:
    """What this process writes on standard error goes there: a traceback may come from where no exception leads."""
    descriptor, name = mkstemp()
    os.dup2(descriptor, 2)
    return Path(name)


def kind_of(result: str) -> str:
    """What findings have in common: the text without numbers and quotes, and the place."""
    what, _, where = result.partition(" at ")
    return re.sub(r"0x[0-9a-f]+|\d+|'.*?'|\".*?\"", "", what)[:60] + where.rpartition("; ")[2]


@dataclass
class Tally:
    """What has been seen of one target."""

    ends: Counter[str] = field(default_factory=Counter)
    findings: dict[str, str] = field(default_factory=dict)  # the first of each kind
    seconds: float = 0.0

    def row(self, name: str) -> str:
        """A line of the table."""
        ends = (self.ends[end] for end in ("read", "dropped", "refused", "wrong"))
        return f"{name:<11}{self.seconds:>9,.1f}" + "".join(f"{n:>9,}" for n in (sum(self.ends.values()), *ends))


HEAD = f"{'target':<11}" + "".join(f"{w:>9}" for w in ("seconds", "files", "read", "dropped", "refused", "findings"))


class Fuzz:
    """Reads damaged inputs of one target, and keeps the smallest of each kind of finding."""

    def __init__(self, name: str, target: Target, keep: Path) -> None:
        self.name, self.target, self.keep = name, target, keep
        self.tally = Tally()
        self.scratch = Path(mkdtemp())
        self.wrong: list[tuple[str, Files]] = []  # the first of each kind, as it came
        _ = self.target.inputs  # made once, before any fork

    def by_number(self, first: int, last: int, until: float) -> None:
        """Inputs by number."""

        def found(number: int, result: str) -> None:
            self._count(result, f"--first {number} --files 1", lambda: self.target.files(number))

        run(first, last, lambda n, folder: outcome(self.target, self.target.files(n), folder), found, until)

    def whole(self) -> None:
        """Inputs without damage, of which one at least is read: else nothing would be found behind the door."""
        ends: list[str] = []
        for files in self.target.inputs:
            ends += self.ends_of(files)
        if not GOOD.issuperset(ends) or "read" not in ends:
            self._count(f"whole inputs end in {ends}", "", dict)

    def ends_of(self, files: Files) -> list[str]:
        """What one input comes to in a process of its own."""
        ends: list[str] = []
        watched(
            lambda judge: judge(0, lambda _, folder: outcome(self.target, files, folder)) and None,
            lambda _, result: ends.append(result),
            lambda why, _: ends.append(why),
        )
        return ends

    def by_coverage(self, seed: int, until: float) -> None:
        """Inputs that reach new code are damaged further; all of them by bytes of one file of a whole input."""
        corpus = self.scratch / f"corpus-{seed}"
        corpus.mkdir()
        for n, files in enumerate(self.target.inputs):
            for m, data in enumerate(files.values()):
                (corpus / f"whole-{n}-{m}").write_bytes(bytes([n, m]) + data)

        def unpacked(data: bytes) -> Files:
            whole = self.target.inputs[data[0] % len(self.target.inputs)]
            name = list(whole)[data[1] % len(whole)]
            return whole | {name: data[2:]}

        def changed(data: bytes, most: int, own: int) -> bytes:
            import atheris

            if len(data) < 2 or own % 4 == 0:
                return bytes(atheris.Mutate(data, most))
            whole = self.target.inputs[data[0] % len(self.target.inputs)]
            try:
                made = self.target.change(data[2:], list(whole)[data[1] % len(whole)], np.random.default_rng(own))
            except Exception:  # noqa: BLE001  # damage to what is damaged already
                return bytes(atheris.Mutate(data, most))
            return (data[:2] + made)[:most]

        def work(judge: Judge) -> None:
            count = 0

            def one(data: bytes) -> None:
                nonlocal count
                count += 1
                if len(data) >= 2:

                    def read(number: int, folder: Path) -> str:
                        result = outcome(self.target, unpacked(data), folder)
                        if result not in GOOD:
                            (self.scratch / f"wrong-{number}").write_bytes(data)
                        return result

                    if not judge(count, read) or time.monotonic() > until:
                        os._exit(0)

            import atheris

            flags = ["-max_len=200000", f"-seed={seed % 2**31}", "-timeout=100000", "-rss_limit_mb=0", "-verbosity=0"]
            flags += [f"-max_total_time={max(1, round(until - time.monotonic()))}", f"-artifact_prefix={self.scratch}/"]
            _errors(os.getpid())
            atheris.Setup(["fuzz", str(corpus), *flags], one, custom_mutator=changed)
            atheris.Fuzz()

        def found(number: int, result: str) -> None:
            self._count(result, "", lambda: unpacked((self.scratch / f"wrong-{number}").read_bytes()))

        def lost(why: str, folder: Path) -> None:
            names = self.target.inputs[0]
            self._count(why, "", lambda: {n: (folder / n).read_bytes() for n in names if (folder / n).exists()})

        while time.monotonic() < until:
            watched(work, found, lost)

    def _count(self, result: str, again: str, files: Callable[[], Files]) -> None:
        self.tally.ends[result if result in GOOD else "wrong"] += 1
        if result in GOOD or kind_of(result) in self.tally.findings:
            return
        self.tally.findings[kind_of(result)] = result
        print(f"{self.name}: {result}  {again}", flush=True)
        self.wrong.append((result, files()))

    def kept(self) -> None:
        """Put the smallest input that shows each kind into the corpus."""
        for number, (result, files) in enumerate(self.wrong):
            if not files:
                continue
            folder = self.keep / self.name / re.sub(r"[^A-Za-z0-9]+", "_", kind_of(result)).strip("_").lower()[:80]
            shutil.rmtree(folder, ignore_errors=True)
            smallest = self._shrunk(files, kind_of(result))
            # What is kept must show the fault to whoever reads it next: alone, in a process that has read nothing else.
            shows = next((own for own in (smallest, files) if self._shows(own, kind_of(result), times=2)), None)
            write(shows or files, folder)
            alone = "" if shows else ", although it does not come again when read alone"
            print(f"{self.name}: finding {number} is kept in {folder}{alone}", flush=True)

    def _shows(self, files: Files, kind: str, times: int = 1) -> bool:
        return all(kind in map(kind_of, self.ends_of(files)) for _ in range(times))

    def _shrunk(self, files: Files, kind: str) -> Files:
        """The smallest of the files found in a while that comes to the same kind of end: without files that are not
        needed, and without stretches of bytes, halves first.
        """
        end, tries = time.monotonic() + _PATIENCE, 0

        def same(candidate: Files) -> bool:
            nonlocal tries
            tries += 1
            return self._shows(candidate, kind)

        def go_on() -> bool:
            return tries < _TRIES and time.monotonic() < end

        best = dict(files)
        for name in list(best)[1:]:
            without = {n: d for n, d in best.items() if n != name}
            if go_on() and same(without):
                best = without
        for name in best:
            step = len(best[name]) // 2
            while step and go_on():
                at = 0
                while at < len(best[name]) and go_on():
                    shorter = best | {name: best[name][:at] + best[name][at + step :]}
                    if same(shorter):
                        best = shorter
                    else:
                        at += step
                step //= 2
        return best


def fuzz(targets: Sequence[Fuzz], args: argparse.Namespace) -> int:
    """Run targets one after the other on all workers; prints a table. 1 if anything is wrong."""
    drawn = args.first is None and args.seconds is not None
    first = secrets.randbelow(1 << 40) if drawn else args.first or 0
    coverage = drawn and args.workers > 1 and guided()
    print(f"first input: {first}{', one worker by coverage' if coverage else ''}", flush=True)
    for own in targets:
        own.whole()
        begin = time.monotonic()
        until = begin + args.seconds / len(targets) if args.seconds else math.inf
        count = args.files or 1 << 40
        count = max(1, int(count / own.target.cost)) if args.fewer else count
        step = -(-count // args.workers)
        jobs = [(own.by_number, (at, min(at + step, first + count), until))
                for at in range(first, first + count, step)]  # fmt: skip
        if coverage and own.target.make is None:
            jobs[0] = own.by_coverage, (first, until)
        with ThreadPoolExecutor(args.workers) as pool:
            for done in [pool.submit(work, *words) for work, words in jobs]:
                done.result()
        own.tally.seconds = time.monotonic() - begin
    for own in targets:
        own.kept()
        shutil.rmtree(own.scratch)
    print(HEAD, *(own.tally.row(own.name) for own in targets), sep="\n")
    return int(any(own.tally.findings for own in targets))


def guided() -> bool:
    """Whether inputs can go by coverage here."""
    return find_spec("atheris") is not None


def _number(kind: type[int] | type[float], least: int) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not least <= number < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of {least} or more")
        return number

    return read


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(NAMES))
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--seconds", type=_number(float, 1), help="for all targets; one for each at least")
    amount.add_argument("--files", type=_number(int, 1), help="of each target (default 1000)")
    parser.add_argument("--first", type=_number(int, 0), help="number of the first input")
    parser.add_argument("--workers", type=_number(int, 1), default=1)
    parser.add_argument("--keep", type=Path, default=CORPUS)
    parser.add_argument("--fewer", action="store_true", help="of the targets that take long")
    return parser


def main(words: list[str]) -> int:
    """Command line; 2 where it is wrong."""
    parser = _parser()
    args = parser.parse_args(words)
    names = list(dict.fromkeys(args.targets)) or NAMES
    if unknown := sorted({*names} - {*NAMES}):
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if args.seconds is not None and args.seconds < len(names):
        parser.error(f"--seconds {args.seconds:g} is less than one for each of {len(names)} targets")
    if args.seconds is None and args.files is None:
        args.files = 1000
    os.environ["OMP_NUM_THREADS"] = "1"
    with contextlib.ExitStack() as stack:
        if args.seconds is not None and args.first is None and args.workers > 1 and guided():
            import atheris

            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))  # it names each module
            stack.enter_context(atheris.instrument_imports(include=ROOMS))
        targets = [Fuzz(name, target_of(name), args.keep) for name in names]
    return fuzz(targets, args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

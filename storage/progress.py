"""What a command says at the terminal: progress on standard error while it works, and one table at the end."""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import count
from typing import Any, TextIO
from weakref import WeakValueDictionary

from storage.retry import TRAFFIC

#: Seconds between two drawings on a terminal, and between two lines of one thing elsewhere.
REDRAW, EVERY = 0.2, 5.0
_open: WeakValueDictionary[int, Progress] = WeakValueDictionary()
_numbers = count()


def open_lines() -> list[Progress]:
    """What this process is at, the latest last: for whoever shows it elsewhere."""
    lines = [reference() for reference in _open.valuerefs()]
    return [line for line in lines if line is not None and not line.closed]


#: Seconds, a century, after which nobody waits for an end.
_NEVER = 3.2e9


@dataclass(frozen=True)
class Reading:
    """How much of one thing is done.

    >>> str(Reading("samples", 30, 120, "tiles", 4.5))
    'samples: 30/120 tiles (25 %), 4.5 tiles/s, ETA 0:00:20'
    """

    name: str  # may be empty
    done: int
    total: int  # 0: not known
    unit: str  # in the plural; MB: done and total are bytes
    rate: float  # done a second

    def as_dict(self) -> dict[str, Any]:
        """As JSON, with the seconds that are left."""
        left = None if self.left is None else round(self.left, 1)
        return asdict(self) | {"rate": round(self.rate, 3), "left": left}

    @property
    def left(self) -> float | None:
        """Seconds; None where that cannot be said.

        >>> Reading("samples", 30, 120, "tiles", 1e-300).left
        """
        seconds = (self.total - self.done) / self.rate if self.rate and self.total else _NEVER
        return seconds if seconds < _NEVER else None

    def __str__(self) -> str:
        scale, form = (1e6, ",.1f") if self.unit == "MB" else (1, ",.0f")
        of = f"/{self.total / scale:{form}}" if self.total else ""
        share = f" ({100 * self.done / self.total:.0f} %)" if self.total else ""
        left = "" if self.left is None else f", ETA {duration(self.left)}"
        name = f"{self.name}: " if self.name else ""
        return f"{name}{self.done / scale:{form}}{of} {self.unit}{share}, {self.rate / scale:,.1f} {self.unit}/s{left}"


class Display:
    """Lines on standard error: in place on a terminal, every few seconds elsewhere, none when quiet. For threads."""

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self._lock = threading.Lock()
        self._lines: list[Progress] = []
        self._drawn = 0  # lines on the terminal
        self._shown = 0.0

    def note(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            with self._lock:
                self._draw([f"{text}\n"])

    def changed(self, line: Progress) -> None:
        """Draw what has changed, if it is time to."""
        if self.quiet:
            return
        now = time.monotonic()
        with self._lock:
            if line not in self._lines:
                self._lines.append(line)
            if self.terminal and now - self._shown >= REDRAW:
                self._shown = now
                self._draw([])
            elif not self.terminal and now - line.shown >= EVERY:
                line.shown = now
                self._draw([f"{line}\n"])

    def remove(self, line: Progress) -> None:
        """Take a line away."""
        with self._lock:
            if line in self._lines:
                self._lines.remove(line)
                if self.terminal:
                    self._draw([])

    def _draw(self, lines: list[str]) -> None:
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            up = f"\x1b[{self._drawn}F" if self._drawn else ""
            lines = [f"{up}\x1b[J", *lines, *(f"{str(line)[:width]}\n" for line in self._lines)]
            self._drawn = len(self._lines)
        self.stream.write("".join(lines))
        self.stream.flush()


class Progress:
    """How much of one thing is done, with the rate and the time that is left; a line of a display until it is closed.

    Args:
        name: of the thing; empty where the line stands behind other words.
        total: items in all; 0: not known yet.
        unit: of the items, in the plural. ``MB``: items are bytes.
        quiet: show nothing.
        display: where several are shown together.
        done: items that were done before.
    """

    def __init__(
        self, name: str, total: int, unit: str, quiet: bool = False, display: Display | None = None, done: int = 0
    ) -> None:
        self.name, self.unit = name, unit
        self.display = display or Display(quiet)
        self.closed = False
        self.start(done, total)
        _open[next(_numbers)] = self

    def start(self, done: int, total: int | None) -> None:
        """``done`` of ``total`` (None: unknown) items were there before; the time counts from now."""
        self.done = self._before = done
        self.total = total or 0
        self.shown = self._begun = time.monotonic()

    def advance(self, count: int) -> None:
        """``count`` more items are done."""
        self.done += count
        self.display.changed(self)

    def update(self, done: int, total: int) -> None:
        """``done`` of ``total`` items are done."""
        self.total = total
        self.advance(done - self.done)

    def __str__(self) -> str:
        """Items, share, rate and time left."""
        return str(self.reading())

    def reading(self) -> Reading:
        """What it shows now."""
        rate = (self.done - self._before) / max(time.monotonic() - self._begun, 1e-9)
        return Reading(self.name, self.done, self.total, self.unit, rate)

    def close(self) -> None:
        """Take the line away."""
        self.closed = True
        self.display.remove(self)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(3725)
    '1:02:05'
    """
    whole = round(max(0.0, seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MiB."""
    try:  # what getrusage tells begins, after a fork, with the size of the process that was forked
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):  # not Linux
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 2**20


@dataclass(frozen=True)
class Usage:
    """What a process has used so far, or several together."""

    cpu_seconds: float = 0.0
    bytes_read: int = 0  # by calls of the system, mostly of files; those that are mapped are not counted
    bytes_written: int = 0
    bytes_fetched: int = 0  # from stores and web servers
    bytes_sent: int = 0  # to stores
    retries: int = 0  # times that a store or service had to be asked again

    @staticmethod
    def here() -> Usage:
        """Of this process."""
        counts = {"rchar": 0, "wchar": 0}
        try:
            with open("/proc/self/io", encoding="ascii") as file:
                counts |= {name: int(value) for name, _, value in (line.partition(": ") for line in file)}
        except OSError:  # not Linux
            pass
        return Usage(
            time.process_time(), counts["rchar"], counts["wchar"], TRAFFIC.fetched, TRAFFIC.sent, TRAFFIC.retries
        )

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"cpu_seconds": round(self.cpu_seconds, 2)}


@dataclass
class StageRow:
    """One line of the closing table; also a row of catalog/stages."""

    stage: str
    items: int
    unit: str
    seconds: float
    peak_memory_mb: float
    drops: int = 0
    cached: bool = False

    @classmethod
    def since(
        cls, start: float, stage: str, items: int, unit: str, memory: float = 0.0, drops: int = 0, cached: bool = False
    ) -> StageRow:
        """Of a stage that began at ``start`` (time.monotonic()) and is done; ``memory`` in MB of other processes."""
        memory = max(memory, peak_memory_mb())
        return cls(stage, items, unit, time.monotonic() - start, memory, drops, cached)

    def as_dict(self) -> dict[str, Any]:
        """A row in schemas.catalog.STAGES order."""
        rate = self.items / self.seconds if self.seconds > 0 else 0.0
        return {
            "stage": self.stage, "items": self.items, "unit": self.unit, "seconds": round(self.seconds, 3),
            "items_per_second": round(rate, 3), "peak_memory_mb": round(self.peak_memory_mb, 1), "drops": self.drops,
            "cached": self.cached,
        }  # fmt: skip


def report(args: argparse.Namespace, stages: Sequence[StageRow], result: Mapping[str, Any], last: str) -> None:
    """Say what a command has done: the result and its stages with ``--json``; else their table on standard error, and
    a ``last`` line, unless ``--quiet``."""
    if args.json:
        print(json.dumps({**result, "stages": [s.as_dict() for s in stages]}))
    elif not args.quiet:
        print(format_table(stages), file=sys.stderr)
        print(last)


def format_table(stages: Sequence[StageRow | Mapping[str, Any]]) -> str:
    """The closing table of stages, or of what their ``as_dict`` gave, as text."""
    rows = [stage.as_dict() if isinstance(stage, StageRow) else stage for stage in stages]
    cells = [["stage", "items", "seconds", "items/s", "peak MB", "drops"]] + [
        [
            r["stage"] + (" (cached)" if r["cached"] else ""), f"{r['items']:,} {r['unit']}", f"{r['seconds']:.1f}",
            f"{r['items_per_second']:,.1f}" if r["seconds"] >= 0.05 and not r["cached"] else "-",
            f"{r['peak_memory_mb']:,.0f}", f"{r['drops']:,}",
        ]
        for r in rows
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])

"""One progress bar a file, for several files at a time."""

from __future__ import annotations

import datetime
import shutil
import sys
import threading
import time
from typing import TextIO


class Bars:
    """Lines on standard error: in place on a terminal, every few seconds elsewhere, none when quiet."""

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self._lock = threading.Lock()
        self._bars: list[Bar] = []
        self._drawn = 0  # lines on the terminal
        self._shown = 0.0

    def bar(self, name: str) -> Bar:
        """A line of its own until it is closed."""
        bar = Bar(self, name)
        with self._lock:
            self._bars.append(bar)
        return bar

    def note(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            with self._lock:
                self._draw([f"{text}\n"])

    def changed(self, bar: Bar) -> None:
        """Draw what has changed, if it is time to."""
        now = time.monotonic()
        if self.quiet:
            return
        with self._lock:
            if self.terminal and now - self._shown >= 0.2:
                self._shown = now
                self._draw([])
            elif not self.terminal and now - bar.shown >= 5.0:
                bar.shown = now
                self._draw([f"{bar.text(now)}\n"])

    def remove(self, bar: Bar) -> None:
        """Take a line away."""
        with self._lock:
            if bar in self._bars:
                self._bars.remove(bar)
                if self.terminal and not self.quiet:
                    self._draw([])

    def _draw(self, lines: list[str]) -> None:
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            bars = [f"{b.text(time.monotonic())[:width]}\n" for b in self._bars]
            up = f"\x1b[{self._drawn}F" if self._drawn else ""
            lines = [f"{up}\x1b[J", *lines, *bars]
            self._drawn = len(bars)
        self.stream.write("".join(lines))
        self.stream.flush()


class Bar:
    """Progress of one file, in bytes."""

    def __init__(self, bars: Bars, name: str) -> None:
        self.bars, self.name = bars, name
        self.done, self.total = 0, 0
        self.shown = self._start = time.monotonic()
        self._first = 0  # bytes that were there before

    def start(self, done: int, total: int | None) -> None:
        """``done`` bytes of ``total`` (None: unknown) are there already."""
        self.done = self._first = done
        self.total = total or 0
        self._start = time.monotonic()

    def advance(self, count: int) -> None:
        """``count`` more bytes are there."""
        self.done += count
        self.bars.changed(self)

    def text(self, now: float) -> str:
        """The line: name, megabytes, share, rate and time left."""
        rate = (self.done - self._first) / max(now - self._start, 1e-9)
        left = (
            f", ETA {datetime.timedelta(seconds=int((self.total - self.done) / rate))}" if rate and self.total else ""
        )
        of = f"/{self.total / 1e6:.1f} MB ({100 * self.done / self.total:.0f} %)" if self.total else " MB"
        return f"{self.name}: {self.done / 1e6:.1f}{of}, {rate / 1e6:.1f} MB/s{left}"

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.remove(self)

"""The terminal: lines in place, lines that stay, nothing when quiet; one table for every command."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.catalog import STAGES
from storage import progress
from storage.progress import Display, Progress, StageRow, format_table, peak_memory_mb


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_each_file_has_a_line_of_its_own_on_a_terminal() -> None:
    screen = Terminal()
    display = Display(stream=screen)
    a, b = (Progress(name, 0, "MB", display=display) for name in ("a.osm.pbf", "b.osm.pbf"))
    a.start(0, 4_000_000)
    b.start(1_000_000, None)
    b.advance(0)
    display._shown = 0.0
    a.advance(1_000_000)
    last = screen.getvalue().rsplit("\x1b[J", 1)[1]
    assert "a.osm.pbf: 1.0/4.0 MB (25 %), " in last
    assert " MB/s, ETA 0:00:" in last
    assert "b.osm.pbf: 1.0 MB, 0.0 MB/s\n" in last
    display.note("a word")
    assert "\x1b[2F\x1b[Ja word\nb.osm.pbf" in screen.getvalue()
    a.close()
    b.close()
    assert screen.getvalue().endswith("\x1b[1F\x1b[J")


def test_elsewhere_a_line_comes_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, now = io.StringIO(), [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("samples", 1000, "tiles", display=Display(stream=screen)) as line:
        for _ in range(10):
            now[0] += 1.0
            line.advance(50)
    assert screen.getvalue().splitlines() == [
        "samples: 250/1,000 tiles (25 %), 50.0 tiles/s, ETA 0:00:15",
        "samples: 500/1,000 tiles (50 %), 50.0 tiles/s, ETA 0:00:10",
    ]


def test_what_was_done_before_counts_for_the_share_and_not_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    line = Progress("", 100, "samples", done=60)
    now[0] += 2.0
    line.done = 80
    assert str(line) == "80/100 samples (80 %), 10.0 samples/s, ETA 0:00:02"


@pytest.mark.parametrize("screen", [Terminal(), io.StringIO()])
def test_nothing_is_shown_when_quiet(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    display = Display(quiet=True, stream=screen)
    with Progress("a", 10, "things", display=display) as line:
        line.advance(10)
        display.note("a word")
    assert screen.getvalue() == ""


def test_the_table_of_rows_is_that_of_what_they_become_in_a_summary() -> None:
    rows = [
        StageRow("load", 1200, "samples", 0.5, 100.4, 3),
        StageRow("features", 7, "features", 2.0, 2048.0, cached=True),
    ]
    text = format_table(rows)
    assert text == format_table(json.loads(json.dumps([r.as_dict() for r in rows])))
    assert [line.rstrip() for line in text.splitlines()] == [
        "stage              items          seconds  items/s  peak MB  drops",
        "-----------------  -------------  -------  -------  -------  -----",
        "load               1,200 samples      0.5  2,400.0      100      3",
        "features (cached)  7 features         2.0        -    2,048      0",
    ]
    assert list(rows[0].as_dict()) == STAGES.names


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's own peak")
def test_the_peak_of_a_process_is_its_own_not_that_of_the_one_that_started_it() -> None:
    large = bytearray(b"1") * (256 << 20)
    words = [sys.executable, "-c", "from storage.progress import peak_memory_mb; print(peak_memory_mb())"]
    begun = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert peak_memory_mb() > len(large) >> 20 > 200 > begun > 5

"""Damaged inputs of every kind: no traceback, no crash, no hang, no memory without end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.mutate import KINDS

ROOT = Path(__file__).resolve().parents[2]
#: So many take about a second.
COUNTS = {"geotiff": 60, "photos": 200, "tables": 100, "settings": 150}


@pytest.mark.parametrize("kind", list(KINDS))
def test_damage_is_a_result_a_drop_or_one_line_that_names_the_file(kind: str) -> None:
    """`python -m tests.hostile.mutate all` does the same to 5,000 of each kind."""
    words = [sys.executable, "-m", "tests.hostile.mutate", kind, "--files", str(COUNTS.get(kind, 120))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "'read'" in done.stdout
    assert "'refused'" in done.stdout or "'dropped'" in done.stdout

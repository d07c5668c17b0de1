"""Damaged photos and tables, from a seed: no traceback, no crash, no hang, no memory without end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("kind", "count"), [("photos", 300), ("tables", 200)])
def test_damage_is_a_drop_or_one_line_that_names_the_file(kind: str, count: int) -> None:
    """`python -m tests.streetview.mutate` does the same to as many as are asked for."""
    words = [sys.executable, "-m", "tests.streetview.mutate", kind, str(count), "7"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["broken"] == []
    assert sum(found["outcomes"].values()) == count
    assert len(found["outcomes"]) >= 3
    assert found["slowest"][0] < 5
    assert found["megabytes"] < 1000

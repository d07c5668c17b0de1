"""Builds that share a cache, one round of what `tests/chaos/builds.py` does fifty times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.builds import build_alone, round_of


@pytest.mark.timeout(400)
def test_builds_at_once_over_one_fresh_cache_end_right_or_with_one_clear_line(tmp_path: Path) -> None:
    alone = build_alone(tmp_path)
    (tmp_path / "round").mkdir()
    ends, problems = round_of(0, alone, tmp_path / "round")
    assert problems == []
    assert ends["right when run again"] >= 1

"""A mirror to download from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mirror.server import Mirror


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    """A running mirror of an empty folder."""
    (tmp_path / "mirror" / "geofabrik").mkdir(parents=True)
    with Mirror(tmp_path / "mirror") as server:
        yield server

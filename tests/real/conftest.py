"""Real files: where they lie, and what happens where they do not.

``GEOSHARDS_TEST_DATA`` names the folder (default: ``../shared/data`` beside the repository). Without it these tests are
skipped with the reason, or fail where ``CI`` is set, so that no green run hides that nothing real was read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(
    os.environ.get("GEOSHARDS_TEST_DATA") or Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
).resolve()


def absent(what: str) -> None:
    """End the test: a failure in CI, a skip elsewhere."""
    reason = f"{what} is not among the real test data; set GEOSHARDS_TEST_DATA to a folder as in tests/real/README.md"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files."""
    if not ROOT.is_dir():
        absent("the folder")
    return ROOT


@pytest.fixture(scope="session")
def real_file(real_data: Path) -> Callable[[str], Path]:
    """Path of one real file by its name inside the folder."""

    def find(name: str) -> Path:
        path = real_data / name
        if not path.is_file():
            absent(name)
        return path

    return find

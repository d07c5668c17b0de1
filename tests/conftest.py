"""Settings of all tests: properties run without a deadline, and draw the same examples every time.

``HYPOTHESIS_PROFILE=search`` draws new and more examples, to look for what the fixed ones do not show.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]

settings.register_profile("fixed", deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW)
settings.register_profile("search", deadline=None, max_examples=1000, database=None, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

#: Files that take minutes, and the share of the other tests that go before them.
_LONG = {"test_docs.py": 0.4, "test_ray_job.py": 0.0}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Processes take files in turn: a long one at the end would run alone."""
    for name, share in _LONG.items():
        own = [item for item in items if item.path.name == name]
        rest = [item for item in items if item.path.name != name]
        at = round(share * len(rest))
        while 0 < at < len(rest) and rest[at].path == rest[at - 1].path:
            at += 1
        items[:] = rest[:at] + own + rest[at:]


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tests never see or fill the user's cache."""
    patch = pytest.MonkeyPatch()
    cache = tmp_path_factory.mktemp("cache")
    patch.setenv("GEOSHARDS_CACHE", str(cache))
    yield cache
    patch.undo()

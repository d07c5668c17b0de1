"""Settings of all tests: a home and a cache of their own, and properties that draw the same examples every time.

``HYPOTHESIS_PROFILE=search`` draws new and more examples, to look for what the fixed ones do not show.
"""

from __future__ import annotations

import os
import runpy
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]

settings.register_profile("fixed", deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW)
settings.register_profile("search", deadline=None, max_examples=1000, database=None, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

#: What is the user's: variables that name folders beside the home, and settings that would change a result.
_FOREIGN = ("XDG_", "HF_", "RAY_", "MPLCONFIGDIR", "TORCH_HOME", "TRANSFORMERS_CACHE", "AWS_", "GEOSHARDS_")
_KEPT = ("GEOSHARDS_TEST_DATA", "GEOSHARDS_NIGHTLY", "GEOSHARDS_AIRFLOW")
#: Home and cache of a process outside of its tests; a folder that holds those of each test.
_PLACES = pytest.StashKey[Path]()
_NUMBERS = count()


def _move(patch: pytest.MonkeyPatch, folder: Path, names: tuple[str, ...] = ("HOME", "GEOSHARDS_CACHE")) -> None:
    for name in names:
        patch.setenv(name, str(folder / name.lower()))
    (folder / "home").mkdir(parents=True, exist_ok=True)


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is imported that asks where the home is; each process of a run has folders of its own."""
    patch, folder = pytest.MonkeyPatch(), Path(tempfile.mkdtemp(prefix="geoshards-tests-"))
    for name in [n for n in os.environ if n.startswith(_FOREIGN) and n not in _KEPT]:
        patch.delenv(name)
    _move(patch, folder)
    lean = Path(__file__).parent / "lean"
    runpy.run_path(str(lean / "sitecustomize.py"))  # here as in every process that is started from here
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(lean), os.environ.get("PYTHONPATH")))))
    patch.setenv("OMP_NUM_THREADS", "1")  # tests run side by side: threads of each would wait for those of the others
    config.stash[_PLACES] = folder
    config.add_cleanup(patch.undo)
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(autouse=True)
def _own_places(request: pytest.FixtureRequest) -> Iterator[None]:
    """An empty home and an empty cache; a place that a fixture of a wider scope has chosen for its tests stays."""
    common = request.config.stash[_PLACES]
    folder = common / str(next(_NUMBERS))
    names = tuple(n for n in ("HOME", "GEOSHARDS_CACHE") if os.environ.get(n) == str(common / n.lower()))
    with pytest.MonkeyPatch.context() as patch:
        _move(patch, folder, names)
        yield
    shutil.rmtree(folder, ignore_errors=True)


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

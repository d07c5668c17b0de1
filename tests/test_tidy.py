"""`.ci/run` fails where the tests leave a file; each test has a home and a cache of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TIDY = Path(__file__).resolve().parents[1] / ".ci" / "tidy.py"


def tidy(checkout: Path, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(TIDY), *options, "--", "sh", "-c", command]
    return subprocess.run(words, cwd=checkout, text=True, capture_output=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "data").mkdir(parents=True)
    (folder / "code.py").write_text("pass\n")
    return folder


@pytest.mark.parametrize(
    ("command", "left"),
    [
        ("echo > new", "new"),
        ("mkdir -p runs", "runs"),
        ("mkdir -p data/cache; echo > data/cache/part", "data/cache/part"),
        ("echo pass > code.py", "code.py"),
        ("ln -s code.py link", "link"),
        ("mkdir -p tests/out; echo > tests/out/x", "tests/out/x"),
        ("echo > ~/.token", "~/.token"),
        ("mkdir ~/.ray", "~/.ray"),
    ],
)
def test_a_run_that_leaves_a_file_fails_and_names_it(checkout: Path, command: str, left: str) -> None:
    done = tidy(checkout, command, "--may", "out")
    assert done.returncode == 1
    assert done.stderr.rstrip("\n/").endswith(f" left {left}")


def test_a_file_in_the_home_of_the_one_who_calls_is_found(checkout: Path) -> None:
    done = tidy(checkout, f"echo > {Path.home()}/.token")
    (Path.home() / ".token").unlink()
    assert (done.returncode, done.stderr.splitlines()[-1].rpartition(" ")[2]) == (1, "~/.token")


def test_known_caches_and_folders_that_are_named_may_be_filled(checkout: Path) -> None:
    assert tidy(checkout, "mkdir -p a/__pycache__ .venv x.egg-info; echo > a/__pycache__/a.pyc").returncode == 0
    assert tidy(checkout, "mkdir -p data/demo; echo > data/demo/x", "--may", "data").returncode == 0
    assert tidy(checkout, "echo > gone; rm gone").returncode == 0


def test_a_run_that_fails_keeps_its_status(checkout: Path) -> None:
    assert tidy(checkout, "exit 3").returncode == 3


SEEN: set[str] = set()


@pytest.mark.parametrize("number", [1, 2])
def test_home_and_cache_are_empty_and_of_one_test_alone(number: int) -> None:
    home, cache = Path.home(), Path(os.environ["GEOSHARDS_CACHE"])
    assert not list(home.iterdir())
    assert not cache.exists()
    assert {str(home), str(cache)}.isdisjoint(SEEN)
    shown = subprocess.check_output([sys.executable, "-c", "from pathlib import Path; print(Path.home())"], text=True)
    assert shown.strip() == str(home)
    SEEN.update((str(home), str(cache)))
    cache.mkdir()
    (cache / "entry").touch()


def test_no_process_of_a_test_takes_the_time_to_import_pandas_and_boto3_and_who_wants_them_gets_them() -> None:
    code = (
        "import sys, pipeline.imagery.raster; from schemas.index import IndexPart; "
        "print({'pandas', 'boto3'} & set(sys.modules)); import pandas, boto3"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=TIDY.parents[1], text=True).strip() == "set()"

"""What is built from the sources runs where the sources are not: sdist, wheel, and an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.deploy.environments import fresh, link, required

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("schemas", "geometry", "storage", "pipeline", "trainers", "dags")
#: Beside the rooms, what a build may read.
_PARTS = (
    "pyproject.toml", "MANIFEST.in", "constraints.txt", "Makefile", "README.md", "CHANGELOG.md", "LICENSE", "NOTICE",
    "deploy", "docs",
)  # fmt: skip


def build(source: Path, kind: str, out: Path) -> Path:
    """What the backend of ``pyproject.toml`` makes of some sources: ``sdist`` or ``wheel``."""
    code = f"import sys, setuptools.build_meta as b; print(b.build_{kind}(sys.argv[1]))"
    words = [sys.executable, "-W", "ignore", "-c", code, str(out)]
    done = subprocess.run(words, cwd=source, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from what it holds."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, source := folder / "source", ignore=_ignored)
    sdist = build(source, "sdist", folder)
    with tarfile.open(sdist) as tar:
        tar.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return sdist, build(unpacked, "wheel", folder)


def _ignored(folder: str, names: list[str]) -> set[str]:
    kept = set(names) if Path(folder) != ROOT else {*ROOMS, *_PARTS}
    return {name for name in names if name not in kept or name == "__pycache__"}


def files() -> set[str]:
    """All files of the rooms, code and data."""
    found = (path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts}


def test_the_wheel_made_of_the_sdist_holds_every_file_of_every_room(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == files()
    assert {"pipeline/rules/tags.yaml", "trainers/tasks/geolink.yaml"} <= held


def test_the_sdist_holds_the_exact_versions_that_were_tried(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    assert {"constraints.txt", "LICENSE", "NOTICE", "README.md", "deploy/raycluster.yaml"} <= held
    assert not any(name.startswith("tests") for name in held)


def run(words: list[str | Path], folder: Path, *, fails: bool = False) -> str:
    """What a command prints, in an environment that knows of nothing here."""
    names = ("HOME", "TMPDIR", "GEOSHARDS_CACHE", "OMP_NUM_THREADS")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    path = f"{Path(words[0]).parent}{os.pathsep}/usr/bin{os.pathsep}/bin"
    done = subprocess.run(words, cwd=folder, env=kept | {"PATH": path}, text=True, capture_output=True, check=False)
    assert (done.returncode != 0) == fails, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout if not fails else done.stderr


@pytest.mark.timeout(600)  # 40 s of one core, most of it the town
def test_the_wheel_alone_makes_a_dataset_and_trains_on_it(built: tuple[Path, Path], tmp_path: Path) -> None:
    """With what the wheel requires and nothing else, in an empty folder; torch comes with the extra ``train``."""
    python, site = fresh(tmp_path / "env")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", built[1]]
    subprocess.run(pip, check=True)
    link(required("geoshards", site), site)
    (work := tmp_path / "empty").mkdir()
    geoshards = python.with_name("geoshards")
    assert f"{site}/trainers" in run([python, "-c", "import trainers; print(trainers.__file__)"], work)
    assert "No module named 'torch'" in run([python, "-c", "import torch"], work, fails=True)
    assert run([python, "-m", "trainers.gair"], work, fails=True) == (
        "error: the trainers need torch; pip install 'geoshards[train]' brings it\n"
    )
    assert run([geoshards, "encode", "run.pt", "data/demo"], work, fails=True).splitlines() == [
        "error: geoshards encode needs torch; pip install 'geoshards[train]' brings it"
    ]
    run([geoshards, "shards", "region=demo", "workers=1"], work)
    run([geoshards, "verify", "data/demo"], work)
    run([geoshards, "demo", "town"], work)  # the town that the cache has by now
    link(required("geoshards", site, "train"), site)
    known = "from trainers.engine.cli import code_version, data_root; print(code_version(), data_root(''))"
    version = run([geoshards, "--version"], work).split()[1]
    assert run([python, "-c", known], tmp_path).split() == [version, "data/demo"]  # nothing of where packages lie
    for name in ("geolink", "gair", "joint"):
        words = ["model=tiny", "steps=1", "batch_size=4", "eval.every=0", "stream.workers=0", f"out=runs/{name}"]
        run([python, "-m", f"trainers.{name}", *words], work)
        assert (work / f"runs/{name}/checkpoint.pt").is_file()
    run([python, "-c", "import webdataset"], work)

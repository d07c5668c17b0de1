"""The worked examples of CONTRIBUTING.md, laid into a copy of the checkout and run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainers.synthetic import SyntheticSettings, write_dataset

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
#: Section to the most files that its example may touch, beside its test.
MOST = {"A STAC service": 3, "A footprint producer": 2, "A token granularity": 4, "A loss": 3, "A trainer": 3}
_FENCE = re.compile(r"^```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HEAD = re.compile(r"# (in|new) ([\w/.-]+)(?:, (after|before|at the end|in place of) ?(?:`(.*)`)?)?\n")


def section(name: str) -> list[str]:
    """The blocks of a section."""
    text = re.search(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert text, name
    return _FENCE.findall(text[1])


def lay(block: str, folder: Path) -> str:
    """Put a block where its first line says; returns the file."""
    head = _HEAD.match(block)
    assert head, block
    kind, name, where, mark = head.groups()
    path, text = folder / name, block[head.end() :]
    if kind == "new":
        assert not path.exists(), name
        path.write_text(text)
        return name
    old = path.read_text()
    if where == "at the end":
        path.write_text(f"{old}\n\n{text}")
        return name
    lines = old.splitlines(keepends=True)
    if where == "in place of":
        at = next(i for i, line in enumerate(lines) if mark in line)
        lines[at] = lines[at].replace(mark, text.strip())
    else:
        (at,) = [i for i, line in enumerate(lines) if line.startswith(mark)]
        lines.insert(at + (where == "after"), text)
    path.write_text("".join(lines))
    return name


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset with photos."""
    return write_dataset(tmp_path_factory.mktemp("demo"), SyntheticSettings(samples=24, size=32, photos=2))


@pytest.mark.parametrize("name", MOST)
def test_a_worked_example_works_and_touches_few_files(name: str, demo: Path, tmp_path: Path) -> None:
    for part in ("schemas", "geometry", "storage", "pipeline", "trainers", "tests", "docs", "pyproject.toml"):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / part)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/demo").symlink_to(demo)
    *blocks, commands = section(name)
    touched = {lay(block, tmp_path) for block in blocks}
    assert len({f for f in touched if not f.startswith("tests/")}) <= MOST[name]
    env = os.environ | {
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}",
    }
    for command in commands.splitlines():
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=env, text=True, capture_output=True, timeout=240, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for path in sorted(f for f in touched if f.endswith(".py")):
        check = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), path]
        linted = subprocess.run(check, cwd=tmp_path, text=True, capture_output=True, check=False)
        assert linted.returncode == 0, linted.stdout

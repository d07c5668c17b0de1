"""Every command and every Python block in README.md and docs/ runs, in order, in a folder of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
#: What a test cannot run: itself, and what only changes the shell.
_SKIPPED = ("make test", "source ")


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return re.findall(r"^```(sh|python)\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout: the code by links, no data yet."""
    folder = tmp_path_factory.mktemp("workshop")
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE", "trainers",
                 "pipeline",
                 "schemas", "geometry", "storage", "dags"):  # fmt: skip
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("GEOSHARDS_")}
    env["PATH"] = f"{sys.prefix}/bin:{env['PATH']}"
    if words[0] == "make":  # the environment is the one that runs this test: never install into it from here
        words = [*words, *(flag for stamp in ("pipeline", "train", "dev") for flag in ("-o", f".venv/.{stamp}"))]
    return subprocess.run(words, cwd=folder, env=env, text=True, capture_output=True, timeout=240, check=False)


def run_page(page: str, folder: Path, before: list[list[str]]) -> list[list[str]]:
    """Run the commands of one page in order; what ran before is not repeated. Returns those that ran."""
    done: list[list[str]] = []
    for language, text in blocks(page):
        python = language == "python"
        commands = [[sys.executable, "-c", text]] if python else [shlex.split(c) for c in text.splitlines()]
        for words in commands:
            line = text if python else shlex.join(words)
            if line.startswith(_SKIPPED) or words in before:
                continue
            result = run(words, folder)
            assert result.returncode == 0, f"{page}: {line}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
            done.append(words)
    return done


@pytest.mark.timeout(600)
def test_every_command_in_the_documentation_runs(workshop: Path) -> None:
    """README first; the other pages need no more than what it leaves, and run two at a time."""
    done = run_page(PAGES[0], workshop, [])
    with ThreadPoolExecutor(2) as pool:
        for page, ran in zip(PAGES[1:], pool.map(lambda page: run_page(page, workshop, done), PAGES[1:]), strict=True):
            assert ran, f"{page} has no command"
    assert (workshop / "data/demo/dataset.json").exists()
    assert (workshop / "demo.png").stat().st_size > 10_000


def test_make_help_names_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())  # type: ignore[index]
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert set(re.findall(r"^  make (\S+)", shown, re.MULTILINE)) == phony
    assert phony >= {"shards", "test", "lint", "bench", "preview", "query", "train-geolink", "train-gair", "help"}


def test_links_in_the_documentation_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            if "://" not in target:
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"

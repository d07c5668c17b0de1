"""Every command and every Python block in README.md and docs/ runs, in order, in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import in_forks

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
#: What a test cannot run: itself, and what only changes the shell.
_SKIPPED = ("make test", "source ")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return re.findall(r"^```(sh|python)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout: the code by links, no data yet."""
    folder = tmp_path_factory.mktemp("workshop")
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE", "trainers",
                 "pipeline",
                 "schemas", "geometry", "storage", "dags", "benchmarks"):  # fmt: skip
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def commands(page: Path) -> list[list[str]]:
    """The commands of a page, in order; a block of Python is one."""
    found: list[list[str]] = []
    for language, text in blocks(page):
        lines = [[sys.executable, "-c", text]] if language == "python" else [shlex.split(c) for c in text.splitlines()]
        found += [words for words in lines if not shlex.join(words).startswith(_SKIPPED)]
    return found


def environment() -> dict[str, str]:
    """That of the tests, with the cache where it is by default."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("GEOSHARDS_")}
    return env | {"PATH": f"{sys.prefix}/bin:{env['PATH']}"}


@pytest.mark.timeout(600)
def test_every_command_in_the_documentation_runs(workshop: Path) -> None:
    """README first, as it is typed; the other pages need no more than what it leaves, and run two at a time."""
    done = commands(ROOT / PAGES[0])
    for words in done:
        if words[0] == "make":  # the environment is the one that runs this test: never install into it from here
            words = [*words, *(flag for stamp in ("pipeline", "train", "dev") for flag in ("-o", f".venv/.{stamp}"))]
        ran = subprocess.run(
            words, cwd=workshop, env=environment(), text=True, capture_output=True, timeout=240, check=False
        )
        assert ran.returncode == 0, f"{words}\n{ran.stdout[-2000:]}\n{ran.stderr[-3000:]}"
    others = {page: [words for words in commands(ROOT / page) if words not in done] for page in PAGES[1:]}
    assert all(others.values()), f"a page has no command: {others}"
    cards = {card: commands(card) for card in workshop.glob("data/*/README.md")}
    assert {len(words) for words in cards.values()} == {2}
    lists = others | {str(card): [["cd", str(card.parent)], *words] for card, words in cards.items()}
    results = in_forks(lists, workshop, environment())
    assert [r for r in results if r["status"]] == []
    assert len(results) == sum(map(len, (*others.values(), *cards.values())))
    for card in cards:  # what a stock reader prints of it: a line a sample
        document = json.loads((card.parent / "dataset.json").read_text())
        shown = next(r["out"] for r in results if r["list"] == str(card))
        assert len(shown.splitlines()) == document["samples"] > 0
    assert (workshop / "data/demo/dataset.json").exists()
    assert (workshop / "demo.png").stat().st_size > 10_000
    assert not list(Path.home().iterdir())


def test_make_help_names_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())  # type: ignore[index]
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert set(re.findall(r"^  make (\S+)", shown, re.MULTILINE)) == phony
    assert phony >= {"shards", "test", "lint", "bench", "preview", "query", "help"}
    assert phony >= {f"train-{name}" for name in ("geolink", "gair", "joint")}


def test_links_in_the_documentation_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            if "://" not in target:
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"

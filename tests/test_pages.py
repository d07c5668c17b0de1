"""What pages, comments and metadata say of the project is so: sections, files, functions, versions."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

from pipeline.cli.main import main as geoshards
from trainers.engine.cli import main as trainer
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK
from trainers.tasks.joint import JOINT

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("schemas", "storage", "geometry", "pipeline", "trainers", "dags", "deploy", "tests", "benchmarks")
PAGES = sorted(p for p in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
TASKS = (GEOLINK, GAIR, JOINT)
#: Without what fuzzing found: damaged files of any kind.
CODE = sorted(
    p for room in ROOMS for end in ("py", "yaml") for p in (ROOT / room).rglob(f"*.{end}") if "corpus" not in p.parts
)
#: ``docs/papers/NAME.md`` and the sections that follow it: ``#tags``, ``#tags, #losses``, ``#tags to #losses``.
_REFERENCE = re.compile(r"docs/papers/(\w+)\.md((?:(?:, | and | to )?#[\w-]+)*)")
_PATH = re.compile(rf"\b(?:{'|'.join(ROOMS)})/[\w/.-]*\w\.(?:py|yaml|txt|md)\b(?:::([\w.]+))?")


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


@lru_cache(maxsize=1024)
def names(path: Path) -> frozenset[str]:
    """Functions, classes, constants and ``Class.member`` of a Python file."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {t.id for t in targets if isinstance(t, ast.Name)}
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    found.add(f"{node.name}.{inner.name}")
                if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                    found.add(f"{node.name}.{inner.target.id}")
    return frozenset(found)


@pytest.mark.parametrize("paper", ["geolink", "gair"])
def test_every_reference_to_a_paper_names_a_section_that_exists(paper: str) -> None:
    known, used = slugs(ROOT / f"docs/papers/{paper}.md"), 0
    for path in CODE:
        for name, sections in _REFERENCE.findall(path.read_text()):
            if name == paper:
                found = re.findall(r"#([\w-]+)", sections)
                assert found, f"{path.relative_to(ROOT)} names docs/papers/{name}.md without a section"
                assert known.issuperset(found), f"{path.relative_to(ROOT)}: {set(found) - known}"
                used += len(found)
    assert used > 5


def test_nothing_cites_a_page_that_the_repository_lacks() -> None:
    """Also of what it ships itself: a page that is cited is here."""
    for path in CODE:
        if path != Path(__file__):
            text = path.read_text()
            assert "specs" + "/" not in text, path
            for page in re.findall(r"\bdocs/[\w/-]+\.md\b", text):
                assert (ROOT / page).is_file(), f"{path.relative_to(ROOT)}: {page}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_that_a_page_names_exist(page: Path) -> None:
    """``room/file.py`` is a file and ``room/file.py::name`` a name in it; but for what a worked example makes."""
    text = page.read_text()
    made = set(re.findall(r"^# new (\S+)$", text, re.MULTILINE))
    for match in _PATH.finditer(text):
        name, _, member = match[0].partition("::")
        if name in made:
            continue
        assert (ROOT / name).is_file(), f"{page.name}: {match[0]}"
        assert not member or member in names(ROOT / name), f"{page.name}: {match[0]}"


def test_links_between_pages_lead_to_files_and_headings() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([\w-]+)\)", page.read_text()):
            other = (page.parent / target) if target else page
            assert anchor in slugs(other), f"{page.name}: {target}#{anchor}"


def test_the_version_has_one_home(capsys: pytest.CaptureFixture[str]) -> None:
    """pyproject.toml says it; the commands print it and the changelog has its heading."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert geoshards(["--version"]) == 0
    assert capsys.readouterr().out == f"geoshards {version}\n"
    for task in TASKS:
        assert trainer(task, ["--version"]) == 0
        assert capsys.readouterr().out.startswith(f"geoshards {version}")
    assert re.search(rf"^## .*\b{re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_python_versions_that_are_claimed_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]
    low, high = claimed[0], claimed[-1]
    assert project["requires-python"] == f">={low},<3.{int(high.partition('.')[2]) + 1}"
    for name in ("README.md", "Makefile"):
        assert re.findall(r"Python (3\.\d+)(?: to (3\.\d+))?", (ROOT / name).read_text())[0] == (low, high), name


def test_the_citation_file_has_what_its_format_asks_for() -> None:
    """Citation File Format 1.2.0, its required fields and the kinds of those that are used."""
    given = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert given["cff-version"] == "1.2.0"
    assert given["type"] in ("software", "dataset")
    assert all(isinstance(given[name], str) and given[name] for name in ("message", "title", "abstract", "license"))
    assert given["authors"]
    assert all(author.keys() <= {"name", "website", "email"} for author in given["authors"])
    assert len(set(given["keywords"])) == len(given["keywords"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (given["title"], given["license"]) == (project["name"], project["license"])

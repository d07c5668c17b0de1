"""deploy/Dockerfile: linted by hadolint, with what no linter asks; built and run where there is a builder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy/Dockerfile"
#: A statement: its word and what follows, lines that go on joined.
STATEMENTS = re.findall(
    r"^([A-Z]+) (.*)$", re.sub(r"^#.*\n|\\\n", "", FILE.read_text(), flags=re.MULTILINE), re.MULTILINE
)
TARGETS = ("cpu", "cuda")


def stages() -> dict[str, list[tuple[str, str]]]:
    """Name of a stage to its statements, with those of the stage that it is made from before its own."""
    found: dict[str, list[tuple[str, str]]] = {}
    own: list[tuple[str, str]] = []
    for word, rest in STATEMENTS:
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            own = found[name] = list(found.get(image, []))
        own.append((word, rest))
    return found


def linted(text: str) -> list[str]:
    """What hadolint has against a file, one line each."""
    tool = shutil.which("hadolint", path=f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}")
    if tool is None:
        pytest.skip("hadolint is not installed: it comes with the extra dev on Linux, x86_64")
    done = subprocess.run([tool, "--no-color", "-"], input=text, text=True, capture_output=True, check=False)
    return done.stdout.splitlines()


def test_hadolint_has_nothing_against_it() -> None:
    assert linted(FILE.read_text()) == []
    worse = FILE.read_text().replace(":3.11.14-slim-trixie AS base", " AS base")
    assert any("DL3006" in line for line in linted(worse))


def test_images_have_a_python_that_is_pinned_and_claimed() -> None:
    images = [rest.partition(" AS ")[0] for word, rest in STATEMENTS if word == "FROM"]
    (outside,) = {image for image in images if image not in stages()}
    version = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-\w+", outside)
    assert version
    claimed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert f"Programming Language :: Python :: {version[1]}" in claimed


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_in_particular_and_holds_no_secret(target: str) -> None:
    own = stages()[target]
    assert [rest for word, rest in own if word == "USER"] == ["1000:1000"]  # a number: what runAsNonRoot can check
    assert [word for word, _ in own].index("USER") > max(i for i, (word, _) in enumerate(own) if word == "RUN")
    settings = " ".join(rest for word, rest in own if word in ("ENV", "ARG"))
    assert not re.search(r"token|secret|password|_key\b", settings, re.IGNORECASE)


@pytest.mark.parametrize("target", TARGETS)
def test_packages_are_those_of_the_lock_and_are_downloaded_once(target: str) -> None:
    installs = [rest for word, rest in stages()[target] if word == "RUN" and "pip install" in rest]
    assert installs
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words in installs:
        assert "--mount=type=cache,target=/root/.cache/pip" in words
        assert "--constraint /etc/geoshards/constraints.txt" in words
    (extras,) = re.findall(r"\.whl\)\[([\w,]+)\]", installs[-1])
    assert {"train", "cloud"} <= set(extras.split(",")) <= known.keys()


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    first, *rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {name for word, rest in STATEMENTS if word == "COPY" for name in rest.split()[:-1]}
    assert let_in == copied
    assert all((ROOT / name).exists() for name in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= copied


def test_the_image_is_built_and_runs() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker daemon answers here; deploy/Dockerfile is linted and read, not built")
    build = [docker, "build", "--quiet", "--target", "cpu", "--file", FILE, ROOT]
    image = subprocess.run(build, text=True, capture_output=True, check=True).stdout.strip()
    for words in (["geoshards", "shards", "region=demo"], ["python", "-m", "trainers.geolink", "--version"]):
        subprocess.run([docker, "run", "--rm", "--shm-size=1g", image, *words], check=True)

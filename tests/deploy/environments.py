"""Environments that hold what a distribution declares and nothing else, by links to what is installed here."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def required(name: str, site: Path, *extras: str) -> set[str]:
    """Names of all that a distribution in the folder ``site`` needs with its extras, as far as it is installed here."""
    (own,) = distributions(name=name, path=[str(site)])
    found: set[tuple[str, frozenset[str]]] = set()
    left = _needs(own, frozenset(extras))
    while left:
        entry = left.pop()
        if entry not in found:
            found.add(entry)
            left += _needs(distribution(entry[0]), entry[1])
    return {name for name, _ in found}


def _needs(own: Distribution, extras: frozenset[str]) -> list[tuple[str, frozenset[str]]]:
    """Name and extras of each requirement that holds here."""
    needs = [Requirement(text) for text in own.requires or ()]
    holds = [n for n in needs if n.marker is None or any(n.marker.evaluate({"extra": e}) for e in (extras or {""}))]
    return [(canonicalize_name(need.name), frozenset(need.extras)) for need in holds]


def link(names: set[str], site: Path) -> None:
    """Put the files of installed distributions into a folder of packages: whole top folders, or file by file where
    several distributions share one.
    """
    owners: dict[str, list[Distribution]] = defaultdict(list)
    for found in map(distribution, sorted(names)):
        for top in {path.parts[0] for path in found.files or ()} - {"..", "__pycache__"}:
            owners[top].append(found)
    for top, holders in owners.items():
        if len(holders) == 1 and not (site / top).exists():
            (site / top).symlink_to(Path(str(holders[0].locate_file(top))))
            continue
        for holder in holders:
            for path in holder.files or ():
                if path.parts[0] == top and not (site / top).is_symlink() and not (site / path).exists():
                    (site / path).parent.mkdir(parents=True, exist_ok=True)
                    (site / path).symlink_to(Path(str(holder.locate_file(path))))


def fresh(folder: Path) -> tuple[Path, Path]:
    """A new environment without any package: its Python, and the folder of its packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    return folder / "bin/python", site

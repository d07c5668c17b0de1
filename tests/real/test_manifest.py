"""The real files are the ones that README.md lists."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

README = Path(__file__).with_name("README.md")
ROW = re.compile(r"\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|")
LISTED = [match.groups() for line in README.read_text(encoding="utf-8").splitlines() if (match := ROW.fullmatch(line))]


@pytest.mark.parametrize(("name", "digest"), LISTED, ids=[name for name, _ in LISTED])
def test_a_real_file_is_the_one_listed(real_file: Callable[[str], Path], name: str, digest: str) -> None:
    assert sha256(real_file(name).read_bytes()).hexdigest() == digest


def test_every_real_file_that_a_test_names_is_listed() -> None:
    tests = README.parent.parent
    named = {
        name
        for path in tests.rglob("*.py")
        for name in re.findall(
            r'"((?:osm|rs|gair|dem|street|geolink)/[\w./ -]+\.\w+)"', path.read_text(encoding="utf-8")
        )
    }
    assert named
    assert sorted(named - {name for name, _ in LISTED}) == []


def test_the_list_names_each_file_once() -> None:
    names = [name for name, _ in LISTED]
    assert len(names) > 15
    assert len(set(names)) == len(names)

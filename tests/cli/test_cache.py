"""`geoshards cache` lists, verifies and prunes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.cache import parse_bytes
from pipeline.cli.main import main
from schemas.errors import ConfigError
from storage.entries import have_entry


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two entries, the first used longer ago."""

    def make(folder: Path) -> dict[str, Any]:
        (folder / "data").write_bytes(b"\0" * 2000)
        return {}

    for n, name in enumerate(("features-a", "cells-b")):
        have_entry(tmp_path / name, make)
        for file in (tmp_path / name).iterdir():
            os.utime(file, (1e9 + 1e6 * n,) * 2)
    return tmp_path


def test_it_is_listed_verified_and_pruned(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--cache", str(cache), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(k["kind"], k["items"], k["used"]) for k in listed["kinds"]] == [
        ("cells", 1, "2001-09-20"), ("features", 1, "2001-09-09"),
    ]  # fmt: skip
    assert listed["items"] == 2
    assert main(["cache", "prune", "--keep", "3kB", "--cache", str(cache)]) == 0
    assert "1 items dropped" in capsys.readouterr().out
    assert [p.name for p in cache.iterdir()] == ["cells-b"]
    assert main(["cache", "verify", "--cache", str(cache)]) == 0


def test_a_damaged_entry_is_named(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "cells-b" / "data").write_bytes(b"\1" * 2000)
    assert main(["cache", "verify", "--cache", str(cache)]) == 1
    said = capsys.readouterr()
    assert said.out == f"{cache}/cells-b/data: its content is not what was written\n"
    assert said.err == "error: 1 problems; delete the entries named, they are made again\n"


@pytest.mark.parametrize("words", [["prune"], ["--keep", "1GB"], ["prune", "--keep", "much"], ["--cache", "s3://b/c"]])
def test_a_wrong_call_is_one_line(cache: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(["cache", *words, *(() if "--cache" in words else ("--cache", str(cache)))]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert len(list(cache.iterdir())) == 2


def test_sizes_have_units() -> None:
    assert [parse_bytes(t) for t in ("20GB", "500 MB", "1.5kB", "7", "0")] == [20 * 10**9, 5 * 10**8, 1500, 7, 0]
    for text in ("-1", "GB", "1 XB", "", "1e9"):
        with pytest.raises(ConfigError, match="is no size"):
            parse_bytes(text)

"""What commands print: one JSON document with ``--json``, nothing beside it; nothing at all with ``--quiet``."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from pipeline.cli.main import main
from schemas.command import GROUP
from storage.dataset import sample_rows
from storage.store import Store
from tests.cli.test_cli import words_of
from tests.driver.village import write_village
from tests.net.sources import publish


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources, a dataset of them in ``out``, and what it was made from in ``cache``."""
    folder = tmp_path_factory.mktemp("place")
    village = write_village(folder)
    publish(folder / "mirror", village.osm.read_bytes(), "europe/x.osm.pbf")
    assert main([*words_of(village, folder / "out"), "split.val=0", "split.test=0", f"cache={folder}/cache"]) == 0
    return folder


def key_of(place: Path) -> str:
    return str(next(iter(sample_rows(Store(place / "out"))))["key"])


#: A call of each command that ends well.
CALLS: dict[str, Callable[[Path], list[str]]] = {
    "cache": lambda p: ["cache", "--cache", f"{p}/cache"],
    "cache verify": lambda p: ["cache", "verify", "--cache", f"{p}/cache"],
    "cache prune": lambda p: ["cache", "prune", "--keep", "1TB", "--cache", f"{p}/cache"],
    "features": lambda p: ["features", f"{p}/village.opl", "--out", f"{p}/features"],
    "inspect": lambda p: ["inspect", f"{p}/out"],
    "inspect KEY": lambda p: ["inspect", f"{p}/out", key_of(p)],
    "plan": lambda p: ["plan", f"--region={p}/village.opl", "--zoom=18", f"--out={p}/none", f"cache={p}/cache"],
    "preview": lambda p: ["preview", f"{p}/out"],
    "query": lambda p: ["query", f"{p}/out", "SELECT count(*) AS n FROM samples"],
    "shards": lambda p: ["shards", f"--region={p}/village.opl", "--zoom=18", "--workers=1", f"--out={p}/bare",
                         f"cache={p}/cache"],
    "stats": lambda p: ["stats", f"{p}/out", "--workers=1"],
    "verify": lambda p: ["verify", f"{p}/out"],
    "mirror": lambda p: ["mirror", f"{p}/mirror", "--list"],
}  # fmt: skip
#: Those whose result is what they print.
ANSWERS = {"inspect", "inspect KEY", "plan", "query", "mirror"}


@pytest.mark.parametrize("call", sorted(CALLS))
def test_json_is_one_document_quiet_is_silence_and_else_something_is_said(
    place: Path, call: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = CALLS[call](place)
    assert main([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)
    assert not said.err
    assert main([*words, "--quiet"]) == 0
    said = capsys.readouterr()
    assert bool(said.out) == (call in ANSWERS)
    assert not said.err
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.out
    with pytest.raises(ValueError, match="Expecting|Extra data"):
        json.loads(said.out)


def test_each_command_is_among_the_calls_but_those_that_other_tests_run() -> None:
    others = {"chips", "demo", "embed", "export", "regions", "update"}
    assert {call.split()[0] for call in CALLS} | others == {p.name for p in entry_points(group=GROUP)}


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"geoshards {version('geoshards')}\n"


def test_without_a_command_each_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for words, status in (([], 2), (["--help"], 0), (["-h"], 0)):
        assert main(words) == status
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines if line.startswith("  ")] == sorted(
            p.name for p in entry_points(group=GROUP)
        )


def test_a_sample_that_is_not_there_is_named_with_one_near_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = key_of(place)
    assert main(["inspect", f"{place}/out", f"{key}9"]) == 1
    assert capsys.readouterr().err == f"error: {place}/out has no sample '{key}9'; did you mean {key}?\n"
    assert main(["inspect", f"{place}/out", "?"]) == 1
    assert capsys.readouterr().err == f"error: {place}/out has no sample '?'\n"

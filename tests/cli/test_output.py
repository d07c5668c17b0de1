"""What commands print: one JSON document with ``--json``, nothing beside it; nothing at all with ``--quiet``."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from importlib.metadata import entry_points, version
from pathlib import Path

import fsspec
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
    "dag": lambda p: ["dag", "show", "dataset", f"region={p}/village.opl", f"out={p}/none"],
    "features": lambda p: ["features", f"{p}/village.opl", "--out", f"{p}/features"],
    "inspect": lambda p: ["inspect", f"{p}/out"],
    "inspect KEY": lambda p: ["inspect", f"{p}/out", key_of(p)],
    "plan": lambda p: ["plan", f"--region={p}/village.opl", "--zoom=18", f"--out={p}/none", f"cache={p}/cache"],
    "preview": lambda p: ["preview", f"{p}/out"],
    "query": lambda p: ["query", f"{p}/out", "SELECT count(*) AS n FROM samples"],
    "shards": lambda p: ["shards", f"--region={p}/village.opl", "--zoom=18", "--workers=1", f"--out={p}/bare",
                         f"cache={p}/cache"],
    "stats": lambda p: ["stats", f"{p}/out", "--workers=1"],
    "status": lambda p: ["status", f"{p}/out"],
    "verify": lambda p: ["verify", f"{p}/out"],
    "mirror": lambda p: ["mirror", f"{p}/mirror", "--list"],
}  # fmt: skip
#: Those whose result is what they print.
ANSWERS = {"dag", "inspect", "inspect KEY", "plan", "query", "mirror", "status"}


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
    with pytest.raises(ValueError, match=r"Expecting|Extra data"):
        json.loads(said.out)


def test_each_command_is_among_the_calls_but_those_that_other_tests_run() -> None:
    others = {"card", "chips", "demo", "embed", "encode", "evaluate", "export", "regions", "update"}
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


def test_a_terminal_gets_texts_without_its_controls_and_a_file_gets_them_as_they_are(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["query", f"{place}/out", "SELECT chr(27) || '[31m' AS text, 5 AS n", "--csv"]
    assert main(words) == 0
    assert capsys.readouterr().out == "text,n\n\x1b[31m,5\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert said.endswith(",5\n")


@pytest.mark.parametrize("name", sorted(p.name for p in entry_points(group=GROUP)))
def test_workers_are_one_a_core_unless_they_are_said(name: str) -> None:
    """0, or a setting's own default."""
    (point,) = entry_points(group=GROUP, name=name)
    parser = argparse.ArgumentParser()
    point.load().configure(parser)
    assert parser.get_default("workers") in (0, None)


def test_what_is_left_out_of_a_list_is_counted(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = json.loads((place / "out/dataset.json").read_bytes())
    whole |= {f"own {n}": {str(i): i for i in range(n)} for n in (1, 20, 21, 30)}
    (tmp_path / "dataset.json").write_text(json.dumps(whole))
    assert main(["inspect", str(tmp_path)]) == 0
    shown: dict[str, int] = {}
    for line in capsys.readouterr().out.splitlines():
        if not line.startswith(" "):
            name = line.partition(":")[0]
        elif found := re.fullmatch(r"  … and (\d+) more", line):
            shown[name] += int(found[1])
        else:
            shown[name] = shown.get(name, 0) + 1
    assert shown == {name: len(value) for name, value in whole.items() if isinstance(value, dict) and value}


def test_a_preview_of_a_remote_dataset_needs_a_place(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fsspec.filesystem("memory").put(f"{place}/out", "/geoshards-preview", recursive=True)
    assert main(["preview", "memory://geoshards-preview", "--samples", "1"]) == 1
    assert capsys.readouterr().err == "error: the dataset is remote; give --out FILE.png\n"
    assert main(["preview", "memory://geoshards-preview", "--samples", "1", "--out", f"{tmp_path}/x.png"]) == 0
    assert (tmp_path / "x.png").is_file()

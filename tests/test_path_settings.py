"""A URL in place of a path: supported, or refused in one line; never a folder of that name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli.main import main as geoshards
from pipeline.rules import RulesConfig, load_rules
from schemas.errors import ConfigError
from tests.trainers.synthetic import SyntheticSettings, write_dataset
from trainers.engine.cli import main as train
from trainers.evaluate.finetune import main as finetune
from trainers.tasks.geolink import GEOLINK

URL = "memory://paths/x"
HERE = f"{URL} is a URL; a path of this machine is needed here"
MISSING = "does not exist"
#: Words of a command behind its name, and what its one line says.
CASES = [
    ("geolink", f"data=DATA stream.cache={URL}", f"stream.cache={URL} is a URL; the cache is a folder of this machine"),
    ("geolink", f"data=DATA stream.tags={URL}", f"stream.tags={URL}"),
    ("geolink", f"data=DATA stream.key_counts={URL}", f"key counts {URL} cannot be read"),
    ("geolink", f"data=DATA resume={URL}", f"{URL} {MISSING}"),
    ("geolink", f"data={URL}", f"{URL}/dataset.json {MISSING}"),
    ("geolink", f"data=DATA --config {URL}", HERE),
    ("finetune", f"{URL} .", f"{URL} {MISSING}"),
    ("finetune", f"x.pt {URL}", HERE),
    ("export", f"{URL} --format timm", f"{URL} {MISSING}"),
    ("encode", f"{URL} DATA", f"{URL} {MISSING}"),
    ("embed", f"{URL} --encoder hash", MISSING),
    ("shards", f"region=demo imagery=none cache={URL}", f"cache={URL} is seen by one process alone"),
    ("shards", f"region={URL}", URL),
    ("shards", f"--config {URL}", HERE),
    ("plan", f"region=demo imagery=none cache={URL}", f"cache={URL} is seen by one process alone"),
    ("features", f"{URL} --out out", HERE),
    ("features", f"x.osm.pbf --out {URL}", HERE),
    ("update", f"{URL} x.osc", URL),
    ("update", f"DATA {URL}", HERE),
    ("demo", URL, HERE),
    ("mirror", URL, HERE),
    ("preview", f"DATA --out {URL}", HERE),
    ("preview", URL, URL),
    ("inspect", f"{URL} key", URL),
    ("verify", URL, URL),
    ("stats", URL, MISSING),
    ("query", f"{URL} SELECT+1", URL),
    ("chips", URL, URL),
]  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("paths") / "d", SyntheticSettings(samples=4, size=32))


@pytest.mark.parametrize(("command", "words", "said"), CASES)
def test_a_url_is_read_or_refused_but_never_a_folder_here(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: str, words: str, said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = words.replace("DATA", str(small)).split()
    if command == "geolink":
        status = train(GEOLINK, ["model=tiny", "steps=1", "out=run", *given, "--quiet"])
    else:
        status = finetune(given) if command == "finetune" else geoshards([command, *given])
    assert status in (1, 2)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert said in line
    assert [p for p in tmp_path.rglob("*") if p.name.startswith("memory:")] == []


def test_a_cache_in_the_environment_that_is_a_url_is_named(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", URL)
    assert train(GEOLINK, [f"data={small}", "model=tiny", "steps=1", f"out={URL}", "--quiet"]) == 1
    assert f"GEOSHARDS_CACHE={URL} is a URL; the cache is a folder" in capsys.readouterr().err.splitlines()[-1]


def test_a_file_of_rules_that_is_a_url_is_named() -> None:
    with pytest.raises(ConfigError, match=f"^{HERE}"):
        load_rules(RulesConfig(tags=URL))

"""`geoshards query` runs one SELECT over the dataset and reaches nothing else, unless it is told to."""

from __future__ import annotations

import shutil
from pathlib import Path

import fsspec
import pytest

from pipeline.cli.main import main
from pipeline.cli.stats import _SHOWN
from pipeline.cli.stats import _print as print_bands
from pipeline.driver.shards import make_shards
from storage.entries import have_entry
from tests.driver.test_shards import config_of
from tests.driver.village import Village


@pytest.fixture(scope="module")
def dataset(village: Village, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("asked") / "village"
    make_shards(config_of(village, out), quiet=True)
    return out


ELSEWHERE = [
    "SELECT * FROM read_csv('{secret}')", "SELECT content FROM read_text('{secret}')", "FROM '{secret}'",
    "SELECT content FROM read_blob('{data}/catalog/../../secret.csv')", "FROM glob('{secret}*')",
    "SELECT * FROM read_parquet('https://127.0.0.1:1/x.parquet')", "FROM parquet_metadata('{secret}')",
    "FROM sniff_csv('{secret}')", "FROM main", "FROM args",
]  # fmt: skip
OTHERS = [
    "COPY samples TO '{secret}'", "COPY (SELECT 1) TO '{data}/catalog/x.parquet'", "SET enable_external_access=true",
    "ATTACH '{secret}' AS a", "CREATE TABLE a AS SELECT 1", "INSTALL httpfs", "LOAD httpfs", "SELECT 1; SELECT 2",
    "PRAGMA version", "EXPORT DATABASE '{secret}'", "DROP VIEW samples", "", "CALL pragma_version()",
]  # fmt: skip


@pytest.mark.parametrize("sql", [*ELSEWHERE, *OTHERS])
def test_nothing_but_the_dataset_is_reached_and_nothing_written(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sql: str
) -> None:
    secret = dataset.parent / "secret.csv"
    secret.write_text("a,b\n1,hush\n")
    before = sorted(p for p in dataset.parent.rglob("*"))
    assert main(["query", str(dataset), sql.format(secret=secret, data=dataset)]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: ")
    assert "hush" not in said.out + said.err
    assert sorted(p for p in dataset.parent.rglob("*")) == before
    assert secret.read_text() == "a,b\n1,hush\n"


def test_one_is_run_with_all_that_a_select_may_hold(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "WITH a AS (SELECT key, n_point FROM samples) SELECT count(*) AS n FROM a JOIN shards ON true WHERE n > -1"
    for words in ("SELECT count(*) AS n FROM samples", sql.replace(" WHERE n > -1", ""), "FROM samples LIMIT 1;"):
        assert main(["query", str(dataset), words, "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_whoever_asks_for_it_may_reach_everything(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = dataset.parent / "secret.csv"
    secret.write_text("a,b\n1,hush\n")
    assert main(["query", str(dataset), f"SELECT b FROM read_csv('{secret}')", "--csv", "--unsafe"]) == 0
    assert capsys.readouterr().out == "b\nhush\n"


def test_a_dataset_behind_a_url_is_read_by_ourselves(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fs = fsspec.filesystem("memory")
    fs.put(str(dataset), "/asked", recursive=True)
    try:
        assert main(["query", "memory://asked", "SELECT count(*) AS n FROM samples, shards", "--json"]) == 0
        assert main(["query", "memory://asked", "FROM read_text('/etc/hostname')"]) == 1
        assert main(["query", "memory://asked", "SELECT nothing FROM nowhere"]) == 1
    finally:
        fs.rm("/asked", recursive=True)
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["error", "error"]


def test_what_lies_where_duckdb_would_spill_is_out_of_reach(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "secret.csv").write_text("a,b\n1,hush\n")
    for name in (".tmp/secret.csv", tmp_path / ".tmp" / "secret.csv"):
        assert main(["query", str(dataset), f"SELECT * FROM read_csv('{name}')", "--csv"]) == 1
    said = capsys.readouterr()
    assert "hush" not in said.out
    assert said.err.count("error: DuckDB: Permission Error") == said.err.count("\n") == 2


@pytest.mark.parametrize(("sql", "text"), [
    ("SELECT timestamptz '2020-01-01 00:00:00+00' = now() AS x, now() AS \"a\"\"b\"", 'a"b'),
    ("SELECT '9999999 years'::INTERVAL AS x", "9999999 years"),
    ("SELECT ['9999999 years'::INTERVAL] AS x, 1 AS y", "9999999 years"),
])  # fmt: skip
@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_values_that_python_does_not_have_are_text(
    dataset: Path, sql: str, text: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["query", str(dataset), sql, form]) == 0
    shown = capsys.readouterr().out
    assert text in shown.replace('""', '"').replace('\\"', '"')


def test_texts_of_others_do_nothing_to_a_terminal(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", str(dataset), "SELECT chr(27) || '[31mred' AS x, chr(8238) AS y"]) == 0
    shown = capsys.readouterr().out
    assert r"\x1b[31mred" in shown or r"\e[31mred" in shown
    assert not {"\x1b", "\u202e"} & set(shown)


def test_names_of_files_and_bands_do_nothing_to_a_terminal(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil, shown = "a\x1b[2Jb\u202ec\nd", r"a\x1b[2Jb\u202ec\nd"
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    (copy / evil).touch()
    entry = tmp_path / "cache" / "features-0123456789abcdef0123"
    have_entry(entry, lambda _: {})
    (entry / evil).touch()
    for words in (["verify", str(copy), "--fast"], ["cache", "verify", f"--cache={tmp_path / 'cache'}"]):
        assert main(words) == 1
        said = "".join(capsys.readouterr())
        assert shown in said
        assert said.count("\n") == 2
        assert not {"\x1b", "\u202e"} & set(said)
    print_bands([dict.fromkeys(_SHOWN, evil)])
    assert shown in capsys.readouterr().out

"""The command line: what it says, and how it ends."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import rasterio

from pipeline.cli.main import main
from pipeline.cli.shards import SHARDS, read_config
from schemas.command import GROUP
from storage.dataset import sample_rows
from storage.store import Store
from tests.driver.village import EAST, NORTH, SOUTH, WEST, Village, write_village
from tests.streetview.makers import write_photo


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> Village:
    return write_village(tmp_path_factory.mktemp("village"))


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("command", sorted(p.name for p in entry_points(group=GROUP)))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "--quiet" in text
    assert "--json" in text


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["shrads"], 2, "did you mean shards?"),
        (["shards", "zom=3"], 2, "did you mean zoom?"),
        (["shards", "split.blok_degrees=1"], 2, "did you mean split.block_degrees?"),
        (["shards", "--zoom", "99"], 2, "zoom must be 0 to 22"),
        (["shards", "--zoom", "many"], 2, "zoom"),
        (["shards", "--region", "atlantis", "sources.geofabrik=http://127.0.0.1:9", "net.retries=0"], 1, "atlantis"),
        (["shards", "--region", "README.md", "--out", "unused"], 1, "README.md"),
        (["query", "no-such-folder", "SELECT 1"], 1, "does not exist"),
        (["verify", "no-such-folder"], 1, "does not exist"),
        (["preview", "no-such-folder"], 1, "does not exist"),
        (["shards", "rs.resampling=bilinaer"], 2, "did you mean bilinear?"),
    ],
)
def test_a_wrong_call_ends_with_its_reason(
    words: list[str], status: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status
    line = last_line(capsys)
    assert line.startswith("error: ")
    assert reason in line


def test_truncated_extract_is_refused_by_name(
    village: Village, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import osmium

    whole = tmp_path / "whole.osm.pbf"
    with osmium.SimpleWriter(str(whole)) as writer:
        for o in osmium.FileProcessor(str(village.osm)):
            writer.add(o)
    cut = tmp_path / "cut.osm.pbf"
    cut.write_bytes(whole.read_bytes()[:-50])
    assert main(["shards", "--region", str(cut), "--out", str(tmp_path / "out")]) == 1
    assert "cut.osm.pbf is truncated" in last_line(capsys)
    assert (
        main(["shards", "--region", str(whole), "--zoom", "16", "--workers", "1", "--out", str(tmp_path / "out")]) == 0
    )


def test_truncated_image_is_refused_by_name(
    village: Village, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.tif"
    cut.write_bytes(village.imagery.read_bytes()[:100_000])
    words = [
        "shards",
        "--region",
        str(village.osm),
        "--imagery",
        str(cut),
        "--workers",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 1
    assert "cut.tif cannot be read" in last_line(capsys)


def test_json_output_is_one_document(village: Village, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["shards", "--region", str(village.osm), "--zoom", "16", "--workers", "1", "--out", out, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["samples"] == made["stages"][-1]["items"] > 0
    assert main(["query", out, "SELECT count(*) AS n FROM samples", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"n": made["samples"]}]
    assert main(["inspect", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["content_hash"] == made["content_hash"]


def test_settings_of_a_file_are_overruled_by_the_command_line(
    village: Village, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(f"region: {village.osm}\nzoom: 15\nsplit: {{val: 0.5, test: 0.5}}\n")
    out = str(tmp_path / "out")
    assert (
        main(
            [
                "shards",
                "--config",
                str(tmp_path / "s.yaml"),
                "--workers",
                "1",
                "--out",
                out,
                "split.test=0.0",
                "split.val=1.0",
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert main(["query", out, "SELECT DISTINCT split FROM samples", "--csv"]) == 0
    assert capsys.readouterr().out.split() == ["split", "val"]


def test_features_command_writes_geoparquet_and_drops(village: Village, tmp_path: Path) -> None:
    import duckdb
    import pyarrow.parquet as pq

    assert main(["features", str(village.osm), "--out", str(tmp_path / "f"), "--quiet"]) == 0
    geo = json.loads(pq.read_metadata(tmp_path / "f/features.parquet").metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    kinds = dict(duckdb.sql(f"SELECT kind, count(*) FROM '{tmp_path}/f/features.parquet' GROUP BY 1").fetchall())
    assert kinds["polygon"] == 6 * 18 + 1
    assert kinds["line"] == 6


def test_croissant_is_valid_and_reads_the_catalog(village: Village, tmp_path: Path) -> None:
    import mlcroissant

    out = tmp_path / "out"
    assert main(words_of(village, out)) == 0
    data = mlcroissant.Dataset(jsonld=out / "croissant.json")
    assert data.metadata.ctx.issues.errors == set()
    found = {row["sample/key"].decode(): row["sample/n_polygon"] for row in data.records("sample")}
    assert found == {r["key"]: r["n_polygon"] for r in sample_rows(Store(out))}


@pytest.mark.parametrize(
    ("source", "message"),
    [("imagery", "declares no licence; say under which"), ("streetview", "declares no licence for its photos")],
)
def test_a_source_without_a_licence_is_refused(
    village: Village, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, message: str
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    with rasterio.open(village.imagery) as image, rasterio.open(bare / "bare.tif", "w", **image.profile) as target:
        target.write(image.read())
    write_photo(bare / "bare.jpg", (WEST + EAST) / 2, (SOUTH + NORTH) / 2, licence=None)
    given = {"imagery": bare / "bare.tif", "streetview": bare / "bare.jpg"}
    words = ["shards", "--region", str(village.osm), "--zoom", "18", "--size", "64", "--workers", "1", "--quiet"]
    refused = [*words, f"--{source}", str(given[source]), "--out", str(tmp_path / "out")]
    assert main(refused) != 0
    assert message in last_line(capsys)
    assert not (tmp_path / "out").exists()
    setting = {"imagery": "rs.licence=CC-BY-4.0", "streetview": "sv.licence=CC-BY-4.0"}[source]
    assert main([*refused, setting]) == 0
    assert "CC-BY-4.0" in (tmp_path / "out/ATTRIBUTION.md").read_text()
    assert any("CC-BY-4.0" in r["licences"] for r in sample_rows(Store(tmp_path / "out")))


def words_of(village: Village, out: Path) -> list[str]:
    """A small build."""
    flags = {"region": village.osm, "imagery": village.imagery, "streetview": village.photos, "zoom": 18, "size": 64}
    words = [f"--{name}={value}" for name, value in (flags | {"out": out, "workers": 1}).items()]
    return ["shards", "--quiet", *words]


def test_a_build_that_names_no_region_is_that_of_the_demo() -> None:
    parser = argparse.ArgumentParser()
    SHARDS.configure(parser)
    bare, named = (read_config(parser.parse_args(words)) for words in ([], ["--region", "demo"]))
    assert bare == named
    assert (bare.zoom, bare.plan.per_shard, bare.split.seed) == (17, 32, 126)


@pytest.mark.parametrize("modules", [50, 400, 800])
def test_an_interrupt_at_any_moment_is_one_line_also_while_modules_are_loaded(modules: int, tmp_path: Path) -> None:
    """It comes when the process has loaded so many more modules than it began with."""
    code = f"""
import os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts the tests may ignore it
from pipeline.cli.main import entry
enough = len(sys.modules) + {modules}
def watch():
    while len(sys.modules) < enough:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=watch, daemon=True).start()
entry()
"""
    words = [sys.executable, "-c", code, "shards", "region=demo", f"out={tmp_path}/d", f"cache={tmp_path}/c"]
    done = subprocess.run(
        words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: interrupted; run the same command again to go on"
    assert "Traceback" not in done.stderr


#: Runs the console script, and interrupts it as the module that is named is first looked for.
_INTERRUPTED_AT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pipeline.cli.main import entry
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[-1]:
            os.kill(os.getpid(), signal.SIGINT)
for name in [n for n in sys.modules if n.startswith(("argparse", "importlib.metadata"))]:
    del sys.modules[name]
sys.meta_path.insert(0, Finder())
sys.argv = ["geoshards", "query", "none", sys.argv[1]]
entry()
"""


@pytest.mark.parametrize("module", ["argparse", "importlib.metadata", "pipeline.cli.query", "pyarrow.lib"])
def test_an_interrupt_at_any_moment_of_the_start_is_one_line(module: str) -> None:
    ended = subprocess.run([sys.executable, "-c", _INTERRUPTED_AT, module], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "error: interrupted; run the same command again to go on\n")


def test_too_little_address_space_to_start_in_is_one_line() -> None:
    words = f"ulimit -v 300000; exec {sys.executable} -m pipeline.cli.main verify none"
    ended = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ulimit -v allows 307 MB of address space")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("raised", ["TypeError('an integer is required')", "SystemError('error return')"])
def test_whatever_libraries_raise_near_the_limit_of_memory_is_one_line(raised: str) -> None:
    """And with room left it is what it was."""
    program = f"""
import resource, sys
from pipeline.cli import main, query
from schemas.command import Command
def run(args):
    raise {raised}
query.COMMAND = Command("x", query._configure, run)
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmPeak"))
resource.setrlimit(resource.RLIMIT_AS, (peak + (int(sys.argv[1]) << 20),) * 2)
sys.exit(main.main(["query", "none", "SELECT 1"]))
"""
    near, far = (
        subprocess.run([sys.executable, "-c", program, room], capture_output=True, text=True, check=False)
        for room in ("50", "9000")
    )
    assert near.stderr.startswith("error: this process does not get what it needs (")
    assert near.stderr.count("\n") == 1
    assert "Traceback" in far.stderr


def test_arguments_that_are_no_utf_8_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["query", "none", "SELECT '\udcff'"], ["inspect", "\udcff"], ["\udcff"]):
        assert main(words) == 2
        assert "is no UTF-8" in last_line(capsys)

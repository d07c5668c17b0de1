"""The DAGs in Airflow itself, on the demo: minutes, so a part of ``make nightly`` alone.

Airflow is installed from dags/airflow.lock into an environment of its own; ``GEOSHARDS_AIRFLOW`` names one that is
there already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from storage.dataset import sample_rows
from storage.store import Store
from tests.driver.test_shards import bytes_of

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "dags/airflow.lock"
pytestmark = [
    pytest.mark.skipif("GEOSHARDS_NIGHTLY" not in os.environ, reason="takes minutes: a part of `make nightly`"),
    pytest.mark.timeout(1800),
]
#: A step of training on a CPU that is little work, and shows that words reach the trainer.
TRAIN = {"model": "tiny", "steps": "2", "train": "eval.samples=16 eval.train_samples=16"}


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, in an environment that holds the packages of the lock and no others."""
    if given := os.environ.get("GEOSHARDS_AIRFLOW"):
        return Path(given) / "bin/airflow"
    folder = tmp_path_factory.mktemp("airflow")
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(LOCK)]
    for words in ([sys.executable, "-m", "venv", str(folder)], pip):
        done = subprocess.run(words, text=True, capture_output=True, check=False, timeout=900)
        if done.returncode:
            pytest.skip(f"Airflow cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return folder / "bin/airflow"


class Scheduler:
    """Airflow with a database of its own, whose dags folder is ours."""

    def __init__(self, program: Path, home: Path) -> None:
        self.program, self.home = program, home
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONPATH", "AIRFLOW"))}
        self.environment = kept | {
            "AIRFLOW_HOME": str(home / "airflow"), "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONDONTWRITEBYTECODE": "1",
            "GEOSHARDS_BIN": str(Path(sys.executable).parent), "GEOSHARDS_HOME": str(home),
            "GEOSHARDS_CACHE": str(home / "cache"),
        }  # fmt: skip
        self("db", "migrate")
        self("pools", "import", str(ROOT / "dags/pools.json"))
        self("dags", "reserialize")

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [self.program, *words], cwd=self.home, env=self.environment, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
        return done.stdout

    def table(self, *words: str) -> Any:
        """What a command gives as JSON."""
        return json.loads(self(*words, "--output", "json").strip().splitlines()[-1])

    def test(self, graph: str, values: Mapping[str, str]) -> str:
        return self("dags", "test", f"geoshards_{graph}", "--conf", json.dumps(values))

    def product(self, *words: str) -> str:
        program = Path(sys.executable).with_name("geoshards")
        return subprocess.check_output([program, *words], cwd=self.home, env=self.environment, text=True)


@pytest.fixture(scope="module")
def scheduler(airflow: Path, tmp_path_factory: pytest.TempPathFactory) -> Scheduler:
    return Scheduler(airflow, tmp_path_factory.mktemp("home"))


def test_airflow_is_of_the_lock(scheduler: Scheduler) -> None:
    wanted = next(line for line in LOCK.read_text().splitlines() if line.startswith("apache-airflow=="))
    assert scheduler("version").split()[-1] == wanted.partition("==")[2]


def test_airflow_finds_the_graphs_in_the_folder_and_nothing_else(scheduler: Scheduler) -> None:
    found = {row["dag_id"] for row in scheduler.table("dags", "list")}
    assert found == {"geoshards_dataset", "geoshards_pretrain", "geoshards_refresh"}
    assert "No data found" in scheduler("dags", "list-import-errors")
    assert scheduler("tasks", "list", "geoshards_dataset").split()[-7:] == sorted(
        ["plan", "extracts", "features", "samples", "catalog", "verify", "embed"]
    )


def test_each_graph_runs_on_the_demo_and_the_dataset_is_that_of_one_command(scheduler: Scheduler) -> None:
    scheduler.product("shards", "--region", "demo", "--out", "alone", "--workers", "1", "--quiet")
    said = scheduler.test("dataset", {"region": "demo", "out": "data/demo", "workers": "1"})
    assert said.count("1 of them now") == 7
    made, alone = bytes_of(scheduler.home / "data/demo"), bytes_of(scheduler.home / "alone")
    for files, table in ((made, b" tags.safetensors"), (alone, b"?")):  # embed's table is the one thing more
        files["MANIFEST.sha256"] = b"\n".join(x for x in files["MANIFEST.sha256"].splitlines() if table not in x)
    del made["tags.safetensors"]
    assert made == alone

    said = scheduler.test("pretrain", {"region": "demo", "out": "data/demo", "workers": "1", "run": "runs/a", **TRAIN})
    assert said.count("0 of them now") == 7
    assert said.count("1 of them now") == 4
    for name in ("checkpoint.pt", "evaluation-val/evaluation.json", "embeddings/encode.json",
                 "checkpoint-timm.safetensors"):  # fmt: skip
        assert (scheduler.home / "runs/a" / name).exists(), name

    row = sample_rows(Store(scheduler.home / "data/demo"))[0]
    tree = f'<node id="9000000001" version="1" timestamp="2026-01-01T00:00:00Z" lat="{row["lat"]}" lon="{row["lon"]}">'
    text = f'<osmChange version="0.6"><create>{tree}<tag k="natural" v="tree"/></node></create></osmChange>'
    (scheduler.home / "tree.osc").write_text(text)
    before = json.loads((scheduler.home / "data/demo/dataset.json").read_text())["content_hash"]
    values = {"data": "data/demo", "changes": "tree.osc", "run": "runs/a", "workers": "1", **TRAIN}
    said = scheduler.test("refresh", values)
    assert said.count("1 of them now") == 5
    after = json.loads((scheduler.home / "data/demo/dataset.json").read_text())["content_hash"]
    assert after != before
    assert (scheduler.home / f"runs/a-{after[:12]}/checkpoint.pt").exists()
    words = [f"{name}={value}" for name, value in values.items()]
    shown = json.loads(scheduler.product("dag", "show", "refresh", *words, "--json"))["steps"]
    assert {row["state"] for row in shown} == {"done"}  # whoever ran them

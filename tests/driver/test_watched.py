"""A build that is watched: from a second terminal, by its log, and by Prometheus where it runs on Ray."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.cli.main import main
from pipeline.cli.status import look
from pipeline.run.ray_map import Runner
from schemas.errors import DatasetError
from storage.dataset import read_catalog
from storage.store import Store
from tests.cli.test_cli import words_of
from tests.driver.village import Village

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = """if True:
    import sys
    from pipeline.cli.main import main
    from storage import status
    status.EVERY = 0.02
    sys.exit(main(sys.argv[1:]))
    """


def words(village: Village, out: Path) -> list[str]:
    return [*(word for word in words_of(village, out) if word != "--quiet"), "plan.per_shard=4"]


def wait_for(what: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def test_a_second_terminal_sees_a_build_its_end_by_a_kill_and_the_next_one(
    village: Village, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["status", str(out)]) == 1
    run = subprocess.Popen([sys.executable, "-c", _PROGRAM, *words(village, out)], cwd=ROOT, stderr=subprocess.PIPE)

    def shards() -> int:
        try:
            view = look(str(out))
        except DatasetError:
            return 0
        return 0 if view.run is None else view.run.done.get("shards", 0)

    try:
        wait_for(lambda: shards() > 0)
        capsys.readouterr()
        assert main(["status", str(out), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
    finally:
        run.kill()
        run.communicate()
    assert (said["state"], said["kind"], said["pid"]) == ("running", "shards", run.pid)
    assert said["stage"] in ("samples", "catalog")
    assert said["cost"]["cpu_seconds"] > 0
    assert said["done"]["tiles"] >= said["done"]["shards"] > 0
    assert look(str(out)).state == "gone"
    assert main(["status", str(out), "--watch"]) == 1
    assert "no longer running" in capsys.readouterr().out
    assert main(words(village, out)) == 0
    capsys.readouterr()
    assert main(["status", str(out), "--watch"]) == 0
    assert "finished" in capsys.readouterr().out
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_each_shard_has_its_line_and_quiet_has_none(
    village: Village, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(village, tmp_path / "a")) == 0
    lines = re.findall(r"^(part-\d{7}): (\d+) tiles, (\d+) samples", capsys.readouterr().err, re.MULTILINE)
    shards = read_catalog(Store(tmp_path / "a"), "shards").sort_by("index").to_pylist()
    assert lines == [(r["shard"].removesuffix(".tar"), str(r["planned"]), str(r["samples"])) for r in shards]
    assert main([*words(village, tmp_path / "b"), "--quiet"]) == 0
    assert not capsys.readouterr().err


@pytest.fixture
def ray_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, Counter[str]]]]:
    """A cluster of this process that a build joins; gives what the node's metrics endpoint says: of each of our metrics
    its values by their last label, or by nothing."""
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    with Runner(2) as runner:
        runner.start().result()
        import ray

        node = ray.nodes()[0]
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

        def read() -> dict[str, Counter[str]]:
            found: dict[str, Counter[str]] = {}
            with urlopen(url, timeout=20) as answer:
                for family in text_string_to_metric_families(answer.read().decode()):
                    for sample in family.samples:
                        if sample.name.startswith("ray_geoshards_") and sample.labels["dataset"] == "watched":
                            own = [v for k, v in sample.labels.items() if k in ("what", "reason", "way", "stage")]
                            found.setdefault(sample.name, Counter())["".join(own)] += sample.value
            return found

        yield read


def test_prometheus_is_told_what_the_catalog_says(
    village: Village, tmp_path: Path, ray_here: Callable[[], dict[str, Counter[str]]],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    assert main([*words(village, out), "--workers=2", "name=watched"]) == 0
    shards = read_catalog(Store(out), "shards").to_pylist()
    drops = Counter[str]()
    for row in read_catalog(Store(out), "drops").to_pylist():
        drops[row["reason"]] += row["count"]
    wait_for(lambda: ray_here().get("ray_geoshards_done_total", {}).get("shards") == len(shards))
    told = ray_here()
    samples, tiles = sum(r["samples"] for r in shards), sum(r["planned"] for r in shards)
    assert told["ray_geoshards_done_total"] == {"tiles": tiles, "samples": samples, "shards": len(shards)}
    assert told["ray_geoshards_drops_total"] == drops
    assert told["ray_geoshards_bytes_total"]["written"] > sum(r["bytes"] for r in shards)  # by another process
    assert told["ray_geoshards_cpu_seconds_total"][""] > 0
    assert told["ray_geoshards_memory_bytes"]["samples"] > 50e6
    assert told["ray_geoshards_queue"]["samples"] == 0
    assert len(re.findall(r"^part-\d{7}: \d+ tiles", capsys.readouterr().err, re.MULTILINE)) == len(shards)

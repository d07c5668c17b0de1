#!/usr/bin/env python3
"""Race: from features to shards with two workers on Ray, against two bare processes that build half of it each.

Usage: python benchmarks/ray_scaling.py [EXTRACT.osm.pbf] [--copies 10] [--zoom 16] [--runs 1]
       [--sides ray,ray_up,bare]

EXTRACT (by default Liechtenstein 2022 of the real test data) is copied side by side, ten times. The features of the
copies are read beforehand; timed are cells, plan, samples and catalog, no image, class raster at 256 px.

- `ray`: one build with two workers, of which this process is one; Ray starts and stops within the time.
- `ray_up`: one build with two workers on a Ray that is up, as on a cluster.
- `bare`: two builds of half the copies each, with one worker and without Ray, side by side. They wait for nothing of
  each other.

A side's rate is its tiles over the seconds until its last process is done, from the call that builds to its end; what
this process imports is there before. Prints one JSON line of medians: rates, their ratios to `bare` (1: Ray costs
nothing), and the ratios of tiles a processor second of all processes of a side, which also tell something on a machine
that has other work.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.replicate import replicate

from pipeline.osm.stage import features_stage
from pipeline.rules import load_rules
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
from storage.cache import using

_ROOT = Path(__file__).resolve().parents[1]
_DATA = Path(os.environ.get("GEOSHARDS_TEST_DATA") or _ROOT / "../shared/data")
_DEFAULT = _DATA / "osm/liechtenstein/liechtenstein_2022-07-24.osm.pbf"
_TICK = 1 / os.sysconf("SC_CLK_TCK")

#: Builds once it is told to: all sides have imported what they need. Its seconds, tiles and stages.
_BUILD = """
import json, sys, time
from pipeline.driver.shards import make_shards
from pipeline.samples.config import ShardsConfig
if __name__ == "__main__":
    extract, cache, out, zoom, workers, up = sys.argv[1:]
    if int(workers) > 1:
        import ray
    if up == "up":
        ray.init(num_cpus=int(workers), include_dashboard=False, log_to_driver=False)
    config = ShardsConfig(region=extract, zoom=int(zoom), size=256, out=out, workers=int(workers), cache=cache)
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    outcome = make_shards(config, quiet=True)
    print(json.dumps({"seconds": time.perf_counter() - start, "tiles": outcome.document["samples"],
                      "stages": {s.stage: round(s.seconds, 2) for s in outcome.stages}}))
"""


@dataclass(frozen=True)
class Part:
    """An extract whose features are in a cache of its own."""

    extract: Path
    cache: Path

    @classmethod
    def made(cls, source: Path, work: Path, name: str, copies: int, first: int) -> Part:
        """Copies of an extract, read."""
        part = cls(work / f"{name}.osm.pbf", work / f"cache-{name}")
        replicate(source, part.extract, copies, first)
        with using(part.cache), Runner(1) as runner:
            features_stage([part.extract], load_rules(ShardsConfig(region="").rules), part.cache, runner, True)
        return part

    def clear(self) -> None:
        """Leave features alone."""
        for folder in self.cache.glob("cells-*"):
            shutil.rmtree(folder)


def processor_seconds(pid: int, found: dict[tuple[int, str], float]) -> None:
    """Note what a process and those below it have used: by number and begin, as numbers come again."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        found[pid, words[19]] = (int(words[11]) + int(words[12])) * _TICK
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                processor_seconds(int(child), found)
    except OSError:  # it has ended
        pass


def side(work: Path, zoom: int, parts: list[Part], workers: int, up: str) -> dict[str, Any]:
    """Builds side by side, one a part: tiles, seconds until the last is done, and of all processors."""
    running = []
    # A token would stay in the home; where all cores are busy Ray's servers take longer to start than it waits.
    variables = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_gcs_server_port_wait_time_s": "90"}
    for number, part in enumerate(parts):
        part.clear()
        out = work / f"out-{number}"
        shutil.rmtree(out, ignore_errors=True)
        words = [str(part.extract), str(part.cache), str(out), str(zoom), str(workers), up]
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", _BUILD, *words], cwd=_ROOT, env=variables if up else None,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            )
        )  # fmt: skip
    for process in running:
        process.stdout.readline()  # type: ignore[union-attr]
    before, used = dict[tuple[int, str], float](), dict[tuple[int, str], float]()
    for process in running:
        processor_seconds(process.pid, before)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            for process in running:
                processor_seconds(process.pid, used)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for process in running:
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    said = [process.stdout.readline() for process in running]  # type: ignore[union-attr]
    over.set()
    watcher.join()
    if any(process.wait() for process in running):
        raise SystemExit("error: a build failed; its reason is above")
    found = [json.loads(own) for own in said]
    seconds, tiles = max(own["seconds"] for own in found), sum(own["tiles"] for own in found)
    return {
        "tiles": tiles, "tiles_per_s": tiles / seconds,
        "tiles_per_cpu_s": tiles / (sum(used.values()) - sum(before.values())), "stages": [f["stages"] for f in found],
    }  # fmt: skip


def race(extract: Path, copies: int, zoom: int, runs: int, asked: list[str]) -> dict[str, Any]:
    """Both sides in turn, ``runs`` times."""
    with tempfile.TemporaryDirectory(prefix="geoshards-bench-") as folder:
        work = Path(folder)
        half = copies // 2
        whole = Part.made(extract, work, "whole", copies, 0)
        halves = [Part.made(extract, work, "left", half, 0), Part.made(extract, work, "right", copies - half, half)]
        sides = {"ray": ([whole], 2, ""), "ray_up": ([whole], 2, "up"), "bare": (halves, 1, "")}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in asked}
        for _ in range(runs):
            for name in asked:
                found[name].append(side(work, zoom, *sides[name]))

    def middle(name: str, figure: str) -> float:
        return statistics.median(own[figure] for own in found[name])

    return {
        "race": "ray_scaling", "extract": extract.name, "copies": copies, "zoom": zoom, "runs": runs,
        "tiles": {name: own[0]["tiles"] for name, own in found.items()},
        "tiles_per_s": {name: round(middle(name, "tiles_per_s"), 1) for name in found},
        "ratio": {n: round(middle(n, "tiles_per_s") / middle("bare", "tiles_per_s"), 3) for n in found if n != "bare"},
        "cpu_ratio": {
            n: round(middle(n, "tiles_per_cpu_s") / middle("bare", "tiles_per_cpu_s"), 3) for n in found if n != "bare"
        },
        "stages_s": {name: own[0]["stages"] for name, own in found.items()},
    }  # fmt: skip


def main() -> None:
    """Run the race and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extract", nargs="?", type=Path, default=_DEFAULT, help="of dense nodes (.osm.pbf)")
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--zoom", type=int, default=16)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--sides", default="ray,ray_up,bare", help="with commas; bare is what the others are held to")
    args = parser.parse_args()
    if not args.extract.is_file():
        parser.error(f"{args.extract} does not exist; give an extract, or set GEOSHARDS_TEST_DATA")
    print(json.dumps(race(args.extract, args.copies, args.zoom, args.runs, args.sides.split(","))))


if __name__ == "__main__":
    main()

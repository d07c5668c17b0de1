#!/usr/bin/env python3
"""What each stage of a build takes, task by task, and whether the simulation made of it foretells other builds.

Usage: python benchmarks/scaling.py [EXTRACT.osm.pbf [SMALL.osm.pbf]] [--against OTHER.osm.pbf] [--zoom 16]
       [--clock wall|cpu] [--workers 1,2] [--out MEASURED.json]

EXTRACT (by default Liechtenstein 2022 of the real test data) is built in one process and every task is timed, with the
bytes that it read and wrote; a SMALL one of its kind tells what the driver does once, whatever the size. Two such
processes at once tell how much they slow each other, tasks that do nothing how long the driver takes to deal one out.
From that the simulation (benchmarks/tools/simulate.py) says how long OTHER (by default the same) takes with one and
with two workers; then that is measured, each in a process of its own with an empty cache, from the extract to the
catalog. Prints one JSON line; MEASURED.json is what benchmarks/tools/forecast.py forecasts Europe and the planet from.
With ``--clock cpu`` times are of the processor: for machines with other work, and one worker.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.simulate import Cluster, simulate
from tools.stages import Measured, measure

from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig

_ROOT = Path(__file__).resolve().parents[1]
_DATA = Path(os.environ.get("GEOSHARDS_TEST_DATA") or _ROOT / "../shared/data")
_DEFAULT = _DATA / "osm/liechtenstein/liechtenstein_2022-07-24.osm.pbf"
#: Tasks that do nothing, and bytes that each is sent: a shard's job has about so many.
_TASKS, _PAYLOAD = 400, 30_000

#: Builds; prints its seconds by the clock and of its processor, those of the samples, and what it planned.
_BUILD = """
import json, sys, time
from pipeline.driver.shards import make_shards
from pipeline.samples.config import ShardsConfig
if __name__ == "__main__":
    extract, folder, cache, zoom, workers = sys.argv[1:]
    config = ShardsConfig(region=extract, zoom=int(zoom), size=256, out=folder, workers=int(workers), cache=cache)
    start, cpu = time.perf_counter(), time.process_time()
    outcome = make_shards(config, quiet=True)
    stages = {s.stage: s for s in outcome.stages}
    print(json.dumps({"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu,
                      "samples": stages["samples"].seconds, "tiles": stages["plan"].items}))
"""


def config_of(extract: Path, folder: Path, zoom: int) -> ShardsConfig:
    """A build into an empty folder, with a cache there."""
    return ShardsConfig(
        region=str(extract), zoom=zoom, size=256, out=str(folder / "out"), workers=1, cache=str(folder / "cache")
    )


def builds(extract: Path, work: Path, cache: Path, zoom: int, workers: int, beside: int = 1) -> list[dict[str, Any]]:
    """What ``beside`` builds at once say of themselves, each a process of its own."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _BUILD, str(extract), str(work / f"out{n}"), str(cache), str(zoom), str(workers)],
            cwd=_ROOT, stdout=subprocess.PIPE, text=True,
        )
        for n in range(beside)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("error: a build failed; its reason is above")
    return [json.loads(own.splitlines()[-1]) for own in said]


def dealing_out(workers: int) -> tuple[float, float]:
    """Seconds until Ray is up; seconds of this process's processor for a task that another one does."""
    start = time.perf_counter()
    with Runner(workers) as runner:
        runner.start().result()
        up = time.perf_counter() - start
        cpu = time.process_time()
        who = [pid for _, pid, _ in runner.map(_whose, [bytes(_PAYLOAD)] * _TASKS)]
        elsewhere = sum(pid != os.getpid() for pid in who)
        return up, (time.process_time() - cpu) / max(1, elsewhere)


def _whose(_: bytes) -> int:
    return os.getpid()


def race(
    extracts: list[Path], other: Path, zoom: int, clock: str, workers: list[int]
) -> tuple[dict[str, Any], Measured]:
    """Measure, foretell, measure again."""
    with tempfile.TemporaryDirectory(prefix="geoshards-bench-") as folder:
        work = Path(folder)
        found, *small = (measure(config_of(path, work / f"own{n}", zoom), clock) for n, path in enumerate(extracts))
        if small:
            found = found.beside(small[0])
        facts: dict[str, float] = {}
        if max(workers) > 1:
            alone = sum(sum(s.seconds) + s.handling for s in found.stages if s.name == "samples")
            both = builds(extracts[0], work / "both", work / "own0" / "cache", zoom, 1, beside=2)
            facts["crowding"] = round(max(1.0, statistics.mean(b["samples"] for b in both) / alone), 3)
        if max(workers) > 1 or clock == "cpu":
            facts["starting"], facts["dispatch"] = (round(v, 5) for v in dealing_out(2))
        found = replace(found, **facts)
        measured = {n: builds(other, work / f"out{n}", work / f"cache{n}", zoom, n)[0] for n in workers}
        size, tiles = other.stat().st_size, next(iter(measured.values()))["tiles"]
    foretold = {}
    for n in workers:
        cluster = Cluster(n, per_node=1, late=found.starting if n > 1 else 0.0)
        foretold[n] = simulate(found.stages_of(size, tiles, n), cluster).seconds
    result = {
        "race": "scaling", "extract": extracts[0].name, "against": other.name, "clock": clock, "tiles": tiles,
        "tasks": {s.name: task_times(s.seconds) for s in found.stages if s.seconds},
        "driver_s": round(sum(s.before + s.handling for s in found.stages), 3), **facts,
        "predicted_s": {str(n): round(s, 2) for n, s in foretold.items()},
        "measured_s": {str(n): round(m[clock], 2) for n, m in measured.items()},
        "ratio": {str(n): round(foretold[n] / measured[n][clock], 3) for n in workers},
    }  # fmt: skip
    return result, found


def task_times(seconds: list[float]) -> dict[str, float]:
    """Their number, sum, median and longest."""
    return {
        "tasks": len(seconds), "sum_s": round(sum(seconds), 3), "median_s": round(statistics.median(seconds), 4),
        "longest_s": round(max(seconds), 4),
    }  # fmt: skip


def main() -> None:
    """Run and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extracts", nargs="*", type=Path, default=[_DEFAULT], help="one, or a small one after it")
    parser.add_argument("--against", type=Path, help="the extract whose build is foretold and measured")
    parser.add_argument("--zoom", type=int, default=16)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--workers", default="1,2", help="with commas")
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/tools/forecast.py")
    args = parser.parse_args()
    for path in filter(None, (*args.extracts, args.against)):
        if not path.is_file():
            parser.error(f"{path} does not exist; give an extract, or set GEOSHARDS_TEST_DATA")
    workers = [int(n) for n in args.workers.split(",")]
    if args.clock == "cpu" and max(workers) > 1:
        parser.error("--clock cpu is of one process; give --workers 1")
    if len(args.extracts) > 2:
        parser.error("give one extract, or one and a smaller one of its kind")
    extracts = [path.resolve() for path in args.extracts]
    other = args.against.resolve() if args.against else extracts[0]
    result, found = race(extracts, other, args.zoom, args.clock, workers)
    if args.out is not None:
        args.out.write_text(json.dumps(found.as_dict()) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

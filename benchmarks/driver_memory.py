#!/usr/bin/env python3
"""What the process that deals out a build holds, by its tiles: benches on tiles of zoom 16 all over the world.

Usage: python benchmarks/driver_memory.py [--tiles N,N…]

Each size is planned in a process of its own from cached features and cells; then the job of every shard is made in
turn and let go, as for a cluster that does all of the work. Prints one JSON line, in MB above a plan of one tile: the
peak of the plan, the peak when all is dealt out, and what is held then (no file behind it); and jobs a CPU second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from plan import write

_ROOT = Path(__file__).resolve().parents[1]
_DRIVE = """
import json, resource, sys, time
from pipeline.driver.plan import make_plan
from pipeline.driver.shards import Jobs
from pipeline.run.capacity import anonymous_mb
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
from storage.store import Store
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
config = ShardsConfig(region=sys.argv[1], cache=sys.argv[2], imagery="none", streetview="none", zoom=16, workers=1)
plan = make_plan(config, Runner(1), quiet=True)
planned = peak()
jobs = Jobs(plan, Store(sys.argv[2] + "/out"), None)
start = time.process_time()
for number in range(len(plan.shards)):
    jobs(number)
rate = len(plan.shards) / (time.process_time() - start)
print(json.dumps([len(plan.footprints), planned, peak(), anonymous_mb(), rate]))
"""


def driven(tiles: int) -> tuple[float, float, float, float]:
    """Peaks of the plan and of dealing it out, and what is held, in MB; jobs a CPU second."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "x.opl"), tiles, False)
        command = [sys.executable, "-c", _DRIVE, f"{folder}/x.opl", f"{folder}/cache"]
        for _ in range(2):
            out = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True).stdout
        found, *result = json.loads(out)
    assert found == tiles
    return tuple(result)


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiles", default="1000,10000,100000,1000000")
    args = parser.parse_args()
    base = driven(1)
    result: dict[str, dict[str, float]] = {}
    for tiles in map(int, args.tiles.split(",")):
        *memory, rate = driven(tiles)
        own = [round(mb - of_one, 1) for mb, of_one in zip(memory, base[:3], strict=True)]
        names = ("plan_peak_mb", "dealt_peak_mb", "held_mb")
        result[str(tiles)] = dict(zip(names, own, strict=True)) | {"jobs_per_cpu_second": round(rate, 1)}
    print(json.dumps({"zoom": 16, "tiles": result}))


if __name__ == "__main__":
    main()

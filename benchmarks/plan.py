#!/usr/bin/env python3
"""What a plan costs by what it holds: benches on so many tiles of zoom 16, in towns all over the world.

Usage: python benchmarks/plan.py [--tiles N,N…] [--stray]

Each size is planned in a process of its own from cached features and cells; with --stray, once more with an untagged
node far from all. Prints one JSON line: CPU seconds of the plan, and how far the process's peak memory rises above that
of a plan of one tile, in MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

_ROOT = Path(__file__).resolve().parents[1]
#: Tiles of a town, and of its row.
_TOWN, _ROW = 1024, 32
_ZOOM = 16

_PLAN = """
import json, resource, sys, time
from pipeline.driver.plan import make_plan
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
config = ShardsConfig(region=sys.argv[1], cache=sys.argv[2], imagery="none", streetview="none", zoom=16, workers=1)
start = time.process_time()
plan = make_plan(config, Runner(1), quiet=True)
seconds = time.process_time() - start
print(json.dumps([len(plan.footprints), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def write(path: Path, tiles: int, stray: bool) -> None:
    """A bench in the middle of each tile, as OPL."""
    town, k = np.divmod(np.arange(tiles), _TOWN)
    side = 1 << _ZOOM
    columns = (town * 40_503) % (side - 2 * _ROW) + k % _ROW  # towns lie apart: an odd step through all columns
    rows = side // 4 + (town * 24_593) % (side // 2) + k // _ROW
    lon = (columns + 0.5) / side * 360 - 180
    lat = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * (rows + 0.5) / side))))
    lines = [f"n{i} v1 x{x:.7f} y{y:.7f} Tamenity=bench" for i, (x, y) in enumerate(zip(lon, lat, strict=True), 1)]
    path.write_text("\n".join([*lines, *([f"n{tiles + 1} v1 x0 y-80"] if stray else [])]) + "\n")


def planned(tiles: int, stray: bool) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of the second plan, which finds features and cells in the cache."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "x.opl"), tiles, stray)
        command = [sys.executable, "-c", _PLAN, f"{folder}/x.opl", f"{folder}/cache"]
        for _ in range(2):
            out = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True).stdout
        found, seconds, memory = json.loads(out)
    assert found == tiles
    return seconds, memory


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiles", default="1000,10000,100000,1000000")
    parser.add_argument("--stray", action="store_true")
    args = parser.parse_args()
    _, base = planned(1, False)
    result: dict[str, dict[str, float]] = {}
    for tiles in map(int, args.tiles.split(",")):
        for stray in (False, True) if args.stray else (False,):
            seconds, memory = planned(tiles, stray)
            name = f"{tiles}{'_stray' if stray else ''}"
            result[name] = {"cpu_s": round(seconds, 3), "mb": round(memory - base, 1)}
    print(json.dumps({"zoom": _ZOOM, "tiles": result}))


if __name__ == "__main__":
    main()

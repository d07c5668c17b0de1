#!/usr/bin/env python3
"""A rehearsal of a continent: features and cells of an extract of gigabytes, and a share of its tiles.

Usage: python benchmarks/continent.py [SOURCE.osm.pbf] [--sizes 0.2,2.0] [--workers 1] [--share 0.01] [--folder DIR]

For each size in GB the source (Liechtenstein 2022 of the real test data) is replicated with shifted ids and places
(tools/replicate.py), then each stage runs as a process of its own: features, cells, and a dataset of a share of the
tiles at zoom 16 without images, its plan that of all tiles. What comes out is known by construction: of N copies N
times the features of one. Some 6 GB of the folder a GB are taken while it runs.

Prints one JSON line: by size the seconds by the clock, processor seconds (with one worker, of all) and the largest
anonymous memory of each stage; how memory grows from the first size to the last; and the last size's processor hours
carried over to Europe's 31 GB (the tiles are those of the share), beside those that planetiler publishes for a planet
of 73 GB on two cores (https://github.com/onthegomap/planetiler#benchmarks, im4gn.large, 0.7.0, no z13 building merge:
18 h 18 m, 28 h 6 m of processor; vector tiles of zoom 0 to 14, other work on the same objects).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import osmium
from tools.replicate import replicate
from tools.watch import watched

_ROOT = Path(__file__).resolve().parents[1]
_DATA = Path(os.environ.get("GEOSHARDS_TEST_DATA") or _ROOT / "../shared/data")
_DEFAULT = _DATA / "osm/liechtenstein/liechtenstein_2022-07-24.osm.pbf"
_EUROPE_GB = 31.0
_PLANETILER_GB, _PLANETILER_CPU_H = 73.0, 28.1

#: Arguments: stage, extract, cache, workers, share, output folder. Prints what came out.
_STAGE = """
import json, sys
from pathlib import Path
from pipeline.driver.shards import make_shards
from pipeline.footprints.config import PlanConfig, SamplingConfig
from pipeline.osm.stage import features_stage, vocabulary_stage
from pipeline.osm.vocabulary import CleaningConfig
from pipeline.rules import load_rules
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
if __name__ == "__main__":
    stage, extract, cache, workers, share, out = sys.argv[1:]
    if stage == "tiles":
        plan = PlanConfig(sampling=SamplingConfig(share=float(share)))
        done = make_shards(ShardsConfig(region=extract, imagery="none", zoom=16, plan=plan, workers=int(workers),
                                        cache=cache, out=out), quiet=True)
        print(json.dumps({"samples": done.document["samples"], "seconds": {s.stage: s.seconds for s in done.stages}}))
    else:
        rules = load_rules()
        with Runner(int(workers)) as runner:
            features, row = features_stage([Path(extract)], rules, Path(cache), runner, True)
            if stage == "cells":
                _, row = vocabulary_stage(features, rules, ShardsConfig().osm, 10, Path(cache), runner, True)
        print(json.dumps({"features": features.count}))
"""


def stages(extract: Path, folder: Path, workers: int, share: float) -> dict[str, Any]:
    """Every stage, one after the other."""
    found: dict[str, Any] = {}
    for stage in ("features", "cells", "tiles"):
        words = [stage, extract, folder / "cache", workers, share, folder / "out"]
        done = watched([sys.executable, "-c", _STAGE, *map(str, words)], _ROOT)
        found[stage] = json.loads(done.output) | {
            "s": round(done.seconds, 1), "cpu_s": round(done.processor_s, 1), "mb": round(done.anonymous_mb),
        }  # fmt: skip
    return found


def of_size(source: Path, gigabytes: float, args: argparse.Namespace) -> dict[str, Any]:
    """All of one size."""
    copies = max(2, round(gigabytes * 1e9 / source.stat().st_size))
    with tempfile.TemporaryDirectory(prefix="geoshards-continent-", dir=args.folder) as name:
        folder = Path(name)
        extract = folder / "continent.osm.pbf"
        replicate(source, extract, copies)
        found = {"copies": copies, "gb": round(extract.stat().st_size / 1e9, 6)}
        found |= stages(extract, folder, args.workers, args.share)
    return found


def as_pbf(source: Path, folder: Path) -> Path:
    """The source, or a copy of it as PBF."""
    if source.name.endswith(".pbf"):
        return source
    copy = folder / "source.osm.pbf"
    with osmium.SimpleWriter(str(copy)) as writer:
        for thing in osmium.FileProcessor(str(source)):
            writer.add(thing)
    return copy


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", type=Path, default=_DEFAULT)
    parser.add_argument("--sizes", default="0.2,2.0", help="GB, with commas, rising")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--folder", type=Path, help="where the extracts and all that is made of them lie meanwhile")
    args = parser.parse_args()
    if not args.source.is_file():
        parser.error(f"{args.source} does not exist; give an extract, or set GEOSHARDS_TEST_DATA")
    work = Path(tempfile.mkdtemp(prefix="geoshards-continent-", dir=args.folder))
    try:
        source = as_pbf(args.source.resolve(), work)
        one = watched([sys.executable, "-c", _STAGE, "features", str(source), str(work / "cache"), "1", "1", ""], _ROOT)
        sizes = [of_size(source, float(size), args) for size in args.sizes.split(",")]
    finally:
        shutil.rmtree(work)
    each = json.loads(one.output)["features"]
    for size in sizes:
        if size["features"]["features"] != each * size["copies"]:
            raise SystemExit(f"error: {size['features']['features']} features of {size['copies']} copies of {each}")
    first, last = sizes[0], sizes[-1]
    names = ("features", "cells", "tiles")
    carried = {name: round(last[name]["cpu_s"] / 3600 / last["gb"] * _EUROPE_GB, 2) for name in names}
    result = {
        "source": args.source.name, "workers": args.workers, "share": args.share, "sizes": sizes,
        "memory_last_over_first": {name: round(last[name]["mb"] / first[name]["mb"], 2) for name in names},
        "europe_cpu_h": carried,
        "planetiler_europe_cpu_h": round(_PLANETILER_CPU_H / _PLANETILER_GB * _EUROPE_GB, 2),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()

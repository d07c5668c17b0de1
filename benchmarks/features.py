#!/usr/bin/env python3
"""Race: from one extract to a feature table on disk, against a plain pyosmium + pyarrow loop and `osmium export`.

Usage: python benchmarks/features.py [EXTRACT.osm.pbf] [--runs 3]

The default extract is Liechtenstein 2022 of the real test data; `benchmarks/tools/replicate.py` makes larger ones.
Each side runs as a process of its own, in turn; prints one JSON line of median wall seconds and of the largest
anonymous memory (RssAnon) of any of its processes in MB. `osmium export` is left out where it is not installed.
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
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_DATA = Path(os.environ.get("GEOSHARDS_TEST_DATA") or _ROOT / "../shared/data")
_DEFAULT = _DATA / "osm/liechtenstein/liechtenstein_2022-07-24.osm.pbf"

_OURS = """
import sys
from pathlib import Path
from pipeline.osm.read import read_extract
from pipeline.rules import load_rules
from pipeline.run.ray_map import Runner
if __name__ == "__main__":
    with Runner(int(sys.argv[3])) as runner:
        read_extract(Path(sys.argv[1]), load_rules(), Path(sys.argv[2]), runner)
"""

#: The baseline: one pass in Python with areas, WKB and tags, one Parquet file.
_LOOP = """
import sys
import osmium, pyarrow as pa, pyarrow.parquet as pq
factory, rows = osmium.geom.WKBFactory(), []
for o in osmium.FileProcessor(sys.argv[1]).with_areas().with_filter(osmium.filter.EmptyTagFilter()):
    try:
        if o.is_node():
            rows.append(("node", o.id, factory.create_point(o), dict(o.tags)))
        elif o.is_area():
            kind = "way" if o.from_way() else "relation"
            rows.append((kind, o.orig_id(), factory.create_multipolygon(o), dict(o.tags)))
        elif o.is_way() and not o.is_closed():
            rows.append(("way", o.id, factory.create_linestring(o), dict(o.tags)))
    except RuntimeError:
        pass
kind, ids, wkb, tags = zip(*rows)
table = pa.table({"osm_type": kind, "osm_id": ids, "geometry": [bytes.fromhex(w) for w in wkb],
                  "tags": pa.array([list(t.items()) for t in tags], pa.map_(pa.string(), pa.string()))})
pq.write_table(table, sys.argv[2] + "/features.parquet")
"""


def anonymous_mb(pid: int) -> float:
    """Largest RssAnon among a process and those below it, in MB."""
    largest = 0.0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                largest = int(line.split()[1]) / 1024
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return largest
    return max([largest, *(anonymous_mb(int(c)) for c in children)])


def run(words: list[str]) -> tuple[float, float]:
    """Wall seconds and peak anonymous MB of one process tree."""
    start = time.perf_counter()
    process = subprocess.Popen(words, cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0.0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, anonymous_mb(process.pid))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    seconds = time.perf_counter() - start
    watcher.join()
    if status:
        raise SystemExit(f"error: {' '.join(words[:3])} … ended with {status}")
    return seconds, peak


def main() -> None:
    """Run the race and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extract", nargs="?", type=Path, default=_DEFAULT)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    if not args.extract.is_file():
        parser.error(f"{args.extract} does not exist; give an extract, or set GEOSHARDS_TEST_DATA")
    extract = str(args.extract.resolve())
    sides = {
        "geoshards_1": lambda out: [sys.executable, "-c", _OURS, extract, out, "1"],
        "plain_loop": lambda out: [sys.executable, "-c", _LOOP, extract, out],
    }
    if tool := shutil.which("osmium"):
        sides["osmium_export"] = lambda out: [tool, "export", extract, "-f", "geojsonseq", "-o", f"{out}/x.geojsonseq"]
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(args.runs):
        for name, words in sides.items():
            with tempfile.TemporaryDirectory(prefix="geoshards-bench-") as out:
                figures[name].append(run(words(out)))
    result: dict[str, object] = {"race": "features", "extract": args.extract.name, "runs": args.runs}
    for name, found in figures.items():
        result[f"{name}_s"] = round(statistics.median(s for s, _ in found), 2)
        result[f"{name}_mb"] = round(max(m for _, m in found))
    ours = statistics.median(s for s, _ in figures["geoshards_1"])
    for name in figures:
        if name != "geoshards_1":
            result[f"{name}_over_geoshards"] = round(statistics.median(s for s, _ in figures[name]) / ours, 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

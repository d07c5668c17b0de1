#!/usr/bin/env python3
"""Race: from extracts to a feature table on disk, against a plain loop, `osmium export` and QuackOSM.

Usage: python benchmarks/features.py [EXTRACT.osm.pbf …] [--runs 3] [--workers 2] [--sides NAME,NAME…]

The default extract is Liechtenstein 2022 of the real test data; `benchmarks/tools/replicate.py` makes larger ones, and
neighbours. Several extracts are merged: `geoshards_1_apart` reads each by itself instead, which is what merging costs,
and `osmium_merge_export` merges the files, then exports; the other peers take one extract.
Each side runs as a process of its own, in turn; prints one JSON line of median wall seconds and of the largest
anonymous memory (RssAnon), summed over all its processes, in MB, and of processor seconds (of itself and those that it
waited for), which mislead less where the machine has other work. With several workers, `geoshards_N` starts Ray and
stops it; `geoshards_N_read_s` is the time of the same work where Ray is up. A side that is not to be had is left out
with the reason; QuackOSM is installed into an environment of its own in the cache, and told to use as many cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.peers import PeerMissing, quackosm
from tools.watch import watched

_ROOT = Path(__file__).resolve().parents[1]
_DATA = Path(os.environ.get("GEOSHARDS_TEST_DATA") or _ROOT / "../shared/data")
_DEFAULT = _DATA / "osm/liechtenstein/liechtenstein_2022-07-24.osm.pbf"

#: Prints the seconds of the work itself.
_OURS = """
import sys, time
from pathlib import Path
from pipeline.osm.extracts.read import read_extracts
from pipeline.rules import load_rules
from pipeline.run.ray_map import Runner
if __name__ == "__main__":
    out, how, workers, files = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), [Path(p) for p in sys.argv[4:]]
    with Runner(workers) as runner:
        if workers > 1 and how == "up":
            runner.start().result()
        start = time.perf_counter()
        for number, some in enumerate([[file] for file in files] if how == "apart" else [files]):
            read_extracts(some, load_rules(), out / str(number), runner)
        print(time.perf_counter() - start)
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

#: Every tag in one map, unsorted: the least that it can do and still write the same table.
_QUACKOSM = """
import sys
import quackosm
if __name__ == "__main__":
    quackosm.convert_pbf_to_parquet(
        sys.argv[1], result_file_path=sys.argv[2] + "/features.parquet", working_directory=sys.argv[2] + "/work",
        keep_all_tags=True, explode_tags=False, sort_result=False, ignore_cache=True, verbosity_mode="silent",
        cpu_limit=int(sys.argv[3]))
"""


@dataclass(frozen=True)
class Side:
    """One side of the race."""

    words: Callable[[str], list[str]]  # output folder to command line
    variables: dict[str, str] | None = None
    inner: bool = False  # prints the seconds of the work itself, which count instead of the process's


def run(side: Side, folder: str) -> tuple[float, float, float]:
    """Wall seconds, peak anonymous MB and processor seconds of one process tree."""
    done = watched(side.words(folder), _ROOT, side.variables)
    return float(done.output.split()[-1]) if side.inner else done.seconds, done.anonymous_mb, done.processor_s


def ours(files: list[str], workers: int) -> dict[str, Side]:
    """Our own sides."""

    def words(how: str, number: int) -> Callable[[str], list[str]]:
        return lambda out: [sys.executable, "-c", _OURS, out, how, str(number), *files]

    found = {"geoshards_1": Side(words("down", 1))}
    if len(files) > 1:
        found["geoshards_1_apart"] = Side(words("apart", 1))
    if workers > 1:
        found[f"geoshards_{workers}"] = Side(words("down", workers))
        found["geoshards_1_read"] = Side(words("up", 1), inner=True)
        found[f"geoshards_{workers}_read"] = Side(words("up", workers), inner=True)
    return found


def sides(files: list[str], workers: int, asked: list[str]) -> tuple[dict[str, Side], dict[str, str]]:
    """Those of the sides asked for, or of all, that can run here, and why the others cannot."""
    found, absent, extract = ours(files, workers), dict[str, str](), files[0]
    name = "osmium_export" if len(files) == 1 else "osmium_merge_export"
    if shutil.which("osmium") is None:
        absent[name] = "the osmium binary is not installed"
    elif len(files) == 1:
        found[name] = Side(lambda out: ["osmium", "export", extract, "-f", "geojsonseq", "-o", f"{out}/x.geojsonseq"])
    else:
        steps = 'osmium merge "$@" -o "$0/x.osm.pbf" && osmium export "$0/x.osm.pbf" -f geojsonseq -o "$0/x.geojsonseq"'
        found[name] = Side(lambda out: ["sh", "-c", steps, out, *files])
    if len(files) > 1:
        return {name: side for name, side in found.items() if not asked or name in asked}, absent
    found["plain_loop"] = Side(lambda out: [sys.executable, "-c", _LOOP, extract, out])
    if not asked or "quackosm" in asked:  # it is installed first
        try:
            python, variables = quackosm()
            found["quackosm"] = Side(lambda out: [str(python), _script(out), extract, out, str(workers)], variables)
        except PeerMissing as error:
            absent["quackosm"] = str(error)
    return {name: side for name, side in found.items() if not asked or name in asked}, absent


def _script(folder: str) -> str:
    """QuackOSM's program as a file: it starts processes that import it."""
    path = Path(folder) / "run_quackosm.py"
    path.write_text(_QUACKOSM)
    return str(path)


def main() -> None:
    """Run the race and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extracts", nargs="*", type=Path, default=[_DEFAULT])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sides", default="", help="names of the sides to run, with commas; all by default")
    args = parser.parse_args()
    for path in args.extracts:
        if not path.is_file():
            parser.error(f"{path} does not exist; give an extract, or set GEOSHARDS_TEST_DATA")
    files = [str(path.resolve()) for path in args.extracts]
    chosen, absent = sides(files, args.workers, args.sides.split(",") if args.sides else [])
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in chosen}
    for _ in range(args.runs):
        for name, side in chosen.items():
            with tempfile.TemporaryDirectory(prefix="geoshards-bench-") as out:
                figures[name].append(run(side, out))
    names = ", ".join(path.name for path in args.extracts)
    result: dict[str, object] = {"race": "features", "extracts": names, "runs": args.runs}
    seconds = {name: statistics.median(s for s, _, _ in rows) for name, rows in figures.items()}
    for name, rows in figures.items():
        result[f"{name}_s"] = round(seconds[name], 2)
        result[f"{name}_mb"] = round(max(m for _, m, _ in rows))
        result[f"{name}_cpu_s"] = round(statistics.median(c for _, _, c in rows), 2)
    for name in seconds:
        if "geoshards_1" in seconds and name != "geoshards_1" and not name.endswith("_read"):
            result[f"{name}_over_geoshards_1"] = round(seconds[name] / seconds["geoshards_1"], 2)
    both = f"geoshards_{args.workers}_read"
    if both in seconds and "geoshards_1_read" in seconds:
        result["speedup"] = round(seconds["geoshards_1_read"] / seconds[both], 2)
    result |= {f"{name}_left_out": reason for name, reason in absent.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

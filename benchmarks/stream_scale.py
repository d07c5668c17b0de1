"""Start-up, memory and resume of the stream on a catalog of many samples.

``python benchmarks/stream_scale.py [--samples N] [--per-shard N] [--shuffle MODE] [--rounds N] [--keep DIR]`` prints
one JSON line. The catalog is generated: its rows point into a few real shards that stand under many names (hard links),
so keys recur; their hashes do not, as those of distinct keys would not. Cold is the first opening on a machine, which
chooses the rows and writes them into the cache; warm is a fresh process after it. ``--select`` is a condition that the
first opening has to answer from the samples table.
Memory is that of a fresh process above what it holds after its imports: ``private`` belongs to it alone, the rest are
mapped pages that all ranks of a node share. Resume is from ``load_state_dict`` at 48 % of an epoch to a first batch of
256 samples of 64 px, stream open; ``resume_32_s`` to one of 32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from schemas.catalog import SHARDS_PER_FILE, catalog_file, shard_name  # noqa: E402
from schemas.index import IndexPart, index_file  # noqa: E402
from tests.trainers.synthetic import SyntheticSettings, write_dataset  # noqa: E402

#: Real shards behind the catalog.
REAL = 4

_RANK = """
import json, sys, time
sys.path[0] = sys.argv[1]
import numpy, pyarrow.parquet, pyarrow.compute, fsspec, torch
from trainers.stream.batch import View
from trainers.stream.stream import GeoStream

def memory():
    rows = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    kb = lambda name: int(rows[name].split()[0])
    return kb("Rss") / 1e3, (kb("Private_Clean") + kb("Private_Dirty")) / 1e3

root, shuffle, select = sys.argv[2:5]
before = memory()
begin = time.perf_counter()
view = View(64, osm=("objects", "relations"), tag_width=16)
stream = GeoStream(root, view, batch_size=256, shuffle=shuffle, select=select)
opened = time.perf_counter() - begin
after = memory()
def resume(stream):
    next(iter(stream))
    seconds = []
    for k in range(5):
        size = stream.batch_size
        state = stream.state_dict() | {"position": int(stream.samples * 0.48) // size * size + size * k}
        begin = time.perf_counter()
        stream.load_state_dict(state)
        next(iter(stream))
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds)[2]

resumed = resume(stream)
worked = memory()
small = resume(GeoStream(root, view, batch_size=32, shuffle=shuffle, select=select))
print(json.dumps({"opened": opened, "resumed": resumed, "small": small, "rss": after[0] - before[0],
                  "private": after[1] - before[1], "rss_worked": worked[0] - before[0],
                  "private_worked": worked[1] - before[1], "samples": stream.samples}))
"""


def generate(root: Path, samples: int, per_shard: int) -> None:
    """Write the dataset directory ``root``."""
    small = SyntheticSettings(samples=REAL * per_shard, size=64, photos=0, objects=4, samples_per_shard=per_shard)
    write_dataset(root, small)
    table = pq.read_table(root / catalog_file("samples", 0))
    shards = pq.read_table(root / catalog_file("shards", 0))
    rng = np.random.default_rng(0)
    count = samples // per_shard
    for first in range(0, count, SHARDS_PER_FILE):
        parts, rows = [], []
        for s in range(first, min(count, first + SHARDS_PER_FILE)):
            name = f"{shard_name(s)}.tar"
            if s >= REAL:
                os.link(root / "shards" / f"{shard_name(s % REAL)}.tar", root / "shards" / name)
            part = table.slice((s % REAL) * per_shard, per_shard)
            part = _replaced(part, "shard", pa.array([name] * per_shard))
            centre = rng.uniform([-10.0, 36.0], [30.0, 60.0])
            lonlat = centre + rng.uniform(0, 0.2, (per_shard, 2))
            parts.append(_replaced(_replaced(part, "lon", pa.array(lonlat[:, 0])), "lat", pa.array(lonlat[:, 1])))
            rows.append(_replaced(shards.slice(s % REAL, 1), "shard", pa.array([name])))
        group = first // SHARDS_PER_FILE
        samples = pa.concat_tables(parts).combine_chunks()
        pq.write_table(samples, root / catalog_file("samples", group))
        held = IndexPart.of(samples)
        held.arrays["key_hash"] = rng.integers(0, 1 << 64, len(held), np.uint64)
        (root / index_file(group)).write_bytes(held.to_bytes())
        pq.write_table(pa.concat_tables(rows), root / catalog_file("shards", group))


def _replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def rank(root: Path, cache: Path, shuffle: str, select: str) -> dict[str, Any]:
    """What one fresh process measures."""
    words = [sys.executable, "-c", _RANK, str(ROOT), str(root), shuffle, select]
    env = os.environ | {"GEOSHARDS_CACHE": str(cache)}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Run and print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--per-shard", type=int, default=1000)
    parser.add_argument("--shuffle", default="global")
    parser.add_argument("--select", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = options.keep or Path(folder)
        if not (work / "data" / "dataset.json").exists():
            generate(work / "data", options.samples, options.per_shard)
        with tempfile.TemporaryDirectory(dir=work) as cache:
            cold = rank(work / "data", Path(cache), options.shuffle, options.select)
            warm = [rank(work / "data", Path(cache), options.shuffle, options.select) for _ in range(options.rounds)]
            size = sum(f.stat().st_size for f in Path(cache).rglob("*") if f.is_file())
    median = {name: statistics.median(w[name] for w in warm) for name in warm[0]}
    print(json.dumps({
        "race": "stream_scale", "shuffle": options.shuffle, "select": options.select, "samples": cold["samples"],
        "shards": options.samples // options.per_shard, "rounds": options.rounds,
        "start_cold_s": round(cold["opened"], 2), "start_warm_s": round(median["opened"], 3),
        "resume_s": round(median["resumed"], 3), "resume_32_s": round(median["small"], 3),
        "cold_private_mb": round(cold["private"]),
        "private_mb": round(median["private"], 1), "rss_mb": round(median["rss"], 1),
        "private_after_batches_mb": round(median["private_worked"], 1),
        "rss_after_batches_mb": round(median["rss_worked"], 1), "index_on_disk_mb": round(size / 1e6),
    }))  # fmt: skip


if __name__ == "__main__":
    main()

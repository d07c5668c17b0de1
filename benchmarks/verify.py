#!/usr/bin/env python3
"""`geoshards verify`: hashes beside `sha256sum -c` of the same bytes, all checks of samples, and tables alone at scale.

Usage: python benchmarks/verify.py [--samples 2000] [--rows 1000000] [--runs 3]

Samples are synthetic: an image of 256 px, its tokens, up to two photos. Tables at scale are those of as many rows in
shards of 1,000 that are not there: `--sample` draws none of them. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipeline.catalog.describe import dataset_document, fingerprint_of  # noqa: E402
from pipeline.catalog.verify import find_problems  # noqa: E402
from schemas.catalog import SHARDS_PER_FILE, TABLES, catalog_file, shard_name  # noqa: E402
from schemas.index import IndexPart, index_file  # noqa: E402
from schemas.splits import SplitConfig, assign_split  # noqa: E402
from storage.manifest import MANIFEST, write_manifest  # noqa: E402
from storage.store import Store  # noqa: E402
from tests.trainers.synthetic import SyntheticSettings, write_dataset  # noqa: E402

#: Samples a shard of the tables at scale.
_SHARD = 1000


def finish(store: Store) -> None:
    """What dataset.json and the manifest say of tables that are there."""
    identity: dict[str, Any] = {"config": {"split": {}}, "sources": [], "footprints": {}, "versions": {}}
    document = dataset_document(store, "bench", identity | {"fingerprint": fingerprint_of(identity)})
    store.write("dataset.json", json.dumps(document).encode())
    write_manifest(store)


def write_whole(root: Path, samples: int) -> Store:
    """A synthetic dataset of whole samples."""
    write_dataset(root, SyntheticSettings(samples=samples, size=256, photo_size=256, samples_per_shard=128))
    store = Store(str(root))
    table = store.read_table(catalog_file("samples", 0))
    splits = [assign_split(tuple(box.values()), SplitConfig()) for box in table["bbox"].to_pylist()]
    at = table.schema.get_field_index("split")
    table = table.set_column(at, "split", pa.array(splits))
    store.write_table(catalog_file("samples", 0), table)
    store.write(index_file(0), IndexPart.of(table).to_bytes())
    finish(store)
    return store


def write_tables(root: Path, like: Store, rows: int) -> Store:
    """Tables of so many rows, each a copy of one of ``like`` under a key and in a shard of its own."""
    store = Store(str(root))
    samples, shards, photos = (like.read_table(catalog_file(n, 0)) for n in ("samples", "shards", "streetview"))
    model = shards.to_pylist()[0]
    for group, first in enumerate(range(0, rows, _SHARD * SHARDS_PER_FILE)):
        numbers = np.arange(first, min(rows, first + _SHARD * SHARDS_PER_FILE))
        one = samples.take(numbers % samples.num_rows)
        names = [f"{shard_name(n // _SHARD)}.tar" for n in numbers.tolist()]
        for column, values in {"key": [f"xyz-30-{n}-0-256" for n in numbers.tolist()], "shard": names}.items():
            one = one.set_column(one.schema.get_field_index(column), column, pa.array(values))
        held = one.select(["key", "shard", "n_streetview"])
        repeats = np.repeat(np.arange(len(held)), held["n_streetview"].to_numpy())
        taken = photos.take(repeats % photos.num_rows)
        for column in ("key", "shard"):
            taken = taken.set_column(taken.schema.get_field_index(column), column, held[column].take(repeats))
        sums = one.group_by("shard").aggregate(
            [("key", "count"), *((c, "sum") for c in model if c.startswith("n_") and c != "n_drops")]
        )
        own = [
            model | {"shard": row["shard"], "index": first // _SHARD + n, "samples": row["key_count"], "n_drops": 0}
            | {name.removesuffix("_sum"): total for name, total in row.items() if name.endswith("_sum")}
            for n, row in enumerate(sums.sort_by("shard").to_pylist())
        ]  # fmt: skip
        store.write_table(catalog_file("samples", group), one.cast(TABLES["samples"]))
        store.write_table(catalog_file("streetview", group), taken.cast(TABLES["streetview"]))
        store.write_table(catalog_file("shards", group), pa.Table.from_pylist(own, TABLES["shards"]))
        store.write(index_file(group), IndexPart.of(one).to_bytes())
    store.write_table(catalog_file("vocabulary", 0), like.read_table(catalog_file("vocabulary", 0)))
    finish(store)
    return store


def cpu(*words: Any) -> float:
    """Seconds of the processor that a check takes which finds nothing."""
    began = time.process_time()
    found = find_problems(*words)
    assert not found, found[:3]
    return time.process_time() - began


def in_fork(*words: Any) -> tuple[float, float]:
    """Seconds of the processor of a check, and by how many MB it raises the memory of a process of its own."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, seconds, after = _peak(), cpu(*words), _peak()
        os.write(writing, json.dumps([seconds, (after - before) / 1024]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        seconds, megabytes = json.load(said)
    os.waitpid(child, 0)
    return seconds, megabytes


def _peak() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def wall(work: Any) -> float:
    """Seconds by the clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with TemporaryDirectory() as name:
        whole = write_whole(Path(name) / "whole", args.samples)
        tables = write_tables(Path(name) / "tables", whole, args.rows)
        words = ["sha256sum", "--check", "--quiet", "--strict", MANIFEST]
        hashes: list[tuple[float, float]] = []
        for _ in range(args.runs):
            ours = wall(lambda: find_problems(whole.root, True))
            hashes.append((ours, wall(lambda: subprocess.run(words, cwd=whole.root, check=True))))
        samples = [args.samples / cpu(whole.root) for _ in range(args.runs)]
        seconds, megabytes = in_fork(tables.root, False, 1e-12)
    print(json.dumps({
        "fast_s": statistics.median(a for a, _ in hashes), "sha256sum_s": statistics.median(b for _, b in hashes),
        "fast_speed_over_sha256sum": statistics.median(b / a for a, b in hashes),
        "samples_per_cpu_second": statistics.median(samples),
        "table_rows": args.rows, "table_rows_per_cpu_second": args.rows / seconds, "table_memory_mb": megabytes,
    }))  # fmt: skip


if __name__ == "__main__":
    main()

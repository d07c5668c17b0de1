"""``geoshards stats DIR``: mean, deviation and percentiles of each band, into ``catalog/statistics``."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pyarrow as pa

from pipeline.catalog.statistics import Key, ShardImages, Tally, by_shard, statistics
from pipeline.run.ray_map import Runner
from schemas.catalog import catalog_file
from schemas.command import Command
from schemas.errors import DatasetError
from storage.dataset import load_dataset, sample_rows
from storage.locks import one_writer
from storage.manifest import amend_manifest
from storage.progress import Progress
from storage.store import Store
from storage.text import visible

_SHOWN = ("band", "dtype", "images", "count", "mean", "std", "min", "p2", "p50", "p98", "max")


def write_statistics(root: str, split: str = "train", workers: int = 0, quiet: bool = True) -> pa.Table:
    """Read the images of a split's samples, ``all`` of every sample, and write ``catalog/statistics``.

    The table is the same for any number of workers. Nothing else of the dataset changes.

    Raises:
        DatasetError: there is no such sample, none has an image, or an image cannot be read.
        LockError: another process writes to the dataset.
    """
    store = Store(root)
    document = load_dataset(store)
    rows = [r for r in sample_rows(store) if split in ("all", r["split"]) and r["n_rs"]]
    if not rows:
        of = "" if split == "all" else f" of the split {split}"
        raise DatasetError(f"{root} has no sample{of} with an image; choose another --split, or all")
    tallies: dict[Key, Tally] = {}
    with one_writer(store.root), Runner(workers) as runner, Progress("stats", len(rows), "samples", quiet) as progress:
        shards = list(enumerate(own for _, own in sorted(by_shard(rows).items())))
        for index, found, _ in runner.map(ShardImages(store), shards, small=len(rows) < 10_000):
            for key, tally in found.items():
                tallies.setdefault(key, Tally()).join(tally)
            progress.advance(len(shards[index][1]))
        table = statistics(tallies, split, document["content_hash"])
        store.write_table(catalog_file("statistics", 0), table)
        amend_manifest(store, [catalog_file("statistics", 0)])
    return table


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="dataset directory or fsspec URL")
    parser.add_argument(
        "--split", choices=("train", "val", "test", "all"), default="train",
        help="whose samples are read (default train, so that nothing of the others reaches a trainer)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")
    parser.epilog = 'trainers read the table; so does `geoshards query DIR "SELECT * FROM statistics"`'


def _run(args: argparse.Namespace) -> int:
    table = write_statistics(args.dataset, args.split, args.workers, args.quiet or args.json)
    rows = table.to_pylist()
    if args.json:
        print(json.dumps({"out": f"{args.dataset}/{catalog_file('statistics', 0)}", "bands": rows}))
    elif not args.quiet:
        _print(rows)
        left = max((r["left_out"] for r in rows), default=0)
        lost = f"; {left:,} images left out: they lack pixels, and nothing says which" if left else ""
        print(f"{args.dataset}: {len(rows)} bands, split {args.split}{lost}")
    return 0


def _print(rows: list[dict[str, Any]]) -> None:
    cells = [list(_SHOWN), *([_cell(r[name]) for name in _SHOWN] for r in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))))


def _cell(value: Any) -> str:
    return "-" if value is None else visible(value) if isinstance(value, str) else f"{value:,.10g}"


COMMAND = Command("Compute mean, deviation and percentiles of each band, which trainers normalise by", _configure, _run)

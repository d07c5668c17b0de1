"""``geoshards verify DIR``: every hash, offset and member of a dataset checked against what is on disk."""

from __future__ import annotations

import argparse
import io
import json
import sys
from hashlib import sha256
from typing import Any

import numpy as np
from PIL import Image

from pipeline.catalog.statistics import by_shard
from schemas.catalog import catalog_file
from schemas.command import Command
from schemas.errors import DatasetError, GeoshardsError
from schemas.index import IndexPart, index_file
from schemas.sample import JSON, OSM_TOKENS, SampleMeta, content_hash, layout_hash, sample_hash
from schemas.tokens import OsmTokens
from storage.dataset import load_dataset, read_catalog, read_samples, sample_rows
from storage.progress import Progress
from storage.store import Store


def find_problems(root: str, quiet: bool = True) -> list[str]:
    """What is wrong with a dataset, one line each; empty if all is well."""
    store = Store(root)
    document = load_dataset(store)
    shards = read_catalog(store, "shards").sort_by("index").to_pylist()
    rows = sample_rows(store)
    problems: list[str] = []
    if content_hash((r["key"], r["sha256"]) for r in rows) != document["content_hash"]:
        problems.append("dataset.json: content_hash is not that of catalog/samples")
    if layout_hash((s["shard"], s["sha256"]) for s in shards) != document["layout_hash"]:
        problems.append("dataset.json: layout_hash is not that of catalog/shards")
    if len({r["key"] for r in rows}) < len(rows):
        problems.append("catalog/samples: a key stands twice")
    problems += _index_problems(store)
    held = by_shard(rows)
    with Progress("verify", len(shards), "shards", quiet) as progress:
        for shard in shards:
            problems += _shard_problems(store, shard, held.pop(shard["shard"], []))
            progress.advance(1)
    return problems + [f"{name}: in catalog/samples, but not in catalog/shards" for name in held]


def _index_problems(store: Store) -> list[str]:
    """Index files that are not those of the samples beside them."""
    found = []
    names = {int(n.removeprefix("part-").removesuffix(".parquet")) for n in store.names("catalog/samples")}
    held = set(store.names("catalog/index"))
    for group in sorted(names):
        file = index_file(group)
        if file.rsplit("/", 1)[-1] not in held:
            found.append(f"{file}: missing")
        elif store.read(file) != IndexPart.of(store.read_table(catalog_file("samples", group))).to_bytes():
            found.append(f"{file}: not that of {catalog_file('samples', group)}")
    extra = held - {index_file(group).rsplit("/", 1)[-1] for group in names}
    return found + [f"catalog/index/{name}: without its samples" for name in sorted(extra)]


def _shard_problems(store: Store, shard: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    name = shard["shard"]
    try:
        data = store.read(f"shards/{name}")
    except DatasetError:
        return [f"shards/{name}: missing"]
    problems = []
    if sha256(data).hexdigest() != shard["sha256"]:
        problems.append(f"shards/{name}: its content is not what was written")
    if len(rows) != shard["samples"]:
        problems.append(f"shards/{name}: {len(rows)} rows in catalog/samples, {shard['samples']} in catalog/shards")
    for row in rows:
        try:
            for _, members in read_samples(store, [row]):
                if sample_hash(members) != row["sha256"]:
                    problems.append(f"shards/{name}: {row['key']} is not what was written")
                _decode(members)
        except (GeoshardsError, OSError, ValueError, SyntaxError) as error:
            problems.append(f"shards/{name}: {row['key']}: {error}")
    return problems


def _decode(members: dict[str, bytes]) -> None:
    """Decode every member; raises where one cannot be."""
    SampleMeta.from_bytes(members[JSON])
    for name, data in members.items():
        if name == OSM_TOKENS:
            OsmTokens.from_bytes(data)
        elif name.endswith(".npy"):
            np.load(io.BytesIO(data), allow_pickle=False)
        elif name.endswith((".jpg", ".png")):
            Image.open(io.BytesIO(data)).load()


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="dataset directory or fsspec URL")


def _run(args: argparse.Namespace) -> int:
    problems = find_problems(args.dataset, args.quiet or args.json)
    if args.json:
        print(json.dumps({"problems": problems}))
    for problem in [] if args.json else problems[:100]:
        print(problem)
    if problems:
        print(f"error: {len(problems)} problems in {args.dataset}; build the shards named above again", file=sys.stderr)
        return 1
    if not args.quiet and not args.json:
        print(f"{args.dataset}: every hash, offset and member is right")
    return 0


COMMAND = Command("Check every hash, offset and member of a dataset", _configure, _run)

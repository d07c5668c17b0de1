"""Shards taken over from an earlier version of a dataset: those whose inputs are the same, byte for byte the same."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from pipeline.alignment import Placement, place
from pipeline.meridian import split_boxes
from pipeline.osm.cells.near import blocks_of, cells_of, coastline_of
from pipeline.osm.stage import read_cell, read_cell_column
from pipeline.samples.job import ExtractObjects, Previous, ShardJob, VectorObjects
from pipeline.samples.write import ShardResult
from schemas.catalog import SHARDS_PER_FILE, TABLES, catalog_file, pending_file, shard_name
from storage.files import atomic_file
from storage.nodes.held import hash_of
from storage.store import Store


def shard_inputs(job: ShardJob) -> str:
    """SHA-256 (hex) of all that decides a shard's bytes: its footprints, the features, images and photos of them, and
    the salt.

    Features count as their cell rows, by the rows' own hashes, where their box meets a footprint of the shard; a
    coastline farther off by what it says of the footprints.
    """
    fixed = [job.salt, job.imagery, json.dumps(job.licences, sort_keys=True)]
    digest = sha256(" ".join(fixed).encode() + job.footprints.to_bytes())
    if isinstance(job.objects, VectorObjects):
        digest.update(f"{job.objects.part.name} {job.objects.time}".encode() + job.objects.ids.tobytes())
    else:
        _add_features(digest, job.objects, place(job.footprints))
    for row in job.chips.rows.values() if job.chips is not None else ():
        digest.update(f"{row['key']} {row['image_hash']}\n".encode())
    for key in job.footprints.keys:
        for photo in job.photos.get(key, []):
            content = bytes.fromhex(hash_of(photo.path))
            digest.update(json.dumps(asdict(photo) | {"path": ""}, sort_keys=True).encode() + content)
    return digest.hexdigest()


def _add_features(digest: Any, objects: ExtractObjects, placement: Placement) -> None:
    boxes, whose = split_boxes(placement.bbox)
    outlines = shapely.box(*boxes.T)
    blocks, owner = np.unique(blocks_of(placement.bbox, objects.zoom), axis=0, return_inverse=True)
    for snapshot in objects.snapshots:
        digest.update((snapshot.time or "" if len(objects.snapshots) > 1 else "").encode())
        for number, block in enumerate(blocks.tolist()):
            own = owner.ravel() == number
            for cell in cells_of(block, objects.zoom):
                digest.update(_rows_near(snapshot.cells, cell, outlines[own[whose]]).tobytes())
            if (coast := coastline_of(snapshot.cells, objects.zoom, tuple(block))) is not None:
                digest.update(coast.at_sea(placement.centre[own]).tobytes())


def _rows_near(cells: str, cell: int, boxes: NDArray[Any]) -> NDArray[np.uint64]:
    """Hashes u64 of the cell's features whose box meets one of the boxes, in the cell's order."""
    bounds = shapely.bounds(read_cell(cells, cell).geometry).reshape(-1, 4)
    west, south, east, north = shapely.total_bounds(boxes)
    near = np.flatnonzero(
        (bounds[:, 0] <= east) & (bounds[:, 2] >= west) & (bounds[:, 1] <= north) & (bounds[:, 3] >= south)
    )
    if not len(near):
        return np.zeros(0, np.uint64)
    hit, _ = shapely.STRtree(boxes).query(shapely.box(*bounds[near].T))
    return np.asarray(read_cell_column(cells, cell, "hash")[near[np.unique(hit)]])


def is_kept(job: ShardJob) -> bool:
    """Whether the earlier version has a shard with the inputs of this one."""
    return job.previous is not None and shard_inputs(job) in _by_inputs(job.previous)


def adopt(job: ShardJob, previous: Previous, inputs: str) -> ShardResult | None:
    """Take the shard with these inputs over from ``previous``; None if that has none.

    The tar is linked, or copied where the file system cannot; its rows are written as the new version has them.
    """
    number = _by_inputs(previous).get(inputs)
    if number is None:
        return None
    old, new = Store(previous.root), Store(job.out)
    before, after = f"{shard_name(number)}.tar", f"{shard_name(job.index)}.tar"
    _link(old, f"shards/{before}", new, f"shards/{after}")
    rows = _rows(previous, number)
    for table in ("samples", "streetview", "drops", "shards"):
        new.write_table(pending_file(table, job.index), _moved(rows[table], job, after).cast(TABLES[table]))
    row = rows["shards"].to_pylist()[0]
    reasons = Counter[str]()
    for drop in rows["drops"].select(["reason", "count"]).to_pylist():
        reasons[drop["reason"]] += drop["count"]
    return ShardResult(
        job.index, job.planned, row["samples"], row["n_drops"], 0.0, adopted=True, bytes=row["bytes"],
        reasons=dict(reasons),
    )  # fmt: skip


def _moved(rows: pa.Table, job: ShardJob, shard: str) -> pa.Table:
    """Rows of one shard as the new version has them: its name, its index, and the time of the new snapshot."""
    values = {"shard": shard, "index": job.index}
    if isinstance(job.objects, ExtractObjects):
        values["osm_time"] = job.objects.snapshots[-1].time
    for name, value in values.items():
        if name in rows.column_names:
            at = rows.column_names.index(name)
            column = pa.array([value] * rows.num_rows, rows.schema.field(name).type)
            rows = rows.set_column(at, rows.schema.field(name), column)
    return rows


def _link(old: Store, before: str, new: Store, after: str) -> None:
    if old.remote or new.remote:
        new.write(after, old.read(before))
        return
    source, target = Path(old.path(before)), Path(new.path(after))
    try:
        with atomic_file(target) as fresh:
            os.link(source, fresh)
    except OSError:
        new.write(after, old.read(before))


@lru_cache(maxsize=2)
def _by_inputs(previous: Previous) -> dict[str, int]:
    """Index of each shard of a dataset by its inputs; those that are there in full."""
    store = Store(previous.root)
    sizes = store.sizes("shards")
    found: dict[str, int] = {}
    for name in store.names("catalog/shards"):
        rows = store.read_table(f"catalog/shards/{name}").select(["inputs", "index", "shard", "bytes"]).to_pylist()
        found |= {r["inputs"]: r["index"] for r in rows if r["inputs"] and sizes.get(r["shard"]) == r["bytes"]}
    return found


@lru_cache(maxsize=2)
def _group(previous: Previous, number: int) -> dict[str, pa.Table]:
    store = Store(previous.root)
    tables = ("samples", "streetview", "drops", "shards")
    return {t: store.read_table(catalog_file(t, number)).replace_schema_metadata(None) for t in tables}


def _rows(previous: Previous, index: int) -> dict[str, Any]:
    """Catalog rows of one shard. Drops lie in the order of the shards, as many as each one's row says."""
    tables = _group(previous, index // SHARDS_PER_FILE)
    shard = f"{shard_name(index)}.tar"
    rows = {t: tables[t].filter(pc.equal(tables[t]["shard"], shard)) for t in ("samples", "streetview", "shards")}
    at = index % SHARDS_PER_FILE
    counts = tables["shards"]["n_drops"].to_pylist()
    return rows | {"drops": tables["drops"].slice(sum(counts[:at]), counts[at])}

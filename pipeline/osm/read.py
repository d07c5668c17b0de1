"""One extract to its feature table and its drops, in parts: each object with a kept key comes out once, whole.

Three passes, each over ranges of blobs that are worked on side by side:

1. nodes and relations: positions of all nodes into a file of ids and coordinates, features of tagged nodes, and which
   ways the area relations need;
2. ways: lines and closed areas, positions looked up in that file; segments of the needed ways;
3. areas of relations.

An object without a kept key is counted by type and reason; one that cannot be built is a row of drops. The position
file is mapped, not loaded, so memory depends on the size of a blob, not of the extract.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import osmium
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.osm.areas import read_areas
from pipeline.osm.nodes import join_positions, read_nodes_and_relations
from pipeline.osm.passes import (
    Counts,
    RangeJob,
    RangeResult,
)
from pipeline.osm.pbf import UNITS, Blob, Header, blobs, is_zlib
from pipeline.osm.ways import read_ways
from pipeline.rules import Rules
from pipeline.run.ray_map import Runner
from schemas.errors import InputError
from schemas.features import FEATURES

Box = tuple[float, float, float, float]

#: Blobs a task in each pass: a blob holds about 8,000 objects, so that a task takes seconds and a few hundred MB.
_BLOBS, _WAY_BLOBS, _RELATION_BLOBS = 48, 16, 4
#: Blobs below which one process is done before others have started.
_SMALL = 300


@dataclass(frozen=True)
class Extract:
    """What one extract holds."""

    parts: list[Path]  # Parquet files of FEATURES rows; together sorted by type and id if the file is
    drops: pa.Table  # schemas.features.DROPS
    extent: Box | None  # west, south, east, north; None without nodes
    snapshot: str | None  # ISO 8601: replication time of the header, else the newest object
    objects: int  # nodes, ways and relations read

    @property
    def features(self) -> pa.Table:
        """All rows in memory."""
        tables = [pq.read_table(p).replace_schema_metadata(None) for p in self.parts]
        return pa.concat_tables(tables) if tables else FEATURES.empty_table()


def read_extract(
    path: Path,
    rules: Rules,
    folder: Path,
    runner: Runner | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Extract:
    """Read one extract into Parquet parts under ``folder``; ``progress`` is told blobs done and in all.

    Raises:
        InputError: the file is missing, truncated or no OSM file.
    """
    if not path.is_file():
        raise InputError(f"OSM extract {path} does not exist; give the path of an .osm.pbf file")
    runner = runner or Runner(1)
    folder.mkdir(parents=True, exist_ok=True)
    source = path.name
    pbf = as_pbf(path, folder)
    header, found = blobs(pbf)
    counts = Counts(source)
    done, total = 0, len(found)

    def run(function: Callable[[RangeJob], RangeResult], chosen: list[Blob], size: int) -> list[RangeResult]:
        starts = range(0, len(chosen), size)
        jobs = [RangeJob(pbf, chosen[i : i + size], folder, n, rules, source) for n, i in enumerate(starts)]
        results: list[RangeResult] = []
        nonlocal done
        for index, result, _ in runner.map(function, jobs, small=len(found) < _SMALL):
            results.append(result)
            done += len(jobs[index].blobs)
            if progress is not None:
                progress(done, total)
        results.sort(key=lambda r: r.index)
        for result in results:
            counts.add(result.counts)
        return results

    first = run(read_nodes_and_relations, found, _BLOBS)
    join_positions(folder, first)
    way_blobs, relation_blobs = [b for r in first for b in r.ways], [b for r in first for b in r.relations]
    total += len(way_blobs) + len(relation_blobs)
    second = run(read_ways, way_blobs, _WAY_BLOBS)
    third = run(read_areas, relation_blobs, _RELATION_BLOBS)
    parts = [r.part for results in (first, second, third) for r in results if r.part is not None]
    bounds = np.array([r.bounds for r in first]).reshape(-1, 4)
    data = (*bounds[:, :2].min(axis=0, initial=np.inf), *bounds[:, 2:].max(axis=0, initial=-np.inf))
    for name in ("nodes", "relations", "members", "ids.i64", "lonlat.i32"):
        for left in folder.glob(f"{name}*"):
            left.unlink()
    if pbf != path:
        pbf.unlink()
    stamp = header.snapshot or counts.newest
    snapshot = datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if stamp else None
    return Extract(parts, counts.table(), _extent(header, data), snapshot, counts.objects)


def as_pbf(path: Path, folder: Path) -> Path:
    """The extract as a PBF with zlib blobs: itself, or a converted copy (XML, OPL, bzip2, lz4 …) in ``folder``."""
    try:
        if path.name.endswith(".pbf") and is_zlib(path):
            return path
        copy = folder / "converted.osm.pbf"
        copy.unlink(missing_ok=True)
        target = osmium.io.File(str(copy), "osm.pbf,pbf_compression=zlib")
        processor = osmium.FileProcessor(str(path))
        with osmium.SimpleWriter(target, header=processor.header) as writer:
            for o in processor:
                writer.add(o)
        return copy
    except (RuntimeError, OSError, ValueError, IndexError) as error:
        raise InputError(f"OSM extract {path} cannot be read: {error}; download it again") from None


def _extent(header: Header, data: Sequence[float]) -> Box | None:
    """The header's box cut to the data: complete ways reach out of a clip's box, and some headers are wrong."""
    if not np.isfinite(data).all():
        return None
    west, south, east, north = (float(v) / UNITS for v in data)
    if header.box is not None:
        box = header.box
        cut = max(west, box[0]), max(south, box[1]), min(east, box[2]), min(north, box[3])
        if cut[0] < cut[2] and cut[1] < cut[3]:
            return cut
    return west, south, east, north

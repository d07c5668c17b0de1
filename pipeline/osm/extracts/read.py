"""One extract to its feature table and its drops, in parts: each object with a kept key comes out once, whole.

Three passes, each over ranges of blobs that are worked on side by side:

1. nodes and relations: positions of all nodes into a table of ids and coordinates, features of tagged nodes, and which
   ways the area relations need;
2. ways: lines and closed areas, positions looked up in that table; nodes and positions of the needed ways;
3. areas of relations.

An object without a kept key is counted by type and reason; one that cannot be built is a row of drops. What a pass
leaves for the next is mapped, not loaded (pipeline.osm.extracts.spill), so memory depends on the size of a blob, not
of the extract. Several versions of an object in a file that is no history come out each; merging keeps the newest.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path

import numpy as np
import osmium
import pyarrow as pa

from pipeline.formats.pbf import UNITS, Blob, Header, blobs, read_header
from pipeline.osm.extracts.areas import read_areas
from pipeline.osm.extracts.history import versions, versions_at
from pipeline.osm.extracts.nodes import read_nodes_and_relations
from pipeline.osm.extracts.passes import Counts, RangeJob, RangeResult
from pipeline.osm.extracts.spill import join, sort, sort_values, starts
from pipeline.osm.extracts.ways import read_ways
from pipeline.rules import Rules
from pipeline.run.ray_map import Runner
from schemas.errors import InputError

Box = tuple[float, float, float, float]  # west, south, east, north in degrees
_Task = tuple[list[Blob], tuple[int, int]]  # and which share of each of its blobs

#: Blobs a task in each pass. A blob holds about 8,000 objects; a task takes some 0.2 s and less than 100 MB, so that
#: no worker waits long for another at the end of a pass. The numbers do not depend on the workers: nor do the parts.
_BLOBS, _WAY_BLOBS = 24, 4
#: Relations a task: one is far more work than another object, so that a blob of them is shared out.
_RELATIONS = 2000
_TYPES = {"n": "node", "w": "way", "r": "relation"}
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
    spill = folder / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    pbf, left_out = as_pbf(path, folder)
    header, found = blobs(pbf)
    passes = _Passes(RangeJob(pbf, [], folder, 0, rules, path.name, spill), len(found), runner or Runner(1), progress)
    first = passes.run(read_nodes_and_relations, _ranges(found, _BLOBS))
    join(spill, "nodes")
    sort(spill, "nodes", [r.run for r in first])
    join(spill, "wanted")
    sort_values(spill, "wanted", "id")
    ways, relations = [b for r in first for b in r.ways], [b for r in first for b in r.relations]
    passes.total += len(ways) + len(relations)
    second = passes.run(read_ways, _ranges(ways, _WAY_BLOBS))
    join(spill, "refs")
    join(spill, "members")
    starts(spill, "members", "count", "start")
    sort(spill, "members", [r.run for r in second])
    third = passes.run(read_areas, _shares(relations, _RELATIONS))
    shutil.rmtree(spill)
    if pbf != path:
        pbf.unlink()
    parts = [r.part for results in (first, second, third) for r in results if r.part is not None]
    bounds = np.array([r.bounds for r in (*first, *second)]).reshape(-1, 4)
    data = (*bounds[:, :2].min(axis=0, initial=np.inf), *bounds[:, 2:].max(axis=0, initial=-np.inf))
    counts = passes.counts
    for osm_type, number in left_out.items():
        counts.uncounted[osm_type, "older_version", ""] += number
        counts.objects += number
    stamp = header.snapshot or counts.newest
    snapshot = datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if stamp else None
    return Extract(parts, counts.table(), _extent(header, data), snapshot, counts.objects)


class _Passes:
    """Runs the tasks of one pass after the other; sums what they count, keeps what they found."""

    def __init__(
        self, template: RangeJob, blobs: int, runner: Runner, progress: Callable[[int, int], None] | None
    ) -> None:
        self.template, self.runner, self.progress = template, runner, progress
        self.small = blobs < _SMALL
        self.total, self.done = blobs, 0.0
        self.counts = Counts(template.source)

    def run(self, function: Callable[[RangeJob], RangeResult], tasks: list[_Task]) -> list[RangeResult]:
        """Results in the order of the tasks, without their counts."""
        jobs = [replace(self.template, blobs=b, share=share, index=n) for n, (b, share) in enumerate(tasks)]
        results: list[RangeResult] = []
        for index, result, _ in self.runner.map(function, jobs, small=self.small, brief=True):
            self.counts.add(result.counts)
            results.append(replace(result, counts=Counts("")))
            self.done += len(jobs[index].blobs) / jobs[index].share[1]
            if self.progress is not None:
                self.progress(round(self.done), self.total)
        return sorted(results, key=lambda r: r.index)


def _ranges(found: list[Blob], size: int) -> list[_Task]:
    """Tasks of so many blobs."""
    return [(found[i : i + size], (0, 1)) for i in range(0, len(found), size)]


def _shares(found: list[tuple[Blob, int]], size: int) -> list[_Task]:
    """Tasks of so many objects at most, or of one blob, whose objects are counted."""
    of = [-(-count // size) for _, count in found]
    return [([blob], (n, shares)) for (blob, _), shares in zip(found, of, strict=True) for n in range(shares)]


def as_pbf(path: Path, folder: Path) -> tuple[Path, Counter[str]]:
    """The extract as a PBF without history, and how many objects, by type, that leaves out.

    It is the extract itself, or a converted copy (XML, OPL, bzip2, history …) in ``folder``. Of a history, which
    its header or ``.osh`` in its name tells, the last version of each object is taken, unless it is a deletion.
    """
    left_out: Counter[str] = Counter()
    try:
        known = read_header(path) if path.name.endswith(".pbf") else None
        if known is not None and "HistoricalInformation" not in known.features:
            return path, left_out
        copy = folder / "converted.osm.pbf"
        copy.unlink(missing_ok=True)
        processor = osmium.FileProcessor(str(path))
        header = processor.header
        history = header.has_multiple_object_versions or ".osh" in path.name
        header.has_multiple_object_versions = False
        target = osmium.io.File(str(copy), "osm.pbf,pbf_compression=zlib")
        last = versions_at(*versions(path), np.array([np.inf]))[:, 0] if history else repeat(True)
        with osmium.SimpleWriter(target, header=header) as writer:
            for o, wanted in zip(processor, last, strict=False):
                if wanted and not o.deleted:
                    writer.add(o)
                else:
                    left_out[_TYPES[o.type_str()]] += 1
        return copy, left_out
    except (RuntimeError, OSError, ValueError) as error:
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

"""Extracts to one feature table and its drops, in parts: each object with a kept key comes out once, whole.

Objects of all extracts are merged before anything is built of them, so that a way finds its nodes and a relation its
ways in whichever file they lie, and an older version leaves no trace. Three passes, each over ranges of blobs of all
extracts that are worked on side by side:

1. nodes and relations: positions of all nodes into a table of ids and coordinates for each extract, features of tagged
   nodes, and which ways the area relations need;
2. ways: lines and closed areas, positions looked up in those tables; nodes and positions of the needed ways;
3. areas of relations.

With several extracts, or one that holds several versions of an object, pass 1 also leaves the version of every object;
what is stale is found in these tables (pipeline.osm.extracts.versions) and passed over from then on.

An object without a kept key is counted by type and reason; one that cannot be built is a row of drops. What a pass
leaves for the next is mapped, not loaded (pipeline.osm.extracts.spill), so memory depends on the size of a blob, not
of the extracts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import repeat
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.formats.libosmium import objects_of, osm_writer, refuse_document_type
from pipeline.formats.pbf.arrays import UNITS
from pipeline.formats.pbf.blobs import Blob
from pipeline.formats.pbf.header import Header, blobs, read_header
from pipeline.osm.cells.parts import Part
from pipeline.osm.extracts.areas import read_areas
from pipeline.osm.extracts.history import versions, versions_at
from pipeline.osm.extracts.nodes import read_nodes_and_relations, write_points
from pipeline.osm.extracts.passes import Counts, RangeJob, RangeResult
from pipeline.osm.extracts.spill import VERSIONS, Settling, join_members, join_wanted, rising, settle
from pipeline.osm.extracts.versions import join_ordered
from pipeline.osm.extracts.ways import read_ways
from pipeline.rules import Rules
from pipeline.run.ray_map import Runner
from schemas.errors import InputError, at_the_door
from schemas.features import DROPS, ObjectType
from storage.files import file_sha256
from storage.nodes.copies import scratch
from storage.owner import mark
from storage.store import Store, place_of
from storage.urls import shown

Box = tuple[float, float, float, float]  # west, south, east, north in degrees
Told = Callable[[int, int], None]
_Task = tuple[int, list[Blob], tuple[int, int]]  # an extract, some of its blobs, and which share of each

#: Most and fewest blobs a task in each pass. A blob holds about 8,000 objects; a task takes some 0.2 s and less than
#: 100 MB. Towards the end of a pass tasks are smaller, so that no worker waits long for another. The numbers do not
#: depend on the workers: nor do the parts.
_BLOBS, _WAY_BLOBS = (24, 4), (4, 1)
#: Relations a task: one is far more work than another object, so that a blob of them is shared out; and shares a blob.
_RELATIONS, _SHARES = 1000, 4
_TYPES = {"n": "node", "w": "way", "r": "relation"}
#: A file that libosmium does not read may be sound: JSON, a PBF that is gzipped, a version of XML before 0.6.
_WAY_OUT = "download it again, or give it as .osm.pbf, .osm, .opl or .o5m (or .gz or .bz2 of the last three)"
#: Blobs below which one process is done before others have started.
_SMALL = 300


@dataclass(frozen=True)
class Extract:
    """What extracts hold together."""

    parts: list[Part]  # of FEATURES rows; sorted by id if the files are
    drops: pa.Table  # schemas.features.DROPS
    extents: list[Box | None]  # of each extract: west, south, east, north; None without nodes
    snapshots: list[str | None]  # of each, ISO 8601: replication time of the header, else its newest object
    objects: int  # nodes, ways and relations read

    @property
    def snapshot(self) -> str | None:
        """Of the newest."""
        return max(filter(None, self.snapshots), default=None)


@dataclass(frozen=True)
class _Input:
    """One extract as it is read."""

    path: str  # or URL
    pbf: str  # itself, or its converted copy
    header: Header
    blobs: list[Blob]
    left_out: Counter[str]  # objects that the copy lacks, by type
    sha256: str

    @property
    def name(self) -> str:
        """Of the file."""
        return self.path.rpartition("/")[2]


class _SeveralVersions(Exception):
    """An object may be there more than once: the ids of its type do not rise."""


def read_extract(
    path: Path, rules: Rules, folder: Path, runner: Runner | None = None, told: Told | None = None
) -> Extract:
    """``read_extracts`` of one."""
    return read_extracts([path], rules, folder, runner, told)


def read_extracts(
    paths: Sequence[str | Path],
    rules: Rules,
    folder: str | Path,
    runner: Runner | None = None,
    told: Told | None = None,
) -> Extract:
    """Read extracts into Parquet parts under ``folder``; ``told`` is told blobs done and in all.

    Where ``folder`` is a URL the extracts are URLs too, and whoever works on one asks for the ranges that it needs.

    Of several versions of an object the newest counts: the highest version, then the newest timestamp, then that of the
    extract with the newest replication time, then of that whose SHA-256 is the highest, then the last in the file. The
    order of the paths never matters.

    Raises:
        InputError: a file is missing, truncated or no OSM file.
    """
    store, runner = Store(folder), runner or Runner(1)
    work = store.below(f".work-{mark()}-{uuid4().hex[:8]}") if store.remote else store.below("spill")
    inputs_at = work.below("inputs") if store.remote else store.below("inputs")
    openings = [_Opening(str(path), inputs_at.below(str(n)), len(paths) > 1) for n, path in enumerate(paths)]
    try:
        opened = runner.map(_open, openings) if store.remote else enumerate(map(_open, openings))
        found = {index: own for index, own, *_ in opened}
        inputs = [found[n] for n in range(len(paths))]
        ranked = sorted(inputs, key=lambda own: (own.header.snapshot or 0, own.sha256, own.name))
        reading = _Reading(ranked, rules, store, work, runner, told)
        try:
            read = reading.run(len(paths) > 1)
        except _SeveralVersions:
            read = reading.run(True)
    finally:
        work.remove_all()
        inputs_at.remove_all()
    of = [next(n for n, own in enumerate(ranked) if own is one) for one in inputs]
    stamps = [ranked[n].header.snapshot or read.counts[n].newest for n in of]
    return Extract(
        read.parts,
        pa.concat_tables([DROPS.empty_table(), *(counts.table() for counts in read.counts)]),
        [_extent(ranked[n].header, read.bounds[n]) for n in of],
        [datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if s else None for s in stamps],
        sum(counts.objects for counts in read.counts),
    )


@dataclass(frozen=True)
class _Opening:
    """An extract to look into."""

    path: str  # or URL
    folder: Store  # for a converted copy
    several: bool  # it is one of several


def _open(job: _Opening) -> _Input:
    store, name = place_of(job.path)
    with suppress(FileNotFoundError):
        path = store.local(name)
        if path.is_file():
            return _open_remote(job, path) if store.remote else _open_here(job, path, Path(job.folder.root))
    raise InputError(f"OSM extract {shown(job.path)} does not exist; give the path of an .osm.pbf file")


def _open_here(job: _Opening, path: Path, folder: Path) -> _Input:
    folder.mkdir(parents=True, exist_ok=True)
    pbf, left_out = as_pbf(path, folder)
    header, found = blobs(pbf)
    return _Input(str(path), str(pbf), header, found, left_out, file_sha256(path) if job.several else "")


def _open_remote(job: _Opening, path: Path) -> _Input:
    """The same of a copy of it; a converted one is sent, for the others to read."""
    with scratch() as here:
        try:
            own = _open_here(job, path, here)
        except InputError as error:
            raise InputError(str(error).replace(str(path), shown(job.path))) from None
        if own.pbf == str(path):
            return replace(own, path=job.path, pbf=job.path)
        converted = Path(own.pbf)
        job.folder.send(converted.name, converted)
        return replace(own, path=job.path, pbf=job.folder.path(converted.name))


@dataclass(frozen=True)
class _Read:
    """What the passes gave."""

    parts: list[Part]
    counts: list[Counts]  # of each extract
    bounds: list[Sequence[float]]  # west, south, east, north of the nodes of each in units; infinite without


class _Reading:
    """The passes over some extracts, one after the other."""

    def __init__(
        self, inputs: list[_Input], rules: Rules, folder: Store, work: Store, runner: Runner, told: Told | None
    ) -> None:
        self.inputs, self.rules, self.folder, self.work = inputs, rules, folder, work
        self.runner, self.told = runner, told
        self.spill, self.tables = work, list[Store]()
        self.versions = False
        self.counts: list[Counts] = []
        self.done, self.total = 0.0, 0

    def run(self, versions: bool) -> _Read:
        """All passes.

        Args:
            versions: objects may be there several times.

        Raises:
            _SeveralVersions: they may, though ``versions`` is False.
        """
        self.spill = self.work.below("versions" if versions else "plain")
        self.tables = [self.spill.below(f"{n:04d}") for n in range(len(self.inputs))]
        if not self.folder.remote:
            self.work.remove_all()  # of an interrupted run, or the first one
            self.folder.remove_all("features")
            for own in self.tables:
                Path(own.root).mkdir(parents=True)
        self.versions = versions
        self.counts = [_counts_of(own) for own in self.inputs]
        self.done, self.total = 0.0, sum(len(own.blobs) for own in self.inputs)
        tasks = _ranges([own.blobs for own in self.inputs], _BLOBS)
        first = self._pass(read_nodes_and_relations, tasks)
        self._settle(*self._ordered(first), Settling((self.spill,), ("wanted.",), join_wanted))
        points = self._pass(write_points, [(n, [], share) for n, _, share in tasks]) if versions else []
        ways = [[b for r in first if r.source == n for b in r.ways] for n in range(len(self.inputs))]
        relations = [[b for r in first if r.source == n for b in r.relations] for n in range(len(self.inputs))]
        self.total += sum(map(len, ways)) + sum(map(len, relations))
        second = self._pass(read_ways, _ranges(ways, _WAY_BLOBS))
        self._check(second, ObjectType.WAY)
        members = partial(join_members, [r.run for r in second])
        self._settle(Settling((self.spill,), ("members.", "corners."), members))
        third = self._pass(read_areas, _shares(relations))
        parts = [r.part for results in (first, points, second, third) for r in results if r.part is not None]
        return _Read(parts, self.counts, [_bounds((*first, *second), n) for n in range(len(self.inputs))])

    def _ordered(self, first: list[RangeResult]) -> list[Settling]:
        """Tables of pass 1 by id; of objects that are there several times, which are stale."""
        self._check(first, ObjectType.NODE, ObjectType.RELATION)
        jobs = []
        for kind, table in VERSIONS.items():
            runs = [[r.read[kind] for r in first if r.source == n] for n in range(len(self.tables))]
            if self.versions:
                jobs.append(Settling(tuple(self.tables), (f"{table}.",), partial(join_ordered, table, runs, True)))
            elif kind == ObjectType.NODE:
                jobs += [
                    Settling((own,), (f"{table}.",), partial(join_ordered, table, [run], False))
                    for own, run in zip(self.tables, runs, strict=True)
                ]
        return jobs

    def _settle(self, *jobs: Settling) -> None:
        """One after the other where the files lie; on a cluster side by side."""
        for _ in self.runner.map(settle, jobs) if self.spill.remote else map(settle, jobs):
            pass

    def _check(self, results: list[RangeResult], *kinds: ObjectType) -> None:
        for source in range(len(self.inputs)):
            own = [r.read for r in results if r.source == source]
            if not self.versions and not all(rising(read.get(kind) for read in own) for kind in kinds):
                raise _SeveralVersions

    def _pass(self, function: Callable[[RangeJob], RangeResult], tasks: list[_Task]) -> list[RangeResult]:
        """Results in the order of the tasks, without their counts."""
        jobs = [self._job(index, *task) for index, task in enumerate(tasks)]
        results: list[RangeResult] = []
        small = sum(len(own.blobs) for own in self.inputs) < _SMALL
        for index, result, _ in self.runner.map(function, jobs, small=small, brief=True):
            self.counts[jobs[index].source].add(result.counts)
            results.append(replace(result, source=jobs[index].source, counts=Counts("")))
            self.done += len(jobs[index].blobs) / jobs[index].share[1]
            if self.told is not None:
                self.told(round(self.done), self.total)
        return sorted(results, key=lambda r: r.index)

    def _job(self, index: int, source: int, some: list[Blob], share: tuple[int, int]) -> RangeJob:
        own = self.inputs[source]
        others = (t for n, t in enumerate(self.tables) if n != source)
        return RangeJob(
            own.pbf, some, self.folder, index, self.rules, source, own.name, self.spill,
            (self.tables[source], *others), self.versions, share,
        )  # fmt: skip


def _counts_of(own: _Input) -> Counts:
    counts = Counts(own.name)
    for osm_type, number in own.left_out.items():
        counts.uncounted[osm_type, "older_version", ""] += number
        counts.objects += number
    return counts


def _bounds(results: Iterable[RangeResult], source: int) -> Sequence[float]:
    bounds = np.array([r.bounds for r in results if r.source == source]).reshape(-1, 4)
    return (*bounds[:, :2].min(axis=0, initial=np.inf), *bounds[:, 2:].max(axis=0, initial=-np.inf))


def _ranges(found: list[list[Blob]], sizes: tuple[int, int]) -> list[_Task]:
    """Tasks of at most and at least so many blobs, extract by extract: each takes a quarter of what is left."""
    most, fewest = sizes
    tasks: list[_Task] = []
    left = sum(map(len, found))
    for n, own in enumerate(found):
        start = 0
        while start < len(own):
            size = min(most, max(fewest, left // 4), len(own) - start)
            tasks.append((n, own[start : start + size], (0, 1)))
            start, left = start + size, left - size
    return tasks


def _shares(found: list[list[tuple[Blob, int]]]) -> list[_Task]:
    """Tasks of relations of one blob each, of which there are so many."""
    every = [(n, blob, min(_SHARES, -(-count // _RELATIONS))) for n, own in enumerate(found) for blob, count in own]
    return [(n, [blob], (k, shares)) for n, blob, shares in every for k in range(shares)]


def as_pbf(path: Path, folder: Path) -> tuple[Path, Counter[str]]:
    """The extract as a PBF without history, and how many objects, by type, that leaves out.

    It is the extract itself, or a converted copy (XML, OPL, bzip2, history …) in ``folder``. Of a history, which
    its header or ``.osh`` in its name tells, the last version of each object is taken. Deletions stay: they may be
    newer than what another extract has.
    """
    left_out: Counter[str] = Counter()
    with at_the_door(f"OSM extract {path} cannot be read", _WAY_OUT):
        known = read_header(path) if path.name.endswith(".pbf") else None
        if known is not None and "HistoricalInformation" not in known.features:
            return path, left_out
        refuse_document_type(path, f"OSM extract {path}")
        copy = folder / "converted.osh.pbf"
        copy.unlink(missing_ok=True)
        processor = objects_of(path)
        header = processor.header
        history = header.has_multiple_object_versions or ".osh" in path.name
        # Named .osm, a deletion would be written as an object like any other.
        form = "osh.pbf,pbf_compression=zlib,locations_on_ways=true"
        last = _last(path) if history else repeat(True)
        with osm_writer(copy, form, header=header) as writer:
            for o, wanted in zip(processor, last, strict=False):
                if wanted:
                    writer.add(o)
                else:
                    left_out[_TYPES[o.type_str()]] += 1
        return copy, left_out


def _last(path: Path) -> NDArray[np.bool_]:
    """Which versions are the last of their objects, deletions too."""
    first, seconds, deleted = versions(path)
    return versions_at(first, seconds, np.zeros_like(deleted), np.array([np.inf]))[:, 0]


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

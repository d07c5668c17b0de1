"""Features to cells in two steps that never hold an extract: slabs are cut, then merged cell by cell.

1. Each slab of features is cut to cells, its tags as indices of its own texts, and written sorted by cell.
2. Once all slabs are counted and the vocabulary is known, runs of cells are gathered from the slabs' files, tags get
   their ids, duplicates go, and each run becomes one Parquet file with a row group a cell.

A step's files are written whole or not at all, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from geometry.packed import changes
from geometry.tiles import lonlat_to_tile, tile_bounds
from pipeline.osm.cells.cut import CUT, MARGIN, cut_to_cells, whole_features
from pipeline.osm.cells.hashes import combine, list_hash
from pipeline.osm.cells.parts import Slab, load_slab
from pipeline.osm.coast import LooseEnds, coast_rows
from pipeline.osm.vocabulary import (
    CleaningConfig,
    Counted,
    LocalTags,
    Vocabulary,
    id_pairs,
    list_arrays,
    name_tags,
    read_tags,
)
from pipeline.rules import Rules
from schemas.features import CELLS, COASTLINE, DOUBTFUL, DROPS, ObjectType, drop_row
from storage.store import Store

Ints = NDArray[np.int64]

_CLEANED = "cleaned.parquet"
#: Rows of a run of cells, about: 50 MB of Arrow and as much again while they are sorted. A single cell may have more.
RUN = 150_000


@dataclass(frozen=True)
class SlabJob:
    """One slab to cut."""

    slab: Slab
    index: int
    folder: Store  # of the slabs' files
    rules: Rules
    zoom: int  # of the cells


def slab_file(index: int, kind: str) -> str:
    """Name of a result of a slab, by its kind: ``arrow`` (CUT rows sorted by cell, to be mapped), ``npz``
    (LocalTags' offsets and index), ``npy`` (the tag ids of its texts), ``drops.parquet`` (DROPS rows), ``json`` (texts,
    cells and counts; written last)."""
    return f"slab-{index:06d}.{kind}"


def _load(folder: Store, index: int) -> tuple[dict[str, Any], LocalTags]:
    """The summary of a slab, and what ``read_tags`` gave, but the paint."""
    summary = json.loads(folder.read(slab_file(index, "json")))
    with np.load(folder.local(slab_file(index, "npz")), allow_pickle=False) as arrays:
        local = LocalTags(arrays["offsets"], arrays["index"], summary["texts"], np.zeros(0, np.uint16), Counter())
    return summary, local


def cut_slab(job: SlabJob) -> None:
    """Cut one slab and write its files; a slab that is there already is left alone."""
    name, store = partial(slab_file, job.index), job.folder
    if store.exists(name("json")):
        return
    table = load_slab(job.slab)
    local = read_tags(table["tags"], job.rules)
    cut, drops = cut_to_cells(whole_features(table), local.offsets, local.index, local.paint, job.zoom)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, CUT) as writer:
        writer.write_table(cut)
    store.write(name("arrow"), sink.getvalue())
    sink = io.BytesIO()
    np.savez(sink, offsets=local.offsets, index=local.index)
    store.write(name("npz"), sink.getvalue())
    store.write_table(name("drops.parquet"), drops)
    cells, starts = np.unique(cut["cell"].to_numpy(), return_index=True)
    summary = {
        "texts": local.texts, "cleaned": [[*what, n] for what, n in sorted(local.cleaned.items())],
        "cells": cells.tolist(), "starts": [*starts.tolist(), cut.num_rows], "features": table.num_rows,
    }  # fmt: skip
    store.write(name("json"), json.dumps(summary, ensure_ascii=False).encode())


@dataclass(frozen=True, eq=False)
class CountedSlabs:
    """All slabs: their vocabulary, and the P pieces that their files hold of cells."""

    vocabulary: Vocabulary
    cell: Ints  # [P] rising
    slab: Ints  # [P]
    start: Ints  # [P] first row in the slab's file
    stop: Ints  # [P] row after the last
    features: int


def count_slabs(store: Store, slabs: int, min_tag_count: int, min_key_count: int) -> CountedSlabs:
    """The vocabulary of all slabs and the index of their cells; each slab's table of tag ids is written beside it."""
    counted, features = Counted(), 0
    pieces: list[Ints] = [np.zeros((0, 4), np.int64)]
    for index in range(slabs):
        summary, local = _load(store, index)
        counted.add(local)
        counted.cleaned.update({(rule, detail): n for rule, detail, n in summary["cleaned"]})
        features += summary["features"]
        starts, cells = np.array(summary["starts"], np.int64), np.array(summary["cells"], np.int64)
        pieces.append(np.stack((cells, np.full(len(cells), index), starts[:-1], starts[1:]), axis=1))
    vocabulary = Vocabulary(counted, min_tag_count, min_key_count)
    for index in range(slabs):
        _, local = _load(store, index)
        vocabulary.add(local)
        sink = io.BytesIO()
        np.save(sink, id_pairs(vocabulary, local.texts))
        store.write(slab_file(index, "npy"), sink.getvalue())
    table = np.concatenate(pieces)
    cell, slab, start, stop = table[np.lexsort((table[:, 1], table[:, 0]))].T
    return CountedSlabs(vocabulary, cell, slab, start, stop, features)


@dataclass(frozen=True, eq=False)
class RunJob:
    """A run of cells to merge."""

    index: int
    folder: Store  # of the slabs' files
    out: Store
    zoom: int  # of the cells
    slab: Ints  # [P] of each piece
    start: Ints  # [P]
    stop: Ints  # [P]

    @property
    def name(self) -> str:
        """File of the run."""
        return f"cells-{self.index:05d}.parquet"


def plan_runs(slabs: CountedSlabs, folder: Store, out: Store, zoom: int, size: int = RUN) -> list[RunJob]:
    """Runs of whole cells with about ``size`` rows."""
    cells, first = np.unique(slabs.cell, return_index=True)
    rows = np.add.reduceat(slabs.stop - slabs.start, first) if len(first) else np.zeros(0, np.int64)
    runs: list[RunJob] = []
    begin, held = 0, 0
    edges = np.append(first, len(slabs.cell))
    for i in range(len(cells)):
        held += int(rows[i])
        if held >= size or i == len(cells) - 1:
            p = slice(edges[begin], edges[i + 1])
            runs.append(RunJob(len(runs), folder, out, zoom, slabs.slab[p], slabs.start[p], slabs.stop[p]))
            begin, held = i + 1, 0
    return runs


@dataclass(frozen=True)
class RunResult:
    """What a run holds, and what merging it left out."""

    index: int
    cells: list[int]  # in order of the file's row groups
    coasts: list[int]  # of the cells, those that hold a coastline
    duplicates: list[tuple[int, int, int, int]]  # osm type and id, and those of the one that is kept
    bare: list[tuple[int, int]]  # osm type and id of objects whose every tag was cleaned away
    coast: list[tuple[int, str]]  # way id of coastlines, and where they stop


def merge_run(job: RunJob) -> RunResult:
    """Gather, name, clean and sort the rows of a run of cells, and write them with one row group a cell."""
    tables = [CELLS.empty_table()]
    twins: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
    for slab in np.unique(job.slab).tolist():
        ids = np.load(job.folder.local(slab_file(slab, "npy")), allow_pickle=False)
        with pa.memory_map(str(job.folder.local(slab_file(slab, "arrow")))) as source:
            whole = pa.ipc.open_file(source).read_all()
            for k in np.flatnonzero(job.slab == slab).tolist():
                named, twin = _name(whole.slice(job.start[k], job.stop[k] - job.start[k]), ids)
                tables.append(named)
                twins.append(twin)
    table, twin = pa.concat_tables(tables), np.concatenate(twins)
    order = np.lexsort([table[c].to_numpy() for c in ("osm_id", "osm_type", "kind", "cell")])
    table, twin = table.take(pa.array(order)).combine_chunks(), twin[order]
    keep, duplicates, bare = _clean(table, twin)
    table = table.filter(pa.array(keep))
    column = table["cell"].to_numpy()
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    table, coast = _judge_coast(table, starts, job.zoom)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, CELLS, compression="zstd") as writer:
        for first, last in zip(starts, np.append(starts[1:], len(column))[: len(starts)], strict=True):
            writer.write_table(table.slice(first, last - first), row_group_size=max(1, int(last - first)))
    job.out.write(job.name, sink.getvalue())
    coasts = np.unique(column[table["paint"].to_numpy() >= COASTLINE]).tolist()
    return RunResult(job.index, column[starts].tolist(), coasts, duplicates, bare, coast)


def _judge_coast(table: pa.Table, starts: Ints, zoom: int) -> tuple[pa.Table, list[tuple[int, str]]]:
    """CELLS rows with contradicting coastlines marked as doubtful, and which ways stop in their cell, where."""
    paint, osm_type, osm_id, kind = (table[c].to_numpy() for c in ("paint", "osm_type", "osm_id", "kind"))
    rows, found = coast_rows(paint, osm_type, kind), list[tuple[int, str]]()
    if not len(rows):
        return table, found
    paint, hashes = paint.copy(), table["hash"].to_numpy().copy()
    geometry = shapely.from_wkb(table["geometry"].take(pa.array(rows)).to_numpy())
    group = np.searchsorted(starts, rows, side="right") - 1
    for g in np.unique(group).tolist():
        own = np.flatnonzero(group == g)
        cell = divmod(int(table["cell"][int(starts[g])].as_py()), 1 << zoom)[::-1]
        ends = LooseEnds.of(geometry[own], tile_bounds(np.array([cell]), zoom, MARGIN)[0].tolist())
        at = rows[own[ends.row]]
        paint[at[ends.met]] |= DOUBTFUL
        here = (np.floor(lonlat_to_tile(ends.xy, zoom)) == cell).all(axis=1)  # the others are another cell's
        for i in np.flatnonzero(here).tolist():
            what = "begins" if ends.begins[i] else "ends"
            why = "beside others that do" if ends.met[i] else "where no other goes on"
            found.append((int(osm_id[at[i]]), f"{what} at {ends.xy[i, 0]:.7f},{ends.xy[i, 1]:.7f} {why}"))
    hashes[rows] = combine(hashes[rows], paint[rows])
    for name, values in (("paint", paint), ("hash", hashes)):
        table = table.set_column(table.column_names.index(name), CELLS.field(name), pa.array(values))
    return table, found


def _name(table: pa.Table, ids: Ints) -> tuple[pa.Table, NDArray[np.uint64]]:
    """CELLS rows of a piece, its tags named and its rows hashed, and the hash that duplicates share."""
    offsets, named = name_tags(*list_arrays(table["tag_ids"]), ids)
    tags = list_hash(offsets, named)
    hashed = ("hash", "osm_type", "osm_id", "kind", "paint", "timestamp")
    columns = {c: table[c].to_numpy() for c in (*hashed, "twin")}
    values = {
        "tag_ids": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(named, pa.int64())),
        "hash": pa.array(combine(*(columns[c] for c in hashed), tags)),
    }
    arrays = [values.get(name, table[name]) for name in CELLS.names]
    return pa.Table.from_arrays(arrays, schema=CELLS), combine(columns["twin"], tags)


def _clean(
    table: pa.Table, twin: NDArray[np.uint64]
) -> tuple[NDArray[np.bool_], list[tuple[int, int, int, int]], list[tuple[int, int]]]:
    """Rows to keep, and what goes: all but the first of equal shape and tags in a cell, and objects without a tag."""
    cell, osm_type, osm_id = (table[c].to_numpy() for c in ("cell", "osm_type", "osm_id"))
    bare = np.diff(list_arrays(table["tag_ids"])[0]) == 0
    order = np.lexsort((np.arange(len(twin)), twin, cell))
    first = np.maximum.accumulate(np.where(changes(twin[order], cell[order]), np.arange(len(order)), 0))
    keeper = np.empty(len(order), np.int64)
    keeper[order] = order[first]
    repeat = (keeper != np.arange(len(order))) & ~bare
    duplicates = sorted({
        (int(osm_type[i]), int(osm_id[i]), int(osm_type[keeper[i]]), int(osm_id[keeper[i]]))
        for i in np.flatnonzero(repeat)
    })  # fmt: skip
    return ~bare & ~repeat, duplicates, sorted({(int(osm_type[i]), int(osm_id[i])) for i in np.flatnonzero(bare)})


@dataclass(frozen=True)
class Counting:
    """Slabs that are cut, to be counted and planned."""

    folder: Store  # of the slabs' files
    out: Store
    slabs: int
    zoom: int  # of the cells
    cleaning: CleaningConfig


@dataclass(frozen=True, eq=False)
class Count:
    """What the driver needs of it."""

    runs: list[RunJob]
    tags: int
    features: int


def count_and_plan(job: Counting) -> Count:
    """Count the slabs, write the vocabulary and what cleaning left out, plan the runs."""
    cleaning = job.cleaning
    counted = count_slabs(job.folder, job.slabs, cleaning.min_tag_count, cleaning.min_key_count)
    job.out.write_table("vocabulary.parquet", counted.vocabulary.table())
    job.folder.write_table(_CLEANED, pa.Table.from_pylist(counted.vocabulary.drops(), schema=DROPS))
    runs = plan_runs(counted, job.folder, job.out, job.zoom)
    return Count(runs, len(counted.vocabulary.texts), counted.features)


@dataclass(frozen=True, eq=False)
class Closing:
    """Runs that are merged, to be made one."""

    folder: Store  # of the slabs' files
    out: Store
    slabs: int
    results: list[RunResult]
    before: Store  # with the drops of reading


def close_cells(job: Closing) -> int:
    """Write the index of the cells and all drops; how many of these are of the cells."""
    places = sorted((run.index, group, cell) for run in job.results for group, cell in enumerate(run.cells))
    coasts = {cell for run in job.results for cell in run.coasts}
    index = [(cell, run, group, int(cell in coasts)) for run, group, cell in places]
    job.out.write("index.json", json.dumps(index).encode())
    cut = [job.folder.read_table(slab_file(i, "drops.parquet")) for i in range(job.slabs)]
    own = [DROPS.empty_table(), *cut, job.folder.read_table(_CLEANED), cleaned_rows(job.results)]
    table = pa.concat_tables(own)
    job.out.write_table("drops.parquet", pa.concat_tables([job.before.read_table("drops.parquet"), table]))
    return int(table.num_rows)


def cleaned_rows(results: list[RunResult]) -> pa.Table:
    """DROPS rows of what the runs left out, each object once though it lay in several cells."""
    duplicates = sorted({d for r in results for d in r.duplicates})
    bare = sorted({b for r in results for b in r.bare})
    rows = [_row("duplicate", t, i, f"same shape and tags as {_type(kt)} {ki}") for t, i, kt, ki in duplicates]
    coast = sorted({c for r in results for c in r.coast})
    rows += [_row("coastline_stops", ObjectType.WAY, i, f"{what}; kept, no sea is painted there") for i, what in coast]
    rows += [_row("no_tags_left", t, i, "every tag was malformed, or of a rare key") for t, i in bare]
    return pa.Table.from_pylist(rows, schema=DROPS)


def _type(code: int) -> str:
    return ObjectType(code).name.lower()


def _row(reason: str, osm_type: int, osm_id: int, detail: str) -> dict[str, Any]:
    return drop_row("cells", "features", reason, osm_type=_type(osm_type), osm_id=osm_id, detail=detail)

"""The OSM stages: extracts to feature tables, feature tables to vocabulary and cells. Everything lands in the cache."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from pipeline.osm.cells.parts import Slab, describe_parts, load_slab, plan_slabs
from pipeline.osm.cells.slabs import (
    SlabJob,
    cleaned_rows,
    count_slabs,
    cut_slab,
    merge_run,
    plan_runs,
    slab_file,
)
from pipeline.osm.extracts.passes import GEOMETRY_TYPES
from pipeline.osm.extracts.read import Box, read_extracts
from pipeline.osm.features import FeatureBatch
from pipeline.osm.vocabulary import CleaningConfig, list_arrays
from pipeline.rules import Rules
from pipeline.run.ray_map import Runner
from pipeline.run.versions import code_fingerprint
from schemas.errors import InputError
from schemas.features import CELLS, COASTLINE, DROPS, FEATURES, ObjectType, geoparquet_metadata
from storage.entries import have_entry
from storage.files import atomic_file, file_sha256
from storage.progress import Display, Progress, StageRow
from storage.store import Store

#: Features that one process cuts in about the time that Ray takes to start.
_SMALL = 500_000


def _read_into(folder: Path, paths: list[Path], rules: Rules, runner: Runner, quiet: bool) -> dict[str, Any]:
    """Read extracts into a new folder; what there is to say of them."""
    what = paths[0].name if len(paths) == 1 else f"{len(paths)} extracts"
    with Progress(f"features of {what}", 0, "blobs", quiet) as progress:
        extract = read_extracts(paths, rules, folder, runner, progress.update)
    Store(folder).write_table("drops.parquet", extract.drops)
    return {
        "extents": extract.extents, "snapshots": extract.snapshots, "objects": extract.objects,
        "parts": [p.relative_to(folder).as_posix() for p in extract.parts],
        "features": sum(pq.read_metadata(p).num_rows for p in extract.parts),
        "drops": int(np.sum(extract.drops["count"].to_numpy())),
    }  # fmt: skip


@dataclass(frozen=True)
class Features:
    """What the features stage leaves in the cache."""

    folder: Path
    parts: list[Path]  # tables of features
    names: list[str]  # file names of the extracts, as they were given
    hashes: list[str]  # SHA-256 of each
    extents: list[Box]  # of those with nodes, in the order of their hashes
    snapshot: str | None  # of the newest extract, ISO 8601
    count: int


def features_stage(
    extracts: list[Path], rules: Rules, cache: Path, runner: Runner, quiet: bool
) -> tuple[Features, StageRow]:
    """Read the extracts together, unless the cache holds the features of these very files."""
    start = time.monotonic()
    for path in extracts:
        if not path.is_file():
            raise InputError(f"OSM extract {path} does not exist; give the path of an .osm.pbf file")
    before = [_version(p) for p in extracts]
    hashes = [file_sha256(p) for p in extracts]
    files = sorted(zip(hashes, extracts, strict=True), key=lambda file: (file[0], file[1].name))
    code = code_fingerprint("pipeline.osm.extracts.read")
    folder = cache / f"features-{_digest(*sorted(hashes), rules.fingerprint, code)}"

    def make(fresh: Path) -> dict[str, Any]:
        meta = _read_into(fresh, [path for _, path in files], rules, runner, quiet)
        for path, version in zip(extracts, before, strict=True):
            if _version(path) != version:
                raise InputError(f"OSM extract {path} has changed while it was read; run the same again")
        return meta

    meta, cached = have_entry(folder, make, Display(quiet).note)
    extents: list[Box] = [tuple(extent) for extent in meta["extents"] if extent]
    snapshot = max(filter(None, meta["snapshots"]), default=None)
    parts = [folder / name for name in meta["parts"]]
    features = Features(folder, parts, [p.name for p in extracts], hashes, extents, snapshot, meta["features"])
    row = StageRow.since(start, "features", meta["features"], "features", drops=meta["drops"], cached=cached)
    return features, row


def feature_slabs(features: Features) -> list[Slab]:
    """All features in slabs, in order of type and id."""
    return plan_slabs(describe_parts(features.parts))


def feature_drops(features: Features) -> pa.Table:
    """DROPS rows of reading the extracts."""
    return pq.read_table(features.folder / "drops.parquet").replace_schema_metadata(None)


def export_features(features: Features, out: Path) -> tuple[int, pa.Table]:
    """Write ``features.parquet`` (GeoParquet) slab by slab; its rows, and the DROPS rows, written beside it."""
    rows = 0
    schema = FEATURES.with_metadata(geoparquet_metadata(GEOMETRY_TYPES))
    with (
        atomic_file(out / "features.parquet") as target,
        pq.ParquetWriter(target, schema, compression="zstd") as writer,
    ):
        for slab in feature_slabs(features):
            table = load_slab(slab)
            rows += table.num_rows
            writer.write_table(table.cast(schema), row_group_size=65_536)
    drops = feature_drops(features)
    Store(out).write_table("drops.parquet", drops)
    return rows, drops


@dataclass(frozen=True)
class Cells:
    """What the vocabulary stage leaves in the cache."""

    folder: Path
    zoom: int  # of the cells

    @property
    def path(self) -> str:
        """Folder of the cells, as ``read_cell`` takes it."""
        return str(self.folder)


def vocabulary_stage(
    features: Features, rules: Rules, cleaning: CleaningConfig, zoom: int, cache: Path, runner: Runner, quiet: bool
) -> tuple[Cells, StageRow]:
    """Tag ids, vocabulary and cells of the merged features."""
    start = time.monotonic()
    code = code_fingerprint("pipeline.osm.extracts.read", "pipeline.osm.cells.slabs", "pipeline.osm.stage")
    asked = json.dumps(asdict(cleaning), sort_keys=True)
    cells = Cells(cache / f"cells-{_digest(features.folder.name, code, asked, str(zoom))}", zoom)
    memory = 0.0

    def make(fresh: Path) -> dict[str, Any]:
        nonlocal memory
        meta, memory = _build_cells(Cells(fresh, zoom), features, rules, cleaning, runner, quiet)
        return meta

    counts, cached = have_entry(cells.folder, make, Display(quiet).note)
    return cells, StageRow.since(start, "vocabulary", counts["tags"], "tags", memory, counts["drops"], cached)


def _build_cells(
    cells: Cells, features: Features, rules: Rules, cleaning: CleaningConfig, runner: Runner, quiet: bool
) -> tuple[dict[str, Any], float]:
    """Cut, count, merge into a new folder. Returns what there is to say of them, and the largest peak memory of a
    process in MB."""
    folder = cells.folder / "slabs"
    slabs = feature_slabs(features)
    jobs = [SlabJob(slab, i, folder, rules, cells.zoom) for i, slab in enumerate(slabs)]
    small = features.count < _SMALL
    _, cutting = runner.run(cut_slab, jobs, Progress("cells, cut", len(jobs), "slabs", quiet), small=small)
    counted = count_slabs(folder, len(jobs), cleaning.min_tag_count, cleaning.min_key_count)
    runs = plan_runs(counted, folder, cells.folder, cells.zoom)
    progress = Progress("cells, merged", len(runs), "runs of cells", quiet)
    results, merging = runner.run(merge_run, runs, progress, small=small)
    store = Store(cells.folder)
    index = [(cell, run.index, group) for run in results for group, cell in enumerate(run.cells)]
    store.write("index.json", json.dumps(index).encode())
    store.write_table("vocabulary.parquet", counted.vocabulary.table())
    cut = [pq.read_table(slab_file(folder, i, "drops.parquet")).replace_schema_metadata(None) for i in range(len(jobs))]
    cleaned = pa.Table.from_pylist(counted.vocabulary.drops(), schema=DROPS)
    own = pa.concat_tables([DROPS.empty_table(), *cut, cleaned, cleaned_rows(results)])
    store.write_table("drops.parquet", pa.concat_tables([feature_drops(features), own]))
    shutil.rmtree(folder, ignore_errors=True)  # there is none without features
    meta = {"tags": len(counted.vocabulary.texts), "drops": own.num_rows, "features": counted.features}
    return meta, max(cutting, merging)


def _version(path: Path) -> tuple[int, int, int]:
    """Changes when a file is replaced or written."""
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


@lru_cache(maxsize=8)
def _cell_index(path: str) -> dict[int, tuple[int, int]]:
    """File number and row group of every cell."""
    rows = json.loads((Path(path) / "index.json").read_bytes())
    return {cell: (run, group) for cell, run, group in rows}


@lru_cache(maxsize=4)
def coast_cells(path: str) -> frozenset[int]:
    """Cells that hold a coastline, by the largest paint code of each, which the files' footers know."""
    column, most = CELLS.get_field_index("paint"), dict[tuple[int, int], int]()
    for run in {run for run, _ in _cell_index(path).values()}:
        footer = pq.read_metadata(Path(path) / f"cells-{run:05d}.parquet")
        for group in range(footer.num_row_groups):
            most[run, group] = footer.row_group(group).column(column).statistics.max
    return frozenset(cell for cell, place in _cell_index(path).items() if most[place] >= COASTLINE)


@lru_cache(maxsize=4)
def read_cell(path: str, cell: int) -> FeatureBatch:
    """Features of one cell; the last few stay in memory, since neighbouring shards share them.

    Args:
        path: ``Cells.path``.
        cell: y * 2^zoom + x; one without a feature gives an empty batch.
    """
    table = _cell_table(path, cell)
    return FeatureBatch(
        table["osm_type"].to_numpy(),
        table["osm_id"].to_numpy(),
        table["kind"].to_numpy(),
        *list_arrays(table["tag_ids"]),
        table["paint"].to_numpy(),
        shapely.from_wkb(table["geometry"].to_numpy()),
    )


def _cell_table(path: str, cell: int, columns: list[str] | None = None) -> pa.Table:
    """CELLS rows of one cell; all columns, or some."""
    place = _cell_index(path).get(cell)
    if place is None:
        return CELLS.empty_table()
    file = pq.ParquetFile(Path(path) / f"cells-{place[0]:05d}.parquet")
    return file.read_row_group(place[1], columns=columns, use_threads=False)


@lru_cache(maxsize=4)
def read_cell_column(path: str, cell: int, name: str) -> NDArray[Any]:
    """One numeric column of CELLS for the rows of ``read_cell``, in their order."""
    return _cell_table(path, cell, [name])[name].to_numpy()


@lru_cache(maxsize=4)
def read_edit_times(path: str, cell: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of the objects of one cell: osm_id * 3 + osm_type, rising, and time of the last edit in seconds since 1970."""
    osm_id, osm_type, timestamp = (read_cell_column(path, cell, name) for name in ("osm_id", "osm_type", "timestamp"))
    identity = osm_id * len(ObjectType) + osm_type
    order = np.argsort(identity, kind="stable")
    return identity[order], timestamp[order]


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()[:20]

"""The OSM stages: extracts to feature tables, feature tables to vocabulary and cells. Everything lands in the cache."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
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

from pipeline.osm.cells.parts import Part, Slab, load_slab, plan_slabs
from pipeline.osm.cells.slabs import Closing, Counting, SlabJob, close_cells, count_and_plan, cut_slab, merge_run
from pipeline.osm.extracts.passes import GEOMETRY_TYPES
from pipeline.osm.extracts.read import Box, read_extracts
from pipeline.osm.features import FeatureBatch
from pipeline.osm.vocabulary import CleaningConfig, list_arrays
from pipeline.rules import Rules
from pipeline.run.ray_map import Runner
from pipeline.run.versions import code_fingerprint
from schemas.errors import InputError
from schemas.features import CELLS, FEATURES, ObjectType, geoparquet_metadata
from storage.entries import have_place
from storage.files import atomic_file, file_sha256
from storage.nodes.held import held_in, name_of
from storage.progress import Display, Progress, StageRow
from storage.store import Store
from storage.urls import is_local

#: Features that one process cuts in about the time that Ray takes to start.
_SMALL = 500_000


def _read_into(store: Store, paths: list[str], rules: Rules, runner: Runner, quiet: bool) -> dict[str, Any]:
    """Read extracts into a new place; what there is to say of them."""
    what = name_of(paths[0]) if len(paths) == 1 else f"{len(paths)} extracts"
    with Progress(f"features of {what}", 0, "blobs", quiet) as progress:
        extract = read_extracts(paths, rules, store.root, runner, progress.update)
    store.write_table("drops.parquet", extract.drops)
    return {
        "extents": extract.extents, "snapshots": extract.snapshots, "objects": extract.objects,
        "parts": [[p.path.removeprefix(f"{store.root}/"), p.osm_type, p.first, p.last, p.rows] for p in extract.parts],
        "features": sum(p.rows for p in extract.parts),
        "drops": int(np.sum(extract.drops["count"].to_numpy())),
    }  # fmt: skip


@dataclass(frozen=True)
class Features:
    """What the features stage leaves in the cache."""

    store: Store
    parts: list[Part]  # tables of features
    names: list[str]  # file names of the extracts, as they were given
    hashes: list[str]  # SHA-256 of each
    extents: list[Box]  # of those with nodes, in the order of their hashes
    snapshot: str | None  # of the newest extract, ISO 8601
    count: int


def features_stage(
    extracts: Sequence[str | Path], rules: Rules, cache: str | Path, runner: Runner, quiet: bool
) -> tuple[Features, StageRow]:
    """Read the extracts together, unless the cache holds the features of these very files.

    Args:
        extracts: files of this machine; where the cache is a URL, those that it holds too.
        rules: which objects are kept.
        cache: folder, or URL of one that all nodes of a cluster share.
        runner: reads them side by side.
        quiet: no progress.
    """
    start, home = time.monotonic(), Store(cache)
    before = [_version(p) for p in extracts]
    held = [held_in(home, p) for p in extracts] if home.remote else []
    hashes = [h.sha256 for h in held] if home.remote else [file_sha256(Path(p)) for p in extracts]
    names = [name_of(p) for p in extracts]
    paths = [h.url for h in held] if home.remote else [str(p) for p in extracts]
    files = sorted(zip(hashes, names, paths, strict=True))
    code = code_fingerprint("pipeline.osm.extracts.read")
    store = home.below(f"features-{_digest(*sorted(hashes), rules.fingerprint, code)}")

    def make(fresh: Store) -> dict[str, Any]:
        meta = _read_into(fresh, [path for *_, path in files], rules, runner, quiet)
        for path, version in zip(extracts, before, strict=True):
            if _version(path) != version:
                raise InputError(f"OSM extract {path} has changed while it was read; run the same again")
        return meta

    meta, cached = have_place(store, make, Display(quiet).note)
    extents: list[Box] = [tuple(extent) for extent in meta["extents"] if extent]
    snapshot = max(filter(None, meta["snapshots"]), default=None)
    parts = [Part(store.path(name), *facts) for name, *facts in meta["parts"]]
    features = Features(store, parts, names, hashes, extents, snapshot, meta["features"])
    row = StageRow.since(start, "features", meta["features"], "features", drops=meta["drops"], cached=cached)
    return features, row


def feature_slabs(features: Features) -> list[Slab]:
    """All features in slabs, in order of type and id."""
    return plan_slabs(features.parts)


def feature_drops(features: Features) -> pa.Table:
    """DROPS rows of reading the extracts."""
    return features.store.read_table("drops.parquet")


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

    store: Store
    zoom: int  # of the cells

    @property
    def path(self) -> str:
        """Folder or URL of the cells, as ``read_cell`` takes it."""
        return self.store.root


def vocabulary_stage(
    features: Features,
    rules: Rules,
    cleaning: CleaningConfig,
    zoom: int,
    cache: str | Path,
    runner: Runner,
    quiet: bool,
) -> tuple[Cells, StageRow]:
    """Tag ids, vocabulary and cells of the merged features."""
    start = time.monotonic()
    code = code_fingerprint("pipeline.osm.extracts.read", "pipeline.osm.cells.slabs", "pipeline.osm.stage")
    asked = json.dumps(asdict(cleaning), sort_keys=True)
    name = features.store.root.rpartition("/")[2]
    cells = Cells(Store(cache).below(f"cells-{_digest(name, code, asked, str(zoom))}"), zoom)
    memory = 0.0

    def make(fresh: Store) -> dict[str, Any]:
        nonlocal memory
        meta, memory = _build_cells(Cells(fresh, zoom), features, rules, cleaning, runner, quiet)
        return meta

    counts, cached = have_place(cells.store, make, Display(quiet).note)
    return cells, StageRow.since(start, "vocabulary", counts["tags"], "tags", memory, counts["drops"], cached)


def _build_cells(
    cells: Cells, features: Features, rules: Rules, cleaning: CleaningConfig, runner: Runner, quiet: bool
) -> tuple[dict[str, Any], float]:
    """Cut, count, merge into a new place. Returns what there is to say of them, and the largest peak memory of a
    process in MB."""
    folder, out = cells.store.below("slabs"), cells.store
    slabs = feature_slabs(features)
    jobs = [SlabJob(slab, i, folder, rules, cells.zoom) for i, slab in enumerate(slabs)]
    small = features.count < _SMALL
    _, cutting = runner.run(cut_slab, jobs, Progress("cells, cut", len(jobs), "slabs", quiet), small=small)
    counted = runner.one(count_and_plan, Counting(folder, out, len(jobs), cells.zoom, cleaning))
    progress = Progress("cells, merged", len(counted.runs), "runs of cells", quiet)
    results, merging = runner.run(merge_run, counted.runs, progress, small=small)
    drops = runner.one(close_cells, Closing(folder, out, len(jobs), results, features.store))
    folder.remove_all()
    meta = {"tags": counted.tags, "drops": drops, "features": counted.features}
    return meta, max(cutting, merging)


def _version(path: str | Path) -> tuple[int, int, int]:
    """Changes when a file is replaced or written; what lies behind a URL does not change.

    Raises:
        InputError: there is no such file.
    """
    if not is_local(str(path)):
        return 0, 0, 0
    if not Path(path).is_file():
        raise InputError(f"OSM extract {path} does not exist; give the path of an .osm.pbf file")
    facts = Path(path).stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


@dataclass(frozen=True, eq=False)
class _Index:
    """Where cells lie."""

    places: dict[int, tuple[int, int]]  # file number and row group of every cell
    coasts: frozenset[int]  # cells that hold a coastline


@lru_cache(maxsize=8)
def _cell_index(path: str) -> _Index:
    rows = json.loads(Store(path).local("index.json").read_bytes())
    return _Index({cell: (run, group) for cell, run, group, _ in rows}, frozenset(r[0] for r in rows if r[3]))


def coast_cells(path: str) -> frozenset[int]:
    """Cells that hold a coastline."""
    return _cell_index(path).coasts


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
    place = _cell_index(path).places.get(cell)
    if place is None:
        return CELLS.empty_table()
    file = pq.ParquetFile(Store(path).local(f"cells-{place[0]:05d}.parquet"))
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

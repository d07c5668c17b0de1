"""The OSM stages: extracts to feature tables, feature tables to vocabulary and cells. Everything lands in the cache."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from dataclasses import dataclass
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from pipeline.catalog.store import Store
from pipeline.osm.cells import cut_to_cells
from pipeline.osm.features import merge_features
from pipeline.osm.read import read_extract
from pipeline.osm.vocabulary import tag_features
from pipeline.rules import Rules
from pipeline.run.ray_map import Progress, Runner, StageRow, peak_memory_mb
from pipeline.shards.plan import Box
from pipeline.tokens.build import FeatureBatch
from schemas.errors import InputError
from schemas.features import FEATURES

_TYPES = pa.array(["node", "way", "relation"])
_KINDS = pa.array(["point", "line", "polygon"])


def cache_folder(configured: str) -> Path:
    """The cache: the setting, else $GEOSHARDS_CACHE, else data/cache."""
    return Path(configured or os.environ.get("GEOSHARDS_CACHE") or "data/cache").expanduser()


@lru_cache(maxsize=8)
def code_fingerprint(*rooms: str) -> str:
    """SHA-256 (hex) of the source files of some rooms: results of other code are other results."""
    root = Path(__file__).parents[2]
    digest = sha256()
    for room in rooms:
        for path in sorted((root / room).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _read_into(path: Path, target: Path, rules: Rules, runner: Runner, quiet: bool) -> None:
    """Read an extract into its cache folder; ``meta.json`` is written last."""
    shutil.rmtree(target, ignore_errors=True)  # what an interrupted run left
    with Progress(f"features of {path.name}", 0, "blobs", quiet) as progress:
        extract = read_extract(path, rules, target, runner, progress.update)
    store = Store(target)
    store.write_table("drops.parquet", extract.drops)
    meta = {
        "extent": extract.extent, "snapshot": extract.snapshot, "objects": extract.objects,
        "parts": [p.relative_to(target).as_posix() for p in extract.parts],
        "features": sum(pq.read_metadata(p).num_rows for p in extract.parts),
        "drops": int(np.sum(extract.drops["count"].to_numpy())),
    }  # fmt: skip
    store.write("meta.json", json.dumps(meta, sort_keys=True).encode())


@dataclass(frozen=True)
class Features:
    """What the features stage leaves in the cache."""

    folders: list[Path]  # one each extract
    names: list[str]  # file names of the extracts
    hashes: list[str]  # SHA-256 of the extracts
    extents: list[Box]
    snapshot: str | None  # of the newest extract, ISO 8601
    count: int


def features_stage(
    extracts: list[Path], rules: Rules, cache: Path, runner: Runner, quiet: bool
) -> tuple[Features, StageRow]:
    """Read every extract that the cache does not hold yet; ranges of one file are read side by side."""
    start = time.monotonic()
    for path in extracts:
        if not path.is_file():
            raise InputError(f"OSM extract {path} does not exist; give the path of an .osm.pbf file")
    hashes = [file_sha256(p) for p in extracts]
    code = code_fingerprint("schemas", "geometry", "pipeline/osm", "pipeline/rules")
    folders = [cache / f"extract-{_digest(h, rules.fingerprint, code)}" for h in hashes]
    missing = {f: p for p, f in zip(extracts, folders, strict=True) if not (f / "meta.json").exists()}
    for folder, path in missing.items():
        _read_into(path, folder, rules, runner, quiet)
    metas = [json.loads((f / "meta.json").read_text()) for f in folders]
    extents: list[Box] = [tuple(m["extent"]) for m in metas if m["extent"]]
    snapshot = max((m["snapshot"] for m in metas if m["snapshot"]), default=None)
    count = sum(m["features"] for m in metas)
    features = Features(folders, [p.name for p in extracts], hashes, extents, snapshot, count)
    seconds = time.monotonic() - start
    drops = sum(m["drops"] for m in metas)
    return features, StageRow("features", count, "features", seconds, peak_memory_mb(), drops, cached=not missing)


def read_parts(folder: Path) -> pa.Table:
    """All FEATURES rows of one extract's cache folder."""
    parts = json.loads((folder / "meta.json").read_text())["parts"]
    return pa.concat_tables(
        [FEATURES.empty_table(), *(pq.read_table(folder / p).replace_schema_metadata(None) for p in parts)]
    )


def load_features(features: Features) -> tuple[pa.Table, pa.Table]:
    """The merged FEATURES table and every DROPS row of reading and merging."""
    tables = [(n, read_parts(f)) for n, f in zip(features.names, features.folders, strict=True)]
    merged, repeated = merge_features(tables)
    return merged, pa.concat_tables([*(pq.read_table(f / "drops.parquet") for f in features.folders), repeated])


@dataclass(frozen=True)
class Cells:
    """What the vocabulary stage leaves in the cache."""

    folder: Path
    zoom: int  # of the cells

    @property
    def path(self) -> str:
        """Parquet file of the cells, one row group a cell."""
        return str(self.folder / "cells.parquet")


def vocabulary_stage(
    features: Features, rules: Rules, min_tag_count: int, zoom: int, cache: Path
) -> tuple[Cells, StageRow]:
    """Tag ids, vocabulary and cells of the merged features."""
    start = time.monotonic()
    code = code_fingerprint("schemas", "geometry", "pipeline/osm", "pipeline/rules")
    names = [f.name for f in features.folders]
    cells = Cells(cache / f"cells-{_digest(*names, code, str(min_tag_count), str(zoom))}", zoom)
    meta = cells.folder / "meta.json"
    cached = meta.exists()
    if not cached:
        _build_cells(cells, features, rules, min_tag_count)
    counts = json.loads(meta.read_text())
    seconds = time.monotonic() - start
    return cells, StageRow("vocabulary", counts["tags"], "tags", seconds, peak_memory_mb(), counts["drops"], cached)


def _build_cells(cells: Cells, features: Features, rules: Rules, min_tag_count: int) -> None:
    table, _ = load_features(features)
    tagged = tag_features(table["tags"], rules, min_tag_count)
    osm_type = pa.compute.index_in(table["osm_type"], _TYPES).to_numpy().astype(np.uint8)
    kind = pa.compute.index_in(table["kind"], _KINDS).to_numpy().astype(np.uint8)
    geometry = shapely.from_wkb(table["geometry"].to_numpy())
    cut, refused = cut_to_cells(osm_type, table["osm_id"].to_numpy(), kind, geometry, tagged, cells.zoom)
    store = Store(cells.folder)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, cut.schema, compression="zstd") as writer:
        column = cut["cell"].to_numpy()
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        for first, last in zip(starts, np.append(starts[1:], len(column))[: len(starts)], strict=True):
            writer.write_table(cut.slice(first, last - first), row_group_size=max(1, int(last - first)))
    store.write("cells.parquet", buffer.getvalue())
    store.write_table("vocabulary.parquet", tagged.vocabulary)
    store.write_table("drops.parquet", refused)
    meta = {"tags": tagged.vocabulary.num_rows, "drops": refused.num_rows, "rows": cut.num_rows}
    store.write("meta.json", json.dumps(meta, sort_keys=True).encode())


@lru_cache(maxsize=4)
def read_cell(path: str, cell: int) -> FeatureBatch:
    """Features of one cell; the last few stay in memory, since neighbouring shards share them."""
    table = pq.read_table(path, filters=[("cell", "=", cell)]).combine_chunks()
    lists = table["tag_ids"].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):  # an empty table has no chunk
        lists = pa.array([], lists.type)
    return FeatureBatch(
        table["osm_type"].to_numpy(),
        table["osm_id"].to_numpy(),
        table["kind"].to_numpy(),
        lists.offsets.to_numpy().astype(np.int64) - lists.offsets[0].as_py() if len(lists) else np.zeros(1, np.int64),
        lists.flatten().to_numpy(),
        table["paint"].to_numpy(),
        shapely.from_wkb(table["geometry"].to_numpy()),
    )


def cell_ids(path: str) -> list[int]:
    """Cells that hold a feature, from the file's statistics alone."""
    metadata = pq.ParquetFile(path).metadata
    column = metadata.schema.to_arrow_schema().names.index("cell")
    groups = (metadata.row_group(i).column(column).statistics for i in range(metadata.num_row_groups))
    return sorted({int(s.min) for s in groups})


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()[:20]

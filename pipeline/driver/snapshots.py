"""OSM data of one time or of several: cells and vocabulary for each snapshot that images may need."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.driver.sources import Region
from pipeline.osm.extracts.history import cut_history, is_history
from pipeline.osm.stage import Cells, Features, features_stage, vocabulary_stage
from pipeline.rules import Rules
from pipeline.run.ray_map import Runner
from pipeline.samples.config import ShardsConfig
from pipeline.samples.job import Snapshot
from schemas.catalog import VOCABULARY
from schemas.errors import ConfigError
from storage.files import file_sha256
from storage.nodes.copies import node_cache
from storage.nodes.held import local_copy
from storage.progress import StageRow

#: Days for which a history is cut: each is a whole extract to read.
_MOST_DAYS = 50


def snapshots_stage(
    config: ShardsConfig,
    region: Region,
    features: Features,
    days: list[str],
    rules: Rules,
    cell_zoom: int,
    cache: str,
    runner: Runner,
    quiet: bool,
) -> tuple[list[Cells], tuple[Snapshot, ...], pa.Table, list[StageRow]]:
    """Cells of all extracts together, or with ``plan.snapshots=image`` of each by itself, in order of time.

    Returns:
        Cells, snapshots, their common vocabulary, and rows of the closing table.

    Raises:
        ConfigError: ``plan.snapshots=image`` without images that have a time, or with an extract that has none.
    """
    found, rows = [features], []
    if config.plan.snapshots == "image":
        paths = _dated([local_copy(p) for p in region.extracts], days, node_cache(cache))
        found = []
        for path in paths:
            one, row = features_stage([path], rules, cache, runner, quiet)
            if one.snapshot is None:
                raise ConfigError(f"extract {path.name} has no time of its own; plan.snapshots=image needs one")
            found.append(one)
            rows.append(replace(row, stage=f"features {one.snapshot[:10]}"))
        found.sort(key=lambda f: f.snapshot or "")
    cells: list[Cells] = []
    for one in found:
        own, row = vocabulary_stage(one, rules, config.osm, cell_zoom, cache, runner, quiet)
        cells.append(own)
        rows.append(row)
    snapshots = tuple(Snapshot(one.snapshot, own.path) for one, own in zip(found, cells, strict=True))
    return cells, snapshots, _common([c.store.read_table("vocabulary.parquet") for c in cells]), rows


def _dated(extracts: list[Path], days: list[str], cache: Path) -> list[Path]:
    """The extract of each snapshot; a history gives one for each day of an image."""
    if not days:
        raise ConfigError(
            "plan.snapshots=image takes the OSM data of each image's time, and no image has one; set rs.acquired"
        )
    paths: list[Path] = []
    for path in extracts:
        if not is_history(path):
            paths.append(path)
            continue
        if len(days) > _MOST_DAYS:
            raise ConfigError(
                f"images of {len(days)} days would cut {path.name} as often; narrow rs.datetime to at most "
                f"{_MOST_DAYS} days, or give dated extracts"
            )
        folder = cache / "histories" / file_sha256(path)[:20]
        ends = [datetime.fromisoformat(f"{day}T23:59:59").replace(tzinfo=UTC) for day in days]
        paths += cut_history(path, dict(zip(days, ends, strict=True)), folder)
    return paths


def _common(tables: list[pa.Table]) -> pa.Table:
    """One vocabulary; a tag that several snapshots have counts as in the one that has most of it."""
    if len(tables) == 1:
        return tables[0]
    rows = pa.concat_tables(tables)
    names = ["tag_id", "key", "value", "text"]
    merged = rows.group_by(names).aggregate([("tag_count", "max"), ("key_count", "max")])
    merged = merged.rename_columns([*names, "tag_count", "key_count"]).select(VOCABULARY.names).cast(VOCABULARY)
    return merged.take(pc.sort_indices(merged, [("text", "ascending")]))

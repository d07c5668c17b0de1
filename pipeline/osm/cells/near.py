"""OSM objects of a chip from the cells of an extract.

A chip is no tile: it may lie across cells. Most lie within one cell and its margin, and take its features as they are;
for the others, the pieces of each object are joined again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipeline.osm.cells.cut import MARGIN
from pipeline.osm.cells.seams import Cell, Seams
from pipeline.osm.features import FeatureBatch
from pipeline.osm.stage import read_cell, read_edit_times
from schemas.features import ObjectType
from schemas.footprint import lonlat_to_tile
from schemas.tokens import OsmTokens


def cells_of(bbox: Sequence[float], zoom: int) -> tuple[Cell, ...]:
    """The one cell that holds a box (west, south, east, north in degrees) within its margin, or all that it meets."""
    west, south, east, north = bbox
    corners = lonlat_to_tile(np.array([[west, north], [east, south]]), zoom)
    (x0, y0), (x1, y1) = np.clip(corners, 0, (1 << zoom) - 1e-9).tolist()
    column, row = int((x0 + x1) / 2), int((y0 + y1) / 2)
    room = MARGIN / 2
    if column - room <= x0 and x1 <= column + 1 + room and row - room <= y0 and y1 <= row + 1 + room:
        return ((column, row),)
    return tuple((x, y) for y in range(int(y0), int(y1) + 1) for x in range(int(x0), int(x1) + 1))


def features_near(path: str, zoom: int, cells: Sequence[Cell], bbox: Sequence[float]) -> FeatureBatch:
    """Features of an extract whose bounds meet a box, each whole inside it.

    Args:
        path, zoom: of the cells (pipeline.osm.stage.Cells).
        cells: of the box (``cells_of``).
        bbox: west, south, east, north in degrees.
    """
    batches = [read_cell(path, row * (1 << zoom) + column).near(*bbox) for column, row in cells]
    return batches[0] if len(batches) == 1 else _join(batches, cells, zoom)


def _join(batches: list[FeatureBatch], cells: Sequence[Cell], zoom: int) -> FeatureBatch:
    """Features of several cells, each object once."""
    every = _concatenate(batches)
    cell = np.repeat(np.arange(len(batches)), [len(b) for b in batches])
    order = np.lexsort((cell, every.osm_id, every.osm_type, every.kind))
    every, cell = every.take(order), cell[order]
    identity = np.stack((every.kind, every.osm_type, every.osm_id))
    first = np.flatnonzero(np.append(True, (identity[:, 1:] != identity[:, :-1]).any(axis=0)))[: len(every)]
    counts = np.diff(np.append(first, len(every)))
    joined = every.take(first)
    seams = Seams(cells, zoom)
    for i in np.flatnonzero(counts > 1).tolist():
        rows = slice(first[i], first[i] + counts[i])
        joined.geometry[i] = seams.join(every.geometry[rows], cell[rows], int(joined.kind[i]))
    return joined


def _concatenate(batches: list[FeatureBatch]) -> FeatureBatch:
    lengths = np.concatenate([np.diff(b.tag_offsets) for b in batches])
    names = ("osm_type", "osm_id", "kind", "tag_ids", "paint", "geometry")
    columns: dict[str, Any] = {name: np.concatenate([getattr(b, name) for b in batches]) for name in names}
    return FeatureBatch(tag_offsets=np.concatenate(([0], np.cumsum(lengths))), **columns)


def newest_edit(path: str, zoom: int, cells: Sequence[Cell], tokens: OsmTokens) -> str | None:
    """Time of the last edit of any object of a chip, ISO 8601; None without objects, or where the extract has no times.

    Args:
        path, zoom, cells: as for ``features_near``.
        tokens: of the chip.
    """
    own = tokens.osm_id * len(ObjectType) + tokens.osm_type
    newest = 0
    for column, row in cells:
        identity, times = read_edit_times(path, row * (1 << zoom) + column)
        newest = max(newest, int(times[np.isin(identity, own)].max(initial=0)))
    return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if newest else None

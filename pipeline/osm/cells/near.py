"""OSM objects near a footprint, from the cells of an extract.

A footprint may lie across cells. Most lie within one cell and its margin, and take its features as they are; for the
others, the pieces of each object are joined again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry.packed import changes
from geometry.tiles import lonlat_to_tile, tile_bounds, tile_codes
from pipeline.osm.cells.cut import MARGIN
from pipeline.osm.cells.seams import Cell, Seams
from pipeline.osm.coast import Coastline, coast_rows
from pipeline.osm.features import FeatureBatch
from pipeline.osm.stage import coast_cells, read_cell, read_edit_times
from schemas.features import ObjectType
from schemas.tokens import OsmTokens

#: First column, first row, last column, last row of some cells; columns run on eastwards across the 180th meridian.
Block = tuple[int, int, int, int]


def blocks_of(bbox: NDArray[np.float64], zoom: int) -> NDArray[np.int64]:
    """The one cell that holds each box f64[N,4] (west, south, east, north in degrees, west over east across the 180th
    meridian) within its margin, or all that it meets, as `Block` i64[N,4]."""
    corners = np.stack((lonlat_to_tile(bbox[:, [0, 3]], zoom), lonlat_to_tile(bbox[:, [2, 1]], zoom)), axis=1)
    corners = np.clip(corners, 0, (1 << zoom) - 1e-9)
    across = bbox[:, 0] > bbox[:, 2]
    corners[across, 1, 0] += 1 << zoom
    middle = np.floor(corners.mean(axis=1))
    room = MARGIN / 2
    alone = (middle - room <= corners[:, 0]).all(axis=1) & (corners[:, 1] <= middle + 1 + room).all(axis=1)
    alone &= ~across  # margins end at the meridian
    every = np.floor(corners).reshape(-1, 4)
    return np.where(alone[:, None], np.tile(middle, 2), every).astype(np.int64)


def cells_of(block: Block, zoom: int) -> list[int]:
    """The cells of a block, as `read_cell` takes them."""
    return tile_codes(np.array(_cells(block)) % (1 << zoom), zoom).tolist()


def _cells(block: Block) -> list[Cell]:
    x0, y0, x1, y1 = block
    return [(x, y) for y in range(y0, y1 + 1) for x in range(x0, x1 + 1)]


def _read(path: str, zoom: int, block: Block) -> Iterator[tuple[FeatureBatch, float]]:
    """Features of each cell of a block, and by how many degrees its column lies further east than the map says."""
    for cell, (column, _) in zip(cells_of(block, zoom), _cells(block), strict=True):
        yield read_cell(path, cell), 360.0 * (column >> zoom)


def features_near(path: str, zoom: int, block: Block, bbox: Sequence[float]) -> FeatureBatch:
    """Features of an extract whose bounds meet a box, each whole inside it.

    Args:
        path, zoom: of the cells (pipeline.osm.stage.Cells).
        block: of the box (``blocks_of``).
        bbox: west, south, east, north in degrees; its east, as the features, over 180 across that meridian.
    """
    west, south, east, north = bbox
    batches = []
    for own, turn in _read(path, zoom, block):
        near = own.near(west - turn, south, east - turn, north)
        batches.append(near.eastwards(turn) if turn else near)
    return batches[0] if len(batches) == 1 else _join(batches, _cells(block), zoom)


@lru_cache(maxsize=4)
def coastline_of(path: str, zoom: int, block: Block) -> Coastline | None:
    """The coastline of a block of cells; where they have none, of those around it; None where these have none either.
    The last few stay in memory.

    A straight line to the nearest coastline leaves neither the block nor that square, and crosses no other.
    """
    x0, y0, x1, y1 = block
    around = (x0 - 1, max(y0 - 1, 0), x1 + 1, min(y1 + 1, (1 << zoom) - 1))
    held = coast_cells(path)
    for wanted in (block, around):
        cells = [c for code, c in zip(cells_of(wanted, zoom), _cells(wanted), strict=True) if code in held]
        if cells:
            return _coastline(path, zoom, wanted, cells)
    return None


def _coastline(path: str, zoom: int, block: Block, cells: Sequence[Cell]) -> Coastline | None:
    """That of a block of which some cells have one."""
    coasts = []
    for (column, _), code in zip(cells, tile_codes(np.array(cells) % (1 << zoom), zoom).tolist(), strict=True):
        own, turn = read_cell(path, code), 360.0 * (column >> zoom)
        own = own.take(coast_rows(own.paint, own.osm_type, own.kind))
        coasts.append(own.eastwards(turn) if turn else own)
    every = _cells(block)
    alone = len(every) == 1
    bounds = tile_bounds(np.array(every), zoom, MARGIN if alone else 0.0)
    border = (*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist())
    return Coastline.of(coasts[0] if alone else _join(coasts, cells, zoom), border)


def _join(batches: list[FeatureBatch], cells: Sequence[Cell], zoom: int) -> FeatureBatch:
    """Features of several cells, each object once."""
    every = _concatenate(batches)
    cell = np.repeat(np.arange(len(batches)), [len(b) for b in batches])
    order = np.lexsort((cell, every.osm_id, every.osm_type, every.kind))
    every, cell = every.take(order), cell[order]
    first = np.flatnonzero(changes(every.kind, every.osm_type, every.osm_id))
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


def newest_edit(path: str, zoom: int, block: Block, tokens: OsmTokens) -> str | None:
    """Time of the last edit of any object of a footprint, ISO 8601; None without objects, or where the extract has no
    times.

    Args:
        path, zoom, block: as for ``features_near``.
        tokens: of the footprint.
    """
    own = tokens.osm_id * len(ObjectType) + tokens.osm_type
    newest = 0
    for cell in cells_of(block, zoom):
        identity, times = read_edit_times(path, cell)
        if len(identity):
            at = np.minimum(np.searchsorted(identity, own), len(identity) - 1)
            newest = max(newest, int(times[at[identity[at] == own]].max(initial=0)))
    return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if newest else None

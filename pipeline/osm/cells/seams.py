"""Objects that were cut to cells, joined again across the cells' borders.

Cells hold a margin of their neighbours' ground, so pieces overlap. Polygons are united, and lose the vertices that
cutting gave them inside: their neighbours have none there. Lines cannot be united, since a cut end lies 1e-15 degrees
beside the segment that it was cut from, which would then run twice: each piece is first cut back to its own cell, and
the ends on a border are made to meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.tiles import tile_bounds
from pipeline.osm.cells.cut import MARGIN, keep_dimension
from schemas.features import Kind

Floats = NDArray[np.float64]
Geometries = NDArray[Any]  # object array of shapely geometries
Cell = tuple[int, int]  # column, row

#: Degrees by which a vertex may lie beside the border along which it was cut.
_ON_BORDER = 1e-10
#: Steps a degree to which ends on a border are rounded, so that they meet: 1e-12 of a degree.
_STEPS = 2.0**40


@dataclass(frozen=True, eq=False)
class Seams:
    """The borders between some cells that form a rectangle."""

    cells: Sequence[Cell]
    zoom: int

    def join(self, pieces: Geometries, cell: NDArray[np.int64], kind: int) -> Any:
        """One object from its pieces.

        Args:
            pieces: shapely objects, lon/lat.
            cell: index of each piece's cell.
            kind: of the object.
        """
        if kind == Kind.POINT or (pieces[1:] == pieces[0]).all():  # it lies in the margins
            return pieces[0]
        if kind == Kind.POLYGON:
            return _without(shapely.union_all(pieces), self._on_seam(MARGIN))
        boxes = shapely.box(*self._edges(0.0))[cell]
        own = keep_dimension(shapely.intersection(pieces, boxes), np.full(len(pieces), kind, np.uint8))
        there = own[~shapely.is_missing(own)]
        if not len(there):  # it lies outside the cells, in their margins alone
            return pieces[0]
        parts = shapely.get_parts(shapely.transform(there, self._rounded))
        merged = shapely.line_merge(shapely.multilinestrings(parts))
        return _without(merged, self._on_seam(0.0))

    def _edges(self, margin: float) -> Floats:
        """West, south, east and north of each cell, f64[4,C]."""
        return tile_bounds(np.array(self.cells), self.zoom, margin).T

    def _seams(self, margin: float) -> tuple[Floats, Floats]:
        """Longitudes and latitudes of the borders that are not the rectangle's own."""
        west, south, east, north = self._edges(margin)
        return np.unique(np.concatenate((west, east)))[1:-1], np.unique(np.concatenate((south, north)))[1:-1]

    def _on_seam(self, margin: float) -> Callable[[Floats], NDArray[np.bool_]]:
        """Whether positions f64[N,2] lie on a border inside the rectangle, bool[N]."""
        x, y = self._seams(margin)
        west, south, east, north = self._edges(margin)
        low = np.array([west.min(), south.min()]) + _ON_BORDER
        high = np.array([east.max(), north.max()]) - _ON_BORDER

        def on_seam(xy: Floats) -> NDArray[np.bool_]:
            cut = (np.abs(xy[:, :1] - x) < _ON_BORDER).any(axis=1) | (np.abs(xy[:, 1:] - y) < _ON_BORDER).any(axis=1)
            return np.asarray(cut & (xy > low).all(axis=1) & (xy < high).all(axis=1))

        return on_seam

    def _rounded(self, xy: Floats) -> Floats:
        """Positions with those on a border put on it, in whole steps."""
        on = self._on_seam(0.0)(xy)
        xy = xy.copy()
        for axis, borders in enumerate(self._seams(0.0)):
            for border in borders:
                near = on & (np.abs(xy[:, axis] - border) < _ON_BORDER)
                xy[near, axis] = border
                xy[near, 1 - axis] = np.rint(xy[near, 1 - axis] * _STEPS) / _STEPS
        return xy


def _without(geometry: Any, which: Callable[[Floats], NDArray[np.bool_]]) -> Any:
    """A geometry without some of its vertices; a ring or line that would not be left keeps them."""
    if hasattr(geometry, "geoms"):
        return type(geometry)([_without(part, which) for part in geometry.geoms])
    if isinstance(geometry, shapely.Polygon):
        rings = [_left(np.asarray(r.coords)[:-1], which, 3) for r in (geometry.exterior, *geometry.interiors)]
        return shapely.Polygon(rings[0], rings[1:])
    return shapely.LineString(_left(np.asarray(geometry.coords), which, 2))


def _left(xy: Floats, which: Callable[[Floats], NDArray[np.bool_]], least: int) -> Floats:
    keep = ~which(xy)
    return xy[keep] if keep.sum() >= least else xy

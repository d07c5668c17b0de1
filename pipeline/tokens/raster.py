"""Class rasters (osm.png) of many footprints at once."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geometry.coast import Coast, coasts, fill_edges, frames
from geometry.packed import PackedGeometry
from geometry.paint import Shapes, fill, join_shapes, polygon_shapes, stroke_shapes
from pipeline.rules import PaintRules
from pipeline.rules.paint import SeaRules, raised
from schemas.features import COASTLINE, DOUBTFUL, ORDER, VALUE, Kind

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClassRasters:
    """Of T footprints."""

    pixels: NDArray[np.uint8]  # [T,height,width]
    broken_coast: NDArray[np.bool_]  # [T] a coastline ends in it or contradicts another: its sea is unpainted


def class_rasters(
    geometry: PackedGeometry,
    paint: NDArray[np.uint16],
    tile: Ints,
    gsd: NDArray[np.float64],
    sizes: Ints,
    rules: PaintRules,
    at_sea: NDArray[np.bool_] | None = None,
) -> ClassRasters:
    """Rasters of T tiles, as large as the largest; a smaller one stands in the upper left corner.

    Args:
        geometry: objects in pixels of their tile.
        paint: code per object (schemas.features.CELLS).
        tile: tile per object, 0..T-1.
        gsd: f64[T] metres a pixel, for the width of strokes.
        sizes: i64[T,2] width, height in pixels.
        at_sea: bool[T], where the coastline nearest a tile's centre has the sea on that side; None: unknown everywhere.
    """
    # By level, then by class, a class's strokes over its areas; ties follow the objects' order.
    value, order, widths = paint & VALUE, (paint & ORDER).astype(np.int64) * 2, rules.widths
    polygons = np.flatnonzero((geometry.kind == Kind.POLYGON) & (value > 0))
    lines = np.flatnonzero((geometry.kind == Kind.LINE) & ~np.isnan(widths[value]))
    areas = geometry.take(polygons)
    strokes = geometry.take(lines)
    stroke = widths[value[lines]] / gsd[tile[lines]]
    colour = value.astype(np.uint8)
    shapes = [
        polygon_shapes(areas, tile[polygons], order[polygons], colour[polygons]),
        stroke_shapes(strokes, stroke, tile[lines], order[lines] + 1, colour[lines]),
    ]
    broken = np.zeros(len(gsd), bool)
    if rules.sea is not None:
        sea, broken = _sea(geometry, paint, tile, sizes, rules.sea, at_sea)
        shapes = [*sea, *shapes]  # under the strokes of the class that it lies over
    return ClassRasters(fill(join_shapes(shapes), len(gsd), *sizes.max(axis=0).tolist()), broken)


def _sea(
    geometry: PackedGeometry,
    paint: NDArray[np.uint16],
    tile: Ints,
    sizes: Ints,
    rules: SeaRules,
    at_sea: NDArray[np.bool_] | None,
) -> tuple[list[Shapes], NDArray[np.bool_]]:
    """Shapes of the sea, and in which tiles its coastline is broken."""
    shapes: list[Shapes] = []
    order = 2 * rules.over + 1
    rows = np.flatnonzero((paint & COASTLINE > 0) & (geometry.kind != Kind.POINT))
    state = np.full(len(sizes), Coast.NONE, np.uint8)
    if len(rows):
        state, edges = coasts(geometry.take(rows), tile[rows], sizes)
        state[tile[rows[paint[rows] & DOUBTFUL > 0]]] = Coast.BROKEN
        kept = np.flatnonzero(state[edges.image] == Coast.PARTS)
        shapes.append(fill_edges(edges.take(kept), order, rules.value))
    if at_sea is not None and at_sea.any():
        value = paint & VALUE
        dry = (value > 0) & (geometry.kind != Kind.POINT) & ~raised(paint) & ~np.isin(value, list(rules.beside))
        sea = at_sea & (state == Coast.NONE)
        sea[tile[dry]] = False
        shapes.append(fill_edges(frames(np.flatnonzero(sea), sizes), order, rules.value))
    return shapes, state == Coast.BROKEN


def encode_png(raster: NDArray[np.uint8], palette: list[int]) -> bytes:
    """One class raster u8[height,width] as an indexed 8-bit PNG."""
    image = Image.fromarray(raster, "P")
    image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()

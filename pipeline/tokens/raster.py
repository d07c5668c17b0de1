"""Class rasters (osm.png) of many footprints at once."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geometry.packed import PackedGeometry
from geometry.paint import fill, join_shapes, polygon_shapes, stroke_shapes
from pipeline.rules import PaintRules
from schemas.features import Kind


def class_rasters(
    geometry: PackedGeometry,
    paint: NDArray[np.uint8],
    tile: NDArray[np.int64],
    gsd: NDArray[np.float64],
    size: tuple[int, int],
    rules: PaintRules,
) -> NDArray[np.uint8]:
    """Rasters u8[T,height,width] of T tiles.

    Args:
        geometry: objects in pixels of their tile.
        paint: pixel value per object, 0 for none.
        tile: tile per object, 0..T-1.
        gsd: f64[T] metres a pixel, for the width of strokes.
        size: width, height in pixels.
    """
    # Classes in their order, a class's strokes over its areas; ties follow the objects' order.
    widths = rules.widths
    polygons = np.flatnonzero((geometry.kind == Kind.POLYGON) & (paint > 0))
    lines = np.flatnonzero((geometry.kind == Kind.LINE) & ~np.isnan(widths[paint]))
    order = paint.astype(np.int64) * 2
    areas = geometry.take(polygons)
    strokes = geometry.take(lines)
    stroke = widths[paint[lines]] / gsd[tile[lines]]
    shapes = join_shapes(
        [
            polygon_shapes(areas, tile[polygons], order[polygons], paint[polygons]),
            stroke_shapes(strokes, stroke, tile[lines], order[lines] + 1, paint[lines]),
        ]
    )
    return fill(shapes, len(gsd), *size)


def encode_png(raster: NDArray[np.uint8], palette: list[int]) -> bytes:
    """One class raster u8[height,width] as an indexed 8-bit PNG."""
    image = Image.fromarray(raster, "P")
    image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()

"""The aerial image: sheets of 4 x 4 tiles, each with its own light, paints, sensor and error of registration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from geometry.tiles import tile_transforms
from pipeline.demo.geo import TILE_ZOOM, grown
from pipeline.demo.pictures.aerial import APRON_PX, paint_aerial
from pipeline.demo.pictures.ground import SHADOW_REACH_M
from pipeline.demo.world.district import World
from pipeline.demo.world.looks import AERIAL, develop, draw_look
from pipeline.demo.world.plan import SHEET_TILES, Plan

TILE_PX = 256
LICENCE = "CC0-1.0"


def sheets(plan: Plan) -> list[tuple[int, int]]:
    """(column, row) of every sheet, from the north-western one."""
    columns, rows = (-(-n // SHEET_TILES) for n in (plan.columns, plan.rows))
    return [(c, r) for r in range(rows) for c in range(columns)]


def shift_of(plan: Plan, sheet: tuple[int, int]) -> tuple[float, float]:
    """Metres east and north by which a sheet shows things displaced."""
    east, north = np.random.default_rng([plan.settings.seed, 603, *sheet]).normal(0, plan.settings.shift_m, 2)
    return float(east), float(north)


def render_sheet(world: World, sheet: tuple[int, int]) -> NDArray[np.uint8]:
    """A sheet (h, w, 3), as far as the world goes."""
    plan = world.plan
    c, r = (n * SHEET_TILES for n in sheet)
    pixel = plan.tile_m / TILE_PX
    right, low = min(c + SHEET_TILES, plan.columns), min(r + SHEET_TILES, plan.rows)
    east, north = shift_of(plan, sheet)
    left, bottom = c * plan.tile_m - east, (plan.rows - low) * plan.tile_m - north
    width, height = ((n + 2 * APRON_PX) * pixel for n in ((right - c) * TILE_PX, (low - r) * TILE_PX))
    left, bottom = left - APRON_PX * pixel, bottom - APRON_PX * pixel
    bounds = (left, bottom, left + width, bottom + height)
    rng = np.random.default_rng([plan.settings.seed, AERIAL, *sheet])
    look = draw_look(rng)
    blocks = world.blocks_in(grown(bounds, SHADOW_REACH_M))
    image = paint_aerial(blocks, bounds, pixel, (c * TILE_PX, r * TILE_PX), plan.settings.seed, look)
    inner = np.ascontiguousarray(image[:, APRON_PX:-APRON_PX, APRON_PX:-APRON_PX])
    return develop(inner, rng)


def write_sheet(plan: Plan, sheet: tuple[int, int], image: NDArray[np.uint8], folder: Path) -> None:
    """A tiled GeoTIFF in EPSG:3857 whose pixels are those of tiles of zoom 17."""
    left, top = plan.corner
    at = np.array([[left + sheet[0] * SHEET_TILES, top + sheet[1] * SHEET_TILES]])
    transform = tile_transforms(at, TILE_ZOOM, TILE_PX)[0]
    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": 3, "width": image.shape[1], "height": image.shape[0],
        "crs": "EPSG:3857", "transform": Affine(*transform.ravel()[:6].tolist()), "tiled": True, "blockxsize": TILE_PX,
        "blockysize": TILE_PX, "compress": "JPEG", "photometric": "YCBCR", "jpeg_quality": 90,
    }  # fmt: skip
    with rasterio.open(folder / f"{sheet[0]:03d}-{sheet[1]:03d}.tif", "w", **profile) as target:
        target.update_tags(LICENSE=LICENCE)
        target.write(np.ascontiguousarray(image.transpose(2, 0, 1)))

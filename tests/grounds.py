"""Footprints for tests of what stands on them: tiles by number, single footprints, and areas of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyproj import Transformer

from pipeline import alignment
from pipeline.footprints.candidates import Tiles
from pipeline.streetview import pairing, plan
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.position import Area
from pipeline.streetview.sources import Source
from schemas.footprint import Footprint, Footprints


class TileArea(Area):
    """The area of XYZ tiles i64[T,2] of one zoom."""

    def __init__(self, tiles: np.ndarray, zoom: int, margin_m: float = 0.0) -> None:
        super().__init__(Tiles(np.asarray(tiles), zoom, 256).bbox(), margin_m)
        object.__setattr__(self, "tiles", np.asarray(tiles))
        object.__setattr__(self, "zoom", zoom)

    tiles: np.ndarray
    zoom: int


def area_of(footprints: Sequence[Footprint], margin_m: float = 0.0) -> Area:
    return Area.around(alignment.place(footprints).bbox, margin_m)


def lonlat_to_normalised(footprint: Footprint, lonlat: np.ndarray) -> np.ndarray:
    """Lon/lat degrees f64[N,2] to normalised image coordinates f64[N,2] of one footprint."""
    lonlat = np.asarray(lonlat, np.float64).reshape(-1, 2)
    return alignment.lonlat_to_normalised(Footprints.of([footprint]), np.zeros(len(lonlat), np.int64), lonlat)


def pixel_to_lonlat(footprint: Footprint, xy: np.ndarray) -> np.ndarray:
    """Pixel coordinates f64[N,2] of one footprint to lon/lat degrees f64[N,2], by pyproj alone."""
    crs = footprint.pixel_to_crs(np.asarray(xy, np.float64).reshape(-1, 2))
    back = Transformer.from_crs(footprint.crs, "EPSG:4326", always_xy=True)
    return np.stack(back.transform(crs[:, 0], crs[:, 1]), axis=1)


def pair(photos: pa.Table, footprints: Sequence[Footprint], margin_m: float = 0.0, times: Any = None) -> pa.Table:
    return pairing.pair(photos, Footprints.of(footprints), alignment.place(footprints), margin_m, times)


def photos_of_footprints(
    source: Source, config: StreetviewConfig, footprints: Sequence[Footprint], fetch: bool = True
) -> plan.ChosenPhotos:
    return plan.photos_of(source, config, Footprints.of(footprints), alignment.place(footprints), fetch)


def photos_of_tiles(
    source: Source, config: StreetviewConfig, tiles: np.ndarray, zoom: int, fetch: bool = True
) -> plan.ChosenPhotos:
    return photos_of_footprints(source, config, list(Tiles(np.asarray(tiles), zoom, 256).footprints()), fetch)

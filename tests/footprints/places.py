"""The way back from pixels to the ground."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from schemas.footprint import Footprint


def pixel_to_lonlat(footprint: Footprint, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixel coordinates f64[N,2] of one footprint to lon/lat degrees f64[N,2]."""
    crs = footprint.pixel_to_crs(np.asarray(xy, np.float64).reshape(-1, 2))
    return np.stack(Transformer.from_crs(footprint.crs, "EPSG:4326", always_xy=True).transform(*crs.T), axis=1)

"""Which zoom suits an image."""

from __future__ import annotations

import math

from geometry.tiles import WEB_MERCATOR_MAX_LATITUDE, tile_side
from schemas.errors import ConfigError

#: An image may be coarser than its source by this factor and still hold all of it: GDAL's warper, too, resamples
#: without a low-pass filter up to here.
SLACK = 1 / 0.95
MAX_ZOOM = 22


def pixel_metres(zoom: int, lat: float, size: int) -> float:
    """Metres on the ground, on the sphere, that a pixel of a tile of ``size`` pixels a side covers at a latitude."""
    return tile_side(zoom) * math.cos(math.radians(lat)) / size


def natural_zoom(gsd: float, lat: float = 0.0, size: int = 256) -> int:
    """The lowest zoom, 0..22, whose tiles hold all of an image: the next lower one has pixels larger than the image's.

    Args:
        gsd: metres on the ground a pixel of the source, over 0.
        lat: latitude in degrees; zooms are finer towards the poles.
        size: pixels a side of a tile.

    >>> [natural_zoom(10.0), natural_zoom(10.0, 47.0), natural_zoom(10.0, size=512), natural_zoom(0.3)]
    [14, 14, 13, 19]

    Raises:
        ConfigError: an argument is out of range.
    """
    if not (gsd > 0 and math.isfinite(gsd)) or size < 1 or abs(lat) > 90:
        raise ConfigError(f"no zoom has pixels of {gsd} m at {lat}° in tiles of {size} px")
    lat = min(abs(lat), WEB_MERCATOR_MAX_LATITUDE)
    return next((z for z in range(MAX_ZOOM) if pixel_metres(z, lat, size) <= gsd * SLACK), MAX_ZOOM)

"""Whether a raster has a place on Earth, and values that are light: what has not is refused in words that help."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from pyproj.exceptions import CRSError
from rasterio.warp import transform as warp_transform

from pipeline.meridian import laid_flat
from schemas.errors import InputError

#: Units of a CRS from its origin that no map reaches: around the world in millimetres.
_FARTHEST = 4e10
_WARP = "make a raster in a map projection of it with gdalwarp"


def check_place(source: Any, where: str) -> None:
    """Refuse a raster (opened in rasterio) without a CRS of the Earth or a transform into it.

    Raises:
        InputError: it is such a one.
    """
    points, _ = source.gcps
    plain = source.transform.is_identity
    if points and (plain or source.crs is None):
        raise InputError(
            f"imagery {where} is placed by {len(points)} ground control points, through which many surfaces go; "
            f"{_WARP} -tps -t_srs EPSG:… (thin plate splines; or -order 1, 2, 3)"
        )
    if source.rpcs is not None and (plain or source.crs is None):
        raise InputError(
            f"imagery {where} is placed by RPCs, and where a pixel lies depends on the terrain; {_WARP} -rpc -to "
            "RPC_DEM=dem.tif -t_srs EPSG:…"
        )
    if source.crs is None:
        raise InputError(
            f"imagery {where} has no coordinate reference system; assign one with gdal_edit.py -a_srs EPSG:…"
        )
    if not (source.crs.is_geographic or source.crs.is_projected):
        name = source.crs.to_wkt().partition('"')[2].partition('"')[0]
        raise InputError(
            f"imagery {where} is in {name or 'a CRS without a name'}, which is no map of the Earth; assign its true "
            "CRS with gdal_edit.py -a_srs EPSG:…"
        )
    a, b, _, d, e, _ = source.transform[:6]
    if plain:
        raise InputError(
            f"imagery {where} names a coordinate reference system, but not where in it its pixels lie; assign its "
            "edges with gdal_edit.py -a_ullr, or give the world file that belongs to it"
        )
    if not np.isfinite(source.transform[:6]).all() or a * e == b * d:
        raise InputError(f"imagery {where} has pixels of no area; assign its true edges with gdal_edit.py -a_ullr")
    if not np.abs(source.bounds).max() < _FARTHEST:
        raise InputError(
            f"imagery {where} reaches farther than any map of the Earth; assign its true edges with gdal_edit.py "
            "-a_ullr"
        )


def check_colours(source: Any, where: str) -> None:
    """Refuse values that grow with darkness.

    Raises:
        InputError: it has such values.
    """
    if source.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
        most = np.iinfo(source.dtypes[0]).max if np.dtype(source.dtypes[0]).kind in "ui" else 1
        raise InputError(
            f"{where} counts 0 as white (MINISWHITE); turn it round with gdal_translate -scale 0 {most} {most} 0 -co "
            "PHOTOMETRIC=MINISBLACK"
        )


def outline(source: Any, where: str) -> Any:
    """Lon/lat (multi)polygon of the edge of a raster opened in rasterio, cut at the 180th meridian, with the pole that
    it goes around.

    Raises:
        InputError: it has no place on Earth.
    """
    for sides in (16, 256):  # an outline is bent in lon/lat, and very much so beside a pole
        t = np.arange(sides) / sides
        z, o = np.zeros_like(t), np.ones_like(t)
        x = np.concatenate((t, o, 1 - t, z)) * source.width
        y = np.concatenate((z, t, o, 1 - t)) * source.height
        a, b, c, d, e, f = source.transform[:6]
        try:
            places = warp_transform(source.crs, "EPSG:4326", a * x + b * y + c, d * x + e * y + f)
        except CRSError:
            places = ([np.inf], [np.inf])
        lonlat = np.stack(places, axis=1)
        if not np.isfinite(lonlat).all():
            raise InputError(
                f"imagery {where} reaches beyond what its CRS can hold; cut it with gdal_translate -projwin"
            )
        step = np.diff(lonlat[:, 0])
        if np.abs(step - 360 * np.rint(step / 360)).max() < 45:
            break
    return shapely.make_valid(laid_flat(lonlat))

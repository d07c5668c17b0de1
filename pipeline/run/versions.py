"""Versions of the libraries that decide output bytes."""

from __future__ import annotations

from importlib.metadata import version

import pyproj
import rasterio
import shapely


def encoder_versions() -> dict[str, str]:
    """Name to version, for dataset.json."""
    found = {n: version(n) for n in ("numpy", "pillow", "pyarrow", "safetensors", "simplejpeg")}
    return found | {
        "gdal": rasterio.__gdal_version__,
        "geos": shapely.geos_version_string,
        "osmium": version("osmium"),
        "proj": pyproj.proj_version_str,
    }

"""Versions of what decides output bytes: our own code, and the libraries."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pyproj
import rasterio
import shapely

_ROOT = Path(__file__).parents[2]
#: Imports of our own modules, at module level or inside a function.
_IMPORT = re.compile(
    r"^\s*(?:from ((?:schemas|geometry|storage|pipeline)[\w.]*) import (\([^)]*\)|[^\n#]*)|"
    r"import ((?:schemas|geometry|storage|pipeline)[\w.]*))",
    re.MULTILINE,
)


def encoder_versions() -> dict[str, str]:
    """Name to version, for dataset.json."""
    found = {n: version(n) for n in ("numpy", "pillow", "pyarrow", "safetensors", "simplejpeg")}
    return found | {
        "gdal": rasterio.__gdal_version__,
        "geos": shapely.geos_version_string,
        "osmium": version("osmium"),
        "proj": pyproj.proj_version_str,
    }


@lru_cache(maxsize=8)
def code_fingerprint(*modules: str) -> str:
    """SHA-256 (hex) of the source of modules and of all of ours that they import, directly or not: results of other
    code are other results.

    Args:
        modules: dotted names, ``pipeline.samples.work`` say.
    """
    digest = sha256()
    for name in sorted(import_closure(*modules)):
        digest.update(f"{name}\0".encode() + _path(name).read_bytes())
    return digest.hexdigest()


def import_closure(*modules: str) -> set[str]:
    """Modules, and all of ours that they import, directly or not."""
    found: set[str] = set()
    left = list(modules)
    while left:
        name = left.pop()
        if name in found or not _path(name).is_file():
            continue
        found.add(name)
        parts = name.split(".")
        left += [".".join(parts[:i]) for i in range(1, len(parts))]  # packages run first
        for origin, names, plain in _IMPORT.findall(_path(name).read_text(encoding="utf-8")):
            left += [origin or plain, *(f"{origin}.{n}" for n in re.findall(r"\w+", names) if origin)]
    return found


def _path(module: str) -> Path:
    path = _ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

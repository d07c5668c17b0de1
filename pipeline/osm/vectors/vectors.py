"""Vector files to rows: GeoJSON by the standard library and GEOS, GeoPackage and Shapefile by GDAL.

GeoJSON, of which a chip has up to three small files, is read without GDAL: it takes half the time.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError

from schemas.errors import InputError, at_the_door

Geometries = NDArray[Any]  # object array of shapely geometries

_LIMIT = 1 << 28  # bytes of a GeoJSON file
#: First bytes of the formats that GDAL reads here: by an ending alone it might take any other format for them.
_MAGIC = {".gpkg": b"SQLite format 3\0", ".shp": b"\0\0\x27\x0a"}


@dataclass(frozen=True, eq=False)
class Layer:
    """The features of one file or layer, as they are in it."""

    geometry: Geometries  # [F] None where there is none, or none that GEOS can build
    properties: Sequence[Mapping[str, Any]]  # [F]
    ids: Sequence[Any]  # [F] the features' own, None where they have none
    crs: str  # as WKT


def read_vectors(path: Path) -> list[Layer]:
    """The layers of one file.

    Raises:
        InputError: it cannot be read, or names a CRS that PROJ does not know.
    """
    return [_read_geojson(path)] if path.suffix.lower() == ".geojson" else _read_ogr(path)


def _read_geojson(path: Path) -> Layer:
    """A FeatureCollection or a Feature; the CRS is lon/lat unless an old-style ``crs`` member says otherwise."""
    with at_the_door("it is no GeoJSON of features"):
        data = path.read_bytes()
        if len(data) > _LIMIT:
            raise InputError(f"{len(data):,} bytes of GeoJSON are no chip's objects")
        text = data.decode("utf-8-sig")
        document = json.loads(text)
        features = document["features"] if document["type"] == "FeatureCollection" else [document]
        if any(f["type"] != "Feature" for f in features):
            raise InputError("it holds something else than features")
        geometry = _geometries(text, [f["geometry"] for f in features])
        properties = [f["properties"] or {} for f in features]
        if not all(isinstance(p, Mapping) for p in properties):
            raise InputError("the properties of a feature are no object")
        crs = document.get("crs")
        name = crs["properties"]["name"] if crs else "OGC:CRS84"
    return Layer(geometry, properties, [f.get("id") for f in features], _crs(str(name)))


def _geometries(text: str, found: list[Any]) -> Geometries:
    if len(found) > 1 and all(found):  # the whole file in one call, which skips features without geometry
        whole = shapely.from_geojson(text, on_invalid="ignore")
        if whole is not None and shapely.get_num_geometries(whole) == len(found):
            return np.asarray(shapely.get_parts(whole), object)
    result = np.full(len(found), None, object)
    for i, geometry in enumerate(found):
        if geometry:
            result[i] = shapely.from_geojson(json.dumps(geometry), on_invalid="ignore")
    return result


def _read_ogr(path: Path) -> list[Layer]:
    """The layers of a GeoPackage that have a geometry, or a shapefile."""
    import pyogrio  # brings its own GDAL: most chips need none

    with at_the_door("it cannot be read"):
        with path.open("rb") as file:
            if not file.read(16).startswith(_MAGIC[path.suffix.lower()]):
                raise InputError(f"it is no {'GeoPackage' if path.suffix.lower() == '.gpkg' else 'shapefile'}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # GDAL's remarks on a file that it reads all the same
            names = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
            return [_ogr_layer(*pyogrio.raw.read(path, layer=name, force_2d=True)) for name in names]


def _ogr_layer(meta: Mapping[str, Any], _: Any, wkb: NDArray[Any], columns: Sequence[NDArray[Any]]) -> Layer:
    names = [str(f) for f in meta["fields"]]
    values = [_plain_values(c) for c in columns]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)] if values else [{}] * len(wkb)
    geometry = np.asarray(shapely.from_wkb(wkb, on_invalid="ignore"), object)
    return Layer(geometry, rows, [None] * len(rows), _crs(meta["crs"] or ""))


def _plain_values(column: NDArray[Any]) -> list[Any]:
    """A column as Python values, dates as text."""
    if column.dtype.kind != "M":
        return list(column.tolist())
    return [None if np.isnat(v) else str(v) for v in column]


@lru_cache(maxsize=64)
def _crs(name: str) -> str:
    """A CRS that PROJ knows, as WKT."""
    if not name:
        raise InputError("it names no CRS; write it with one")
    try:
        return str(CRS.from_user_input(name).to_wkt())
    except CRSError:
        raise InputError(f"its CRS {name[:80]!r} is not known; write it with an EPSG code") from None

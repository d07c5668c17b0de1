"""Areas that a user draws: a bbox as text, polygons as GeoJSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from pipeline.meridian import FARTHEST, wrapped
from schemas.errors import InputError, at_the_door

_MAX_BYTES = 256 << 20
_CRS84 = ("crs84", "epsg:4326", "epsg::4326")


def parse_bbox(text: str) -> Any | None:
    """``west,south,east,north`` in degrees as a polygon; None if it is no list of four numbers.

    As in GeoJSON (RFC 7946, section 5.2), a box whose west is over its east lies across the 180th meridian; it becomes
    two, and may be 180° wide.

    Raises:
        InputError: the numbers are no box.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    if len(values) != 4:
        return None
    west, south, east, north = values
    spans = [(west, east)] if west < east else [(w, e) for w, e in ((west, 180.0), (-180.0, east)) if w < e]
    within = -180 <= min(west, east) <= max(west, east) <= 180 and -90 <= south < north <= 90
    wide = west > east and east + 360 - west > 180  # it is more likely that they stand in each other's place
    if not all(map(math.isfinite, values)) or not within or west == east or wide or not spans:
        raise InputError(
            f"bbox {text} is no west,south,east,north in degrees with south < north; west is over east only across the "
            "180th meridian"
        )
    boxes = [shapely.box(w, south, e, north) for w, e in spans]
    return boxes[0] if len(boxes) == 1 else shapely.multipolygons(boxes)


def read_polygons(path: Path) -> Any:
    """All polygons of a GeoJSON file as one geometry in lon/lat.

    Raises:
        InputError: it is no GeoJSON, holds no polygon or other things than polygons, or leaves lon/lat.
    """
    with at_the_door(f"polygon file {path} is no GeoJSON of polygons"):
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"polygon file {path} has over {_MAX_BYTES >> 20} MiB; simplify it")
        document = json.loads(path.read_text(encoding="utf-8"))
        crs = str((document.get("crs") or {}).get("properties", {}).get("name", "crs84")).lower()
        if not crs.endswith(_CRS84):
            raise InputError(f"polygon file {path} is in {crs}; GeoJSON is in lon/lat (ogr2ogr -t_srs EPSG:4326)")
        geometry = to_polygons([f.get("geometry") for f in _features(document)])
    if geometry is None:
        raise InputError(f"polygon file {path} holds no polygon")
    return geometry


def to_polygons(geometries: list[Any]) -> Any | None:
    """GeoJSON geometries as one valid (multi)polygon on the map; None if nothing has an area.

    A side of more than 180° is the short way across the 180th meridian, longitudes beyond it are the other side.

    Raises:
        ValueError: one is no (multi)polygon, or leaves lon/lat.
        shapely.errors.GEOSException: one cannot be read.
    """
    texts = [json.dumps(g) for g in geometries if g is not None]
    shapes = np.asarray(shapely.from_geojson(texts), dtype=object)
    kinds = set(shapely.get_type_id(shapes).tolist()) - {3, 6}
    if kinds:
        raise ValueError("it holds other things than polygons")
    if not len(shapes):
        return None
    west, south, east, north = shapely.total_bounds(shapes)
    if min(west, -east) < -FARTHEST or min(south, -north) < -90:
        raise ValueError(f"it reaches {west:g},{south:g},{east:g},{north:g}: that is no lon/lat")
    union = shapely.union_all(shapely.make_valid(wrapped(shapes), method="structure", keep_collapsed=False))
    return None if union.is_empty or not union.area > 0 else union


def _features(document: dict[str, Any]) -> list[dict[str, Any]]:
    kind = document.get("type")
    if kind == "FeatureCollection":
        return list(document["features"]) if "features" in document else []
    return [document] if kind == "Feature" else [{"geometry": document}]

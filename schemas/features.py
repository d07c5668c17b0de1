"""OSM features, their drops and their tags as Arrow tables; GeoParquet 1.1 metadata."""

from __future__ import annotations

import json
from enum import IntEnum

import pyarrow as pa


class ObjectType(IntEnum):
    """OSM's three object types; also the code in ``osm_type``."""

    NODE = 0
    WAY = 1
    RELATION = 2


class Kind(IntEnum):
    """Dimension of an object's geometry; also the code in ``kind``."""

    POINT = 0
    LINE = 1
    POLYGON = 2


BBOX = pa.struct([("xmin", pa.float64()), ("ymin", pa.float64()), ("xmax", pa.float64()), ("ymax", pa.float64())])

#: Each object whole and once, EPSG:4326. Its bbox column prunes without any geometry library.
FEATURES = pa.schema(
    [
        ("osm_type", pa.string()),  # node | way | relation
        ("osm_id", pa.int64()),
        ("kind", pa.string()),  # point | line | polygon
        ("tags", pa.map_(pa.string(), pa.string())),  # as in OSM, every key
        ("geometry", pa.binary()),  # WKB, lon lat in degrees
        ("bbox", BBOX),  # degrees
        ("version", pa.int32()),  # 0 where the extract has none
        ("timestamp", pa.timestamp("ms", tz="UTC")),  # null where the extract has none; Parquet knows no seconds
    ]
)

#: Bits of ``paint``: the pixel value; with the level above it what orders painting, later is higher; a coastline that
#: contradicts those it meets; a coastline.
VALUE, ORDER, DOUBTFUL, COASTLINE = 0xFF, 0x3FFF, 0x4000, 0x8000

#: Features cut to web-mercator cells plus a margin: what the sample stage reads. Sorted by cell, kind,
#: type and id.
CELLS = pa.schema(
    [
        ("cell", pa.int64()),  # y * 2^zoom + x at CELL_ZOOM
        ("osm_type", pa.uint8()),  # ObjectType
        ("osm_id", pa.int64()),
        ("kind", pa.uint8()),  # Kind
        ("tag_ids", pa.list_(pa.int64())),  # sorted, at least one
        ("geometry", pa.binary()),  # WKB, lon lat in degrees, long segments densified
        ("paint", pa.uint16()),  # how the class raster shows it: VALUE, level, DOUBTFUL, COASTLINE
        ("timestamp", pa.int64()),  # of the object's last edit, seconds since 1970; 0 where the extract has none
        ("hash", pa.uint64()),  # of all of the row but its cell: equal rows give equal tokens
    ]
)

#: Zoom of the cells: 39 km at the equator, so that one holds a few MB of a dense city.
CELL_ZOOM = 10

#: One table for every stage. A row is one object, tile or photo, or (``count`` > 1, ids null) a class of them.
DROPS = pa.schema(
    [
        ("stage", pa.string()),  # features | vocabulary | cells | plan | samples | raster | streetview | chips
        ("source", pa.string()),  # file name, never an absolute path
        ("osm_type", pa.string()),
        ("osm_id", pa.int64()),
        ("key", pa.string()),  # sample key or photo id
        ("reason", pa.string()),  # one snake_case word
        ("detail", pa.string()),
        ("count", pa.int64()),  # 1 for a named thing
    ]
)

#: Tags of a dataset, counted over features.
VOCABULARY = pa.schema(
    [
        ("tag_id", pa.int64()),
        ("key", pa.string()),
        ("value", pa.string()),
        ("text", pa.string()),  # key:value
        ("tag_count", pa.int64()),  # features that carry this tag
        ("key_count", pa.int64()),  # features that carry this key
    ]
)


def geoparquet_metadata(geometry_types: list[str]) -> dict[bytes, bytes]:
    """File metadata of GeoParquet 1.1 for a WKB column ``geometry`` in lon/lat.

    ``crs`` is left out: the standard then means OGC:CRS84, which is EPSG:4326 with longitude first.
    """
    covering = {"bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}}
    column = {"encoding": "WKB", "geometry_types": sorted(geometry_types), "covering": covering}
    document = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return {b"geo": json.dumps(document, sort_keys=True).encode()}


def drop_row(
    stage: str,
    source: str,
    reason: str,
    *,
    osm_type: str | None = None,
    osm_id: int | None = None,
    key: str | None = None,
    detail: str = "",
    count: int = 1,
) -> dict[str, object]:
    """One row of ``drops`` as a dict in schema order."""
    return {
        "stage": stage, "source": source, "osm_type": osm_type, "osm_id": osm_id,
        "key": key, "reason": reason, "detail": detail, "count": count,
    }  # fmt: skip

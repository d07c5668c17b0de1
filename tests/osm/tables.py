"""FEATURES tables written by hand."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import shapely

from schemas.features import FEATURES


def feature_table(
    osm_type: Any, osm_id: Any, kind: Any, tags: Any, geometry: Any, version: Any, stamp: Any
) -> pa.Table:
    """Columns (any sequences; geometry of shapely objects in lon/lat) to a FEATURES table."""
    bounds = shapely.bounds(geometry).reshape(-1, 4)
    bbox = pa.StructArray.from_arrays(
        [pa.array(bounds[:, i]) for i in range(4)], fields=list(FEATURES.field("bbox").type)
    )
    columns = [
        pa.array(osm_type, pa.string()),
        pa.array(osm_id, pa.int64()),
        pa.array(kind, pa.string()),
        pa.array([list(t.items()) for t in tags], FEATURES.field("tags").type),
        pa.array(shapely.to_wkb(geometry), pa.binary()),
        bbox,
        pa.array(version, pa.int32()),
        pa.array(stamp, FEATURES.field("timestamp").type),
    ]
    return pa.Table.from_arrays(columns, schema=FEATURES)

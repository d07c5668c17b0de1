"""Tables as Parquet: plain columns, structs, GeoParquet and GeoArrow points."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyproj
import shapely
from numpy.typing import NDArray

from pipeline.streetview.record import Drops, point
from schemas.errors import InputError

Floats = NDArray[np.float64]

_ROWS = 1 << 16  # rows that are read at once


class ParquetTable:
    """Columns and rows of a Parquet file."""

    #: What its rows are called by.
    unit = "row"

    def __init__(self, path: Path) -> None:
        self.path = path
        schema = pq.read_schema(path)
        self.names = list(schema.names)
        geo = json.loads((schema.metadata or {}).get(b"geo", b"{}"))
        #: Name of GeoParquet's own column of geometries.
        self.geometry: str | None = geo.get("primary_column")
        self._crs = {name: column.get("crs") for name, column in geo.get("columns", {}).items()}

    def pieces(self, wanted: Sequence[str], _place: Sequence[str], _drops: Drops,
               ) -> Iterator[tuple[pa.Table, Sequence[int]]]:  # fmt: skip
        """The columns ``wanted``, piece by piece, and the number of each row, from 1."""
        first = 1
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(_ROWS, columns=list(wanted)):
                table = pa.Table.from_batches([batch])
                yield (
                    pa.table([plain(table.column(n)) for n in wanted], list(wanted)),
                    range(first, first + len(table)),
                )
                first += len(table)

    def to_lonlat(self, column: str, points: Floats) -> Floats:
        """Points f64[N,2] of a column in degrees, by the CRS that GeoParquet states for it."""
        if (crs := self._crs.get(column)) is None:
            return points
        given = pyproj.CRS.from_user_input(crs)
        change = pyproj.Transformer.from_crs(given, "OGC:CRS84", always_xy=True)
        lon, lat = change.transform(points[:, 0], points[:, 1])
        return np.stack((lon, lat), axis=1)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of plain types: no dictionaries, extensions, times finer than microseconds."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([c.storage for c in column.chunks], column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz and "UTC"), safe=False)
    return column


def read_points(column: pa.ChunkedArray, name: str) -> Floats:
    """Points f64[N,2] of a column, NaN for none: WKB, WKT, GeoJSON, pairs, or GeoArrow's x and y.

    Raises:
        InputError: it has a type that holds no points.
    """
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        found = shapely.from_wkb(column.to_pylist(), on_invalid="ignore")
        return np.stack((shapely.get_x(found), shapely.get_y(found)), axis=1)
    if pa.types.is_struct(kind) and {"x", "y"} <= {kind.field(i).name for i in range(kind.num_fields)}:
        return np.stack([_doubles(pc.struct_field(column, axis)) for axis in ("x", "y")], axis=1)
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    objects = pa.types.is_struct(kind) and kind.get_field_index("coordinates") >= 0
    if not (listed or objects or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise InputError(f"column {name} is of type {kind}; points are WKB, WKT, GeoJSON or x and y")
    points = [point(v) for v in column.to_pylist()]
    return np.array([[np.nan if v is None else v for v in xy] for xy in points], np.float64).reshape(-1, 2)


def shown_value(value: Any) -> str:
    """A value as a message quotes it."""
    if isinstance(value, bytes):
        try:
            value = shapely.from_wkb(value).wkt
        except shapely.errors.GEOSException:
            value = value.hex()
    if isinstance(value, Mapping):
        value = json.dumps(value, default=str)
    text = str(value)
    return repr(text if len(text) <= 60 else f"{text[:59]}…")


def _doubles(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)

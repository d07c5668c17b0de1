"""Photos of a table, CSV or Parquet, by the column names of Mapillary, KartaView, Global Streetscapes and OSV-5M.

Read in pieces: of a table of the whole world only the rows inside the area are kept.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from pipeline.streetview.pictures.image import SUFFIXES
from pipeline.streetview.position import Area, Position, in_use, judge, place
from pipeline.streetview.record import (
    PLACED,
    Drops,
    PhotoError,
    iso_time,
    number,
    point,
    projection,
    to_table,
    turn,
    whole,
    words,
)
from pipeline.streetview.store import PhotoStore
from schemas.errors import InputError

#: What we call it -> column names, by preference. Sources: Mapillary API v4 entities and vector tiles, KartaView 2.0
#: photos, Global Streetscapes' tables (mly_, kv_), OSV-5M, MSLS, and plain words.
COLUMNS: dict[str, tuple[str, ...]] = {
    "file": ("file", "filename", "path", "image"),
    "id": ("id", "uuid", "orig_id", "key"),
    "url": (
        "url", "thumb_2048_url", "thumb_original_url", "thumb_1024_url", "imageProcUrl", "fileurlProc",
        "kv_fileurlProc",
    ),
    "lon": ("lon", "longitude", "lng", "kv_lng"),
    "lat": ("lat", "latitude", "kv_lat"),
    "geometry": ("geometry", "geometry.coordinates"),
    "lon_corrected": ("computed_lon", "matchLng", "kv_matchLng"),
    "lat_corrected": ("computed_lat", "matchLat", "kv_matchLat"),
    "geometry_corrected": (
        "computed_geometry", "computed_geometry.coordinates", "mly_computed_geometry",
        "mly_computed_geometry.coordinates",
    ),
    "heading": ("heading", "heading_deg", "compass_angle", "mly_compass_angle", "kv_heading", "ca"),
    "heading_corrected": ("computed_compass_angle", "mly_computed_compass_angle", "computed_heading"),
    "accuracy_m": ("accuracy_m", "gpsAccuracy", "kv_gpsAccuracy", "gps_accuracy"),
    "captured_at": (
        "captured_at", "mly_captured_at", "captured", "datetime_local", "shotDate", "kv_shotDate", "datetime",
    ),
    "projection": ("projection", "projection_type", "camera_type", "mly_camera_type", "kv_projection"),
    "panorama": ("is_pano", "mly_is_pano", "pano", "fieldOfView", "kv_fieldOfView", "field_of_view"),
    "sequence": ("sequence", "sequence_id", "sequenceId", "kv_sequenceId"),
    "index": ("sequence_index", "sequenceIndex", "kv_sequenceIndex", "frame_number"),
    "licence": ("licence", "license"),
    "author": ("author", "creator_username", "creator.username", "mly_creator.username", "username", "creator"),
    "quality": ("quality_score", "mly_quality_score", "quality"),
    "night": ("calculated_day_night", "night"),
    "source": ("source",),
}  # fmt: skip
#: What services named in a ``source`` column license their photos by.
LICENCES = {"mapillary": "CC-BY-SA-4.0", "kartaview": "CC-BY-SA-4.0"}

_BLOCK = 8 << 20  # bytes of a CSV that are parsed at once
_ROWS = 1 << 16  # rows of a Parquet file that are read at once


class TableSource:
    """A table of photos whose files lie beside it, or on the web."""

    def __init__(
        self, path: Path, licence: str | None = None, position: Position = "corrected", store: PhotoStore | None = None
    ) -> None:
        """Describe a table; ``store`` fetches photos that it names by URL, and without it they count as missing.

        Raises:
            InputError: it cannot be read, or lacks a column.
        """
        self.path, self.licence, self.position, self.store = path, licence, position, store
        self.name = path.name
        self.parallel = 1 if store is None else store.client.config.parallel
        present = _header(path)
        self.columns = {
            ours: next((c for c in names if c in present), None) for ours, names in COLUMNS.items()
        }  # None: there is none
        for needed, instead in (("lon", "geometry"), ("lat", "geometry")):
            if self.columns[needed] is None and self.columns[instead] is None:
                raise InputError(f"{path} has no column {' or '.join(COLUMNS[needed])}; it has {', '.join(present)}")
        if not (self.columns["file"] or self.columns["id"] or self.columns["url"]):
            raise InputError(f"{path} has no column {' or '.join(COLUMNS['file'])}; it has {', '.join(present)}")

    def list(self, area: Area | None, drops: Drops) -> pa.Table:
        """Rows of PLACED for the photos in ``area`` (None: everywhere); those left out are added to ``drops``."""
        found = [PLACED.empty_table()]
        number_of_first = 0
        for batch in self._batches(drops):
            found.append(self._read(batch, number_of_first, area, drops))
            number_of_first += len(batch)
        return pa.concat_tables(found).combine_chunks()

    def fetch(self, row: Mapping[str, Any]) -> Path:
        """The file of a row's photo.

        Raises:
            PhotoError: it cannot be had.
        """
        if row["path"] is not None:
            return Path(row["path"])
        if self.store is None:
            raise PhotoError("missing_file", f"photo {row['id']} is not beside {self.path}")
        return self.store.fetch(f"url {row['url']}", row["url"])

    def close(self) -> None:
        """End requests that are under way."""
        if self.store is not None:
            self.store.client.stop.set()

    def _batches(self, drops: Drops) -> Iterator[pa.Table]:
        wanted = [c for c in self.columns.values() if c is not None]
        if self.path.suffix.lower() == ".parquet":
            yield from _parquet_batches(self.path, wanted)
            return

        def skip(row: Any) -> str:
            drops.add("bad_row", f"row {row.number}", f"{row.actual_columns} values for {row.expected_columns} columns")
            return "skip"

        options = pa.csv.ConvertOptions(
            include_columns=wanted,
            column_types=dict.fromkeys(wanted, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        )
        parse = pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip)
        try:
            read = pa.csv.ReadOptions(block_size=_BLOCK, use_threads=False)
            for batch in pa.csv.open_csv(self.path, read, parse, options):
                yield pa.Table.from_batches([batch])
        except pa.ArrowInvalid as error:
            if "UTF8" in str(error):
                raise InputError(f"{self.path} is not UTF-8; save it as UTF-8") from None
            raise InputError(f"{self.path} cannot be read as CSV: {error}") from None

    def _read(self, batch: pa.Table, first: int, area: Area | None, drops: Drops) -> pa.Table:
        """One piece of the table as PLACED."""
        original = self._positions(batch, "lon", "lat", "geometry")
        corrected = self._positions(batch, "lon_corrected", "lat_corrected", "geometry_corrected")
        corrected[(corrected == 0).all(axis=1)] = np.nan  # KartaView's word for none
        names = self._names(batch, first)
        kept = judge(names, in_use(original, corrected, self.position), area, drops)
        columns = {ours: batch.column(c).take(pa.array(kept)).to_pylist() for ours, c in self.columns.items() if c}
        kept_names = names.take(pa.array(kept)).to_pylist()
        rows = []
        for k, i in enumerate(kept.tolist()):
            values = {ours: column[k] for ours, column in columns.items()}
            row = self._row(kept_names[k], values, original[i], corrected[i])
            if isinstance(row, str):
                drops.add("missing_file", kept_names[k], row)
            else:
                rows.append(row)
        return place(to_table(rows), self.position, None, None)

    def _row(
        self, name: str, v: Mapping[str, Any], original: NDArray[np.float64], corrected: NDArray[np.float64]
    ) -> dict[str, Any] | str:
        """One row of PHOTOS, or why its bytes cannot be had."""
        file, url = words(v.get("file")), words(v.get("url"))
        path = self._file(file, name)
        if path is None and url is None:
            return "no such file beside the table"
        author = v.get("author")
        night = words(v.get("night"))
        return {
            "source": self.name,
            "id": name,
            "path": None if path is None else str(path),
            "url": url,
            **_pair("original", original),
            "heading_original": turn(v.get("heading")),
            **_pair("corrected", corrected),
            "heading_corrected": turn(v.get("heading_corrected")),
            "accuracy_m": _positive(v.get("accuracy_m")),
            "captured_at": iso_time(v.get("captured_at")),
            "projection": projection(v.get("projection"), v.get("panorama")),
            "sequence": words(v.get("sequence")),
            "index": whole(v.get("index")),
            "author": words(author.get("username") if isinstance(author, Mapping) else author),
            "licence": words(v.get("licence")) or LICENCES.get(str(v.get("source")).lower()) or self.licence,
            "quality": number(v.get("quality")),
            "night": None if night is None else night.lower() in ("night", "true", "1"),
        }

    def _file(self, name: str | None, photo: str) -> Path | None:
        """The file beside the table that a row names, or that has the photo's id for a name."""
        if name is None:
            return None if self.columns["file"] else self._by_stem.get(photo)
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return None
        root = self.path.parent.resolve()
        return next((p for p in ((base / name).resolve() for base in (root, root.parent)) if p.is_file()), None)

    @cached_property
    def _by_stem(self) -> dict[str, Path]:
        files = sorted(p for p in self.path.parent.resolve().rglob("*") if p.suffix.lower() in SUFFIXES)
        return {p.stem: p for p in files}

    def _names(self, batch: pa.Table, first: int) -> pa.ChunkedArray:
        """What each photo is called: its id, else its file or address, else its row."""
        names: list[str | None] = [None] * len(batch)
        for field in ("id", "file", "url"):
            column = self.columns[field]
            if column is not None:
                names = [n or words(v) for n, v in zip(names, batch.column(column).to_pylist(), strict=True)]
        return pa.chunked_array([pa.array([n or f"row {first + i + 1}" for i, n in enumerate(names)], pa.string())])

    def _positions(self, batch: pa.Table, lon: str, lat: str, geometry: str) -> NDArray[np.float64]:
        """Longitudes and latitudes f64[N,2]; NaN where there is none."""
        x, y, both = (self.columns[n] for n in (lon, lat, geometry))
        if x is not None and y is not None:
            return np.stack((_numbers(batch.column(x)), _numbers(batch.column(y))), axis=1)
        if both is None:
            return np.full((len(batch), 2), np.nan)
        column = batch.column(both)
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            points = shapely.from_wkb(column.to_pylist(), on_invalid="ignore")
            return np.stack((shapely.get_x(points), shapely.get_y(points)), axis=1)
        found = [point(v) for v in column.to_pylist()]
        return np.array([(np.nan if a is None else a, np.nan if b is None else b) for a, b in found]).reshape(-1, 2)


def _header(path: Path) -> list[str]:
    """Column names."""
    try:
        if path.suffix.lower() == ".parquet":
            return list(pq.read_schema(path).names)
        with path.open("rb") as file:
            text = file.read(1 << 20).decode("utf-8-sig", errors="ignore")
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    names = next(csv.reader(io.StringIO(text, newline="")), [])
    double = sorted({n for n in names if names.count(n) > 1 and any(n in known for known in COLUMNS.values())})
    if double:
        raise InputError(f"{path} has column {double[0]} more than once; rename one of them")
    return names


def _parquet_batches(path: Path, wanted: list[str]) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS, columns=wanted):
                yield pa.Table.from_batches([batch])
    except pa.ArrowException as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from None


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """A column as f64[N]: NaN for what is no number, infinity for what is written as nan or infinity."""
    try:
        values = np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
        given = np.asarray(column.is_valid().to_numpy(), bool)
    except pa.ArrowInvalid:  # some value is no number
        values = np.array([_float(v) for v in column.to_pylist()], np.float64)
        given = ~np.isnan(values)
    return np.where(given & ~np.isfinite(values), np.inf, values)


def _float(value: Any) -> float:
    try:
        result = float(value)
    except (TypeError, ValueError):
        return math.nan
    return result if math.isfinite(result) else math.inf


def _pair(kind: str, lonlat: NDArray[np.float64]) -> dict[str, float | None]:
    lon, lat = lonlat.tolist()
    return {f"lon_{kind}": number(lon), f"lat_{kind}": number(lat)}


def _positive(value: Any) -> float | None:
    """An accuracy in metres; zero and less are how some apps say that they do not know."""
    result = number(value)
    return result if result is not None and result > 0 else None

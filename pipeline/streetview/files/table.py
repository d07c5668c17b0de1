"""Photos of a table, CSV or Parquet, by the column names of Mapillary, KartaView, Global Streetscapes and OSV-5M.

Read in pieces: of a table of the whole world only the rows inside the area are kept.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.streetview.files.parquet import ParquetTable, read_points, shown_value
from pipeline.streetview.files.remote import joined, names_below
from pipeline.streetview.files.text import TextTable
from pipeline.streetview.pictures.image import KNOWN, SUFFIXES
from pipeline.streetview.position import Area, Position, in_use, judge, place
from pipeline.streetview.record import (
    PLACED,
    Drops,
    PhotoError,
    number,
    projection,
    to_table,
    turn,
    whole,
    words,
)
from pipeline.streetview.store import PhotoStore
from pipeline.times import iso_time
from schemas.errors import InputError, at_the_door

#: Endings of tables.
TABLES = (".csv", ".tsv", ".parquet", ".geoparquet")
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
        "captured_at", "mly_captured_at", "captured", "datetime_local", "shotDate", "kv_shotDate", "datetime", "time",
        "timestamp",
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

_KNOWN = frozenset(name for names in COLUMNS.values() for name in names)
_NUMBERS = ("lon", "lat", "lon_corrected", "lat_corrected", "heading", "heading_corrected", "accuracy_m", "quality")
#: What Python and spreadsheets make of a number with gaps in its column; and of one that is too long for them.
_WHOLE, _ROUNDED = re.compile(r"(\d+)\.0*"), re.compile(r"\d(\.\d+)?[eE]\+\d+")


class TableSource:
    """A table of photos whose files lie beside it, or on the web."""

    def __init__(
        self, path: Path, licence: str | None = None, position: Position = "corrected", store: PhotoStore | None = None,
        home: str | None = None,
    ) -> None:  # fmt: skip
        """Describe a table.

        Args:
            path: of the table; a copy of it where ``home`` says where it is from.
            licence: of photos that name none.
            position: which one counts.
            store: fetches photos that are named by URL; without it they count as missing.
            home: URL of the folder where the table and its photos lie, where that is not the path's.

        Raises:
            InputError: it cannot be read, or lacks a column.
        """
        self.path, self.licence, self.position, self.store, self.home = path, licence, position, store, home
        self.name = path.name
        self.parallel = 1 if store is None else store.client.config.parallel
        with at_the_door(f"{path} cannot be read"):
            text = path.suffix.lower() not in (".parquet", ".geoparquet")
            self.table: TextTable | ParquetTable = TextTable(path, _KNOWN) if text else ParquetTable(path)
        present = self.table.names
        self.columns = {
            ours: next((c for c in names if c in present), None) for ours, names in COLUMNS.items()
        }  # None: there is none
        if self.columns["geometry"] is None and isinstance(self.table, ParquetTable):
            self.columns["geometry"] = self.table.geometry if self.table.geometry in present else None
        has = ", ".join(present) or "none"
        for needed, instead in (("lon", "geometry"), ("lat", "geometry")):
            if self.columns[needed] is None and self.columns[instead] is None:
                raise InputError(f"{path} has no column {' or '.join(COLUMNS[needed])}; it has {has}")
        if not (self.columns["file"] or self.columns["id"] or self.columns["url"]):
            raise InputError(f"{path} has no column {' or '.join(COLUMNS['file'])}; it has {has}")

    def list(self, area: Area | None, drops: Drops) -> pa.Table:
        """Rows of PLACED for the photos in ``area`` (None: everywhere); those left out are added to ``drops``."""
        wanted = list(dict.fromkeys(c for c in self.columns.values() if c is not None))
        both = [self.columns[n] for n in ("lon", "lat")]
        where = [c for c in (both if None not in both else [self.columns["geometry"]]) if c is not None]
        found = [PLACED.empty_table()]
        with at_the_door(f"{self.path} cannot be read"):
            for batch, rows in self.table.pieces(wanted, where, drops):
                found.append(self._read(batch, rows, area, drops))
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

    def _read(self, batch: pa.Table, rows: Sequence[int], area: Area | None, drops: Drops) -> pa.Table:
        """One piece of the table as PLACED."""
        batch = self._with_points(batch)
        original = self._positions(batch, "lon", "lat", "geometry")
        corrected = self._positions(batch, "lon_corrected", "lat_corrected", "geometry_corrected")
        corrected[(corrected == 0).all(axis=1)] = np.nan  # KartaView's word for none
        names = self._names(batch, rows)
        used = in_use(original, corrected, self.position)
        kept = judge(names, used, area, drops, lambda i: self._said(batch, i))
        columns = {ours: batch.column(c).take(pa.array(kept)).to_pylist() for ours, c in self.columns.items() if c}
        kept_names = names.take(pa.array(kept)).to_pylist()
        found = []
        for k, i in enumerate(kept.tolist()):
            values = {ours: column[k] for ours, column in columns.items()}
            try:
                found.append(self._row(kept_names[k], values, original[i], corrected[i]))
            except PhotoError as error:
                drops.add(error.reason, kept_names[k], str(error))
        return place(to_table(found), self.position, None, None)

    def _said(self, batch: pa.Table, row: int) -> str:
        """What a row says in place of a position."""
        said = {c: batch.column(c)[row].as_py() for f in ("lon", "lat", "geometry") if (c := self.columns[f])}
        given = ", ".join(f"{c} {shown_value(v)}" for c, v in said.items() if v is not None)
        return f"{given}: no position that can be read" if len(given) else "the source gives none"

    def _row(
        self, name: str, v: Mapping[str, Any], original: NDArray[np.float64], corrected: NDArray[np.float64]
    ) -> dict[str, Any]:
        """One row of PHOTOS.

        Raises:
            PhotoError: its bytes cannot be had.
        """
        file, url = words(v.get("file")), words(v.get("url"))
        path: str | None = None
        if self.home is None:
            path = self._file(file, name)
        else:
            url = self._address(file, name) or url
        if path is None and url is None:
            beside = f"no {file} lies beside the table" if file else "no file of that name lies beside the table"
            raise PhotoError("missing_file", beside)
        author = v.get("author")
        night = words(v.get("night"))
        return {
            "source": self.name,
            "id": name,
            "path": path,
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

    def _file(self, file: str | None, photo: str) -> str | None:
        """The file beside the table that a row names, or that has the photo's id for a name."""
        root = self._root
        if file is None:
            named = self._named(photo)
            return None if named is None else f"{root}/{named}"
        places = (os.path.join(base, name) for name in spellings(file) for base in (root, os.path.dirname(root)))
        return next((path for path in places if os.path.isfile(path)), None)

    @cached_property
    def _root(self) -> str:
        return str(self.path.parent.resolve())

    def _address(self, file: str | None, photo: str) -> str | None:
        """The URL of the file that a row names, or that has the photo's id for a name."""
        if file is None:
            name = self._named(photo)
        else:
            name = next(iter(reversed(spellings(file))), None)
        return None if name is None or self.home is None else joined(self.home, name)

    def _named(self, photo: str) -> str | None:
        """The file below the table's folder that is named after an id, in a table that names no files.

        Raises:
            PhotoError: there are several.
        """
        names = [] if self.columns["file"] else self._by_stem.get(photo, [])
        if len(names) > 1:
            raise PhotoError("missing_file", f"{names[0]} and {names[1]} are both named after it")
        return names[0] if names else None

    @cached_property
    def _by_stem(self) -> Mapping[str, Sequence[str]]:
        """Photos below the table's folder by their name without its ending; those that can be read count first."""
        if self.home is None:
            root = Path(self._root)
            names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix.lower() in KNOWN)
        else:
            names = names_below(self.home)
        found: dict[str, Sequence[str]] = {}
        for endings in (KNOWN, SUFFIXES):
            own = defaultdict(list)
            for path in map(PurePosixPath, names):
                if path.suffix.lower() in endings:
                    own[path.stem].append(str(path))
            found |= own
        return found

    def _names(self, batch: pa.Table, rows: Sequence[int]) -> pa.ChunkedArray:
        """What each photo is called: its id, else its file or address, else its row.

        Raises:
            InputError: ids were rounded on their way through a spreadsheet.
        """
        names: list[str | None] = [None] * len(batch)
        for field in ("id", "file", "url"):
            column = self.columns[field]
            if column is not None:
                values = (v if v is None else words(v) for v in batch.column(column).to_pylist())
                names = [n or (self._id(v) if field == "id" else v) for n, v in zip(names, values, strict=True)]
        unit = self.table.unit
        return pa.chunked_array([pa.array([n or f"{unit} {i}" for i, n in zip(rows, names, strict=True)], pa.string())])

    def _id(self, name: str | None) -> str | None:
        """An id as its source has it: whole, though it went through a column of floating point."""
        if name is None:
            return None
        if _ROUNDED.fullmatch(name) or ((found := _WHOLE.fullmatch(name)) and int(found[1]) >= 2**53):
            raise InputError(
                f"{self.path}: column {self.columns['id']} holds {name}, a number that has lost its last digits; save "
                "it as text"
            )
        return found[1] if found else name

    def _with_points(self, batch: pa.Table) -> pa.Table:
        """Decimal commas as points, where commas do not part the columns."""
        if not isinstance(self.table, TextTable) or self.table.delimiter == ",":
            return batch
        for name in {c for field in _NUMBERS if (c := self.columns[field])}:
            pointed = pc.replace_substring_regex(batch.column(name), r"^(\s*[-+]?\d*),(\d+\s*)$", r"\1.\2")
            batch = batch.set_column(batch.column_names.index(name), name, pointed)
        return batch

    def _positions(self, batch: pa.Table, lon: str, lat: str, geometry: str) -> NDArray[np.float64]:
        """Longitudes and latitudes f64[N,2]; NaN where there is none."""
        x, y, both = (self.columns[n] for n in (lon, lat, geometry))
        if x is not None and y is not None:
            return np.stack((_numbers(batch.column(x)), _numbers(batch.column(y))), axis=1)
        if both is None:
            return np.full((len(batch), 2), np.nan)
        points = read_points(batch.column(both), both)
        return self.table.to_lonlat(both, points) if isinstance(self.table, ParquetTable) else points


def spellings(file: str) -> list[str]:
    """The paths below a folder that a name may mean: as it is, and with the backslashes of Windows for slashes.

    None for one that leads out of it.
    """
    slashed = file.replace("\\", "/")
    if slashed.startswith("/") or slashed[1:2] == ":" or ".." in slashed.split("/"):
        return []
    return list(dict.fromkeys(name.removeprefix("./") for name in (file, slashed)))


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """A column as f64[N]: NaN for what is no number, infinity for what is written as nan or infinity."""
    try:
        values = np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
        given = np.asarray(column.is_valid().to_numpy(), bool)
    except pa.ArrowException:  # some value is no number, or none is
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

"""Photos and where they were taken: a folder of JPEGs with EXIF GPS, or a CSV table that names files and positions."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from schemas.errors import InputError
from schemas.features import drop_row

_SUFFIXES = {".jpg", ".jpeg", ".png"}
#: Canonical field -> column names, by preference (specs of Mapillary, KartaView, Global Streetscapes, plain tables).
_COLUMNS: dict[str, tuple[str, ...]] = {
    "file": ("file", "filename", "path", "image"),
    "id": ("id", "uuid", "orig_id"),
    "lon": ("lon", "longitude", "lng"),
    "lat": ("lat", "latitude"),
    "heading": ("heading", "heading_deg", "compass_angle"),
    "captured_at": ("captured_at", "captured", "datetime_local", "datetime"),
    "projection": ("projection", "projection_type"),
    "licence": ("licence", "license"),
    "author": ("author", "creator_username", "creator"),
}

# Pillow refuses images over twice this many pixels: a 16k × 8k panorama passes, a decompression bomb does not.
Image.MAX_IMAGE_PIXELS = 1 << 27


@dataclass(frozen=True)
class Photo:
    """One photo before it is paired."""

    path: str
    id: str
    lon: float  # degrees
    lat: float
    heading: float | None = None  # degrees clockwise from true north, 0 <= heading < 360
    captured_at: str | None = None  # ISO 8601
    projection: str = "perspective"
    licence: str | None = None
    author: str | None = None


def read_photos(source: Path, licence: str | None = None) -> tuple[list[Photo], list[dict[str, object]]]:
    """Photos of a folder (recursively) or a CSV table, sorted by capture time and id, and DROPS rows.

    Raises:
        InputError: the source is neither, or the table lacks a column.
    """
    if source.is_dir():
        photos, drops = _from_folder(source, licence)
    elif source.suffix.lower() == ".csv":
        photos, drops = _from_table(source, licence)
    elif source.suffix.lower() in _SUFFIXES:
        photos, drops = _from_files([source], source.parent, licence)
    else:
        raise InputError(f"street view {source} is neither a folder of photos, a photo, nor a .csv table")
    return sorted(photos, key=lambda p: (p.captured_at or "", p.id)), drops


def _from_folder(folder: Path, licence: str | None) -> tuple[list[Photo], list[dict[str, object]]]:
    return _from_files(sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES), folder, licence)


def _from_files(files: Iterable[Path], base: Path, licence: str | None) -> tuple[list[Photo], list[dict[str, object]]]:
    photos: list[Photo] = []
    drops: list[dict[str, object]] = []
    for path in files:
        name = path.relative_to(base).as_posix()
        try:
            with Image.open(path) as image:
                exif = image.getexif()
            position = gps_position(exif)
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
            drops.append(_drop(name, "unreadable_image", str(error)))
            continue
        if position is None:
            drops.append(_drop(name, "no_position", "no EXIF GPS; give a CSV table with lon and lat"))
            continue
        lon, lat, heading = position
        if not _in_range(lon, lat):
            drops.append(_drop(name, "coordinate_out_of_range", f"{lon}, {lat}"))
            continue
        photos.append(Photo(str(path), name, lon, lat, heading, _exif_time(exif), "perspective", licence))
    return photos, drops


def gps_position(exif: Image.Exif) -> tuple[float, float, float | None] | None:
    """Longitude, latitude and true (never magnetic) heading in degrees from EXIF; None without a position."""
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    lat, lon = (_degrees(gps.get(tag)) for tag in (ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLongitude))
    if lat is None or lon is None:
        return None
    if str(gps.get(ExifTags.GPS.GPSLatitudeRef, "N")).upper().startswith("S"):
        lat = -lat
    if str(gps.get(ExifTags.GPS.GPSLongitudeRef, "E")).upper().startswith("W"):
        lon = -lon
    heading = _number(gps.get(ExifTags.GPS.GPSImgDirection))
    magnetic = str(gps.get(ExifTags.GPS.GPSImgDirectionRef, "T")).upper().startswith("M")
    return lon, lat, None if heading is None or magnetic else heading % 360.0


def _degrees(value: Any) -> float | None:
    try:
        parts = [float(v) for v in value]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if len(parts) != 3 or not all(math.isfinite(p) for p in parts):
        return None
    return parts[0] + parts[1] / 60 + parts[2] / 3600


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _exif_time(exif: Image.Exif) -> str | None:
    text = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
    return _iso(str(text)) if text else None


def _iso(text: str) -> str | None:
    """A time in one of the forms that tables and EXIF use, as ISO 8601 in seconds; None if it is none.

    Times with a zone become UTC and end in Z; times without one are local and stay bare.
    """
    text = text.strip()
    try:
        if text.isdigit() and len(text) == 13:  # milliseconds, as Mapillary writes
            time = datetime.fromtimestamp(int(text) / 1000, UTC)
        elif re.fullmatch(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d", text):  # EXIF
            time = datetime.strptime(text, "%Y:%m:%d %H:%M:%S")
        else:
            time = datetime.fromisoformat(text)
    except ValueError:
        return None
    if time.tzinfo is None:
        return time.strftime("%Y-%m-%dT%H:%M:%S")
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _in_range(lon: float, lat: float) -> bool:
    return -180 <= lon <= 180 and -90 <= lat <= 90 and not lon == lat == 0


def _drop(photo: str, reason: str, detail: str) -> dict[str, object]:
    return drop_row("streetview", "photos", reason, key=photo, detail=detail[:200])


def _from_table(table: Path, licence: str | None) -> tuple[list[Photo], list[dict[str, object]]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{table} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    with io.StringIO(text, newline="") as file:
        rows = csv.DictReader(file)
        present = rows.fieldnames or []
        column = {field: next((c for c in names if c in present), None) for field, names in _COLUMNS.items()}
        for needed in ("file", "lon", "lat"):
            if column[needed] is None:
                raise InputError(f"{table} has no column {' or '.join(_COLUMNS[needed])}; it has {', '.join(present)}")
        photos: list[Photo] = []
        drops: list[dict[str, object]] = []
        for row in rows:
            values = {f: (row.get(c) or "").strip() if c else "" for f, c in column.items()}
            photo = _table_photo(values, table, licence)
            if isinstance(photo, Photo):
                photos.append(photo)
            else:
                drops.append(photo)
    return photos, drops


def _table_photo(values: dict[str, str], table: Path, licence: str | None) -> Photo | dict[str, object]:
    name = values["file"]
    try:
        lon, lat = float(values["lon"]), float(values["lat"])
    except ValueError:
        return _drop(name, "no_position", f"lon={values['lon']!r}, lat={values['lat']!r}")
    if not (math.isfinite(lon) and math.isfinite(lat)) or not _in_range(lon, lat):
        return _drop(name, "coordinate_out_of_range", f"{lon}, {lat}")
    root = table.parent.resolve()
    candidates = [p for p in ((base / name).resolve() for base in (root, root.parent)) if p.is_file()]
    if Path(name).is_absolute() or ".." in Path(name).parts or not candidates:
        return _drop(name, "missing_file", "no such file beside the table")
    heading = _number(values["heading"])
    return Photo(
        str(candidates[0]), values["id"] or name, lon, lat, None if heading is None else heading % 360.0,
        _iso(values["captured_at"]), values["projection"] or "perspective", values["licence"] or licence,
        values["author"] or None,
    )  # fmt: skip


def encode_photo(path: str, size: int, quality: int) -> bytes:
    """One photo as JPEG: upright by its EXIF orientation, longest side at most ``size`` px, all metadata stripped.

    Raises:
        InputError: the file is no image, or is truncated.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (size, size))  # lets the JPEG decoder scale down by 2, 4 or 8
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
            buffer = io.BytesIO()
            upright.save(buffer, "JPEG", quality=quality)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise InputError(f"photo {path} cannot be read: {error}") from None
    return buffer.getvalue()

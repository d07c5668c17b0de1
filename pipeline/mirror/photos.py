"""Photos that the mirror's street-view services serve: what a table in their folder lists, or JPEGs with EXIF GPS.

A table is anything that `pipeline.streetview.files.table` reads; ``photos.csv`` with ``file, id, lon, lat,
computed_lon, computed_lat, heading, captured_at, projection, sequence, sequence_index, author, licence``, say.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.mirror.messages import Response
from pipeline.streetview.files.folder import FolderSource
from pipeline.streetview.files.table import TableSource
from pipeline.streetview.pictures.image import open_photo
from pipeline.streetview.record import Drops
from schemas.errors import InputError

Row = Mapping[str, Any]  # of pipeline.streetview.record.PLACED
Box = tuple[float, float, float, float]  # west, south, east, north in degrees


def stock(folder: Path) -> dict[str, Row]:
    """Photos of a service's folder by id, in the order of their ids."""
    tables = sorted(p for p in folder.iterdir() if p.suffix in (".csv", ".parquet")) if folder.is_dir() else []
    if len(tables) > 1:
        raise InputError(f"{folder} holds more than one table of photos: {', '.join(t.name for t in tables)}; keep one")
    stamp = tables[0].stat() if tables else folder.stat() if folder.is_dir() else None
    if stamp is None:
        return {}
    return _stock(folder, tables[0] if tables else None, stamp.st_mtime_ns, stamp.st_size)


def number_of(photo: str) -> int:
    """A photo's id as the number that Mapillary and KartaView call it by: itself, or 53 bits of its hash."""
    if photo.isdecimal() and len(photo) < 19:
        return int(photo)
    return int.from_bytes(sha256(photo.encode()).digest()[:7], "big") >> 3


def picture(row: Row, width: int | None) -> Response:
    """A photo as it lies there, or no wider than ``width`` pixels."""
    path = Path(row["path"])
    if width is None:
        return Response.file(path, "image/png" if path.suffix.lower() == ".png" else "image/jpeg")
    return Response(200, _smaller(path, path.stat().st_mtime_ns, width), "image/jpeg")


def parse_box(text: str) -> Box | None:
    """``west,south,east,north`` in degrees; None if it is none."""
    try:
        west, south, east, north = (float(v) for v in text.split(","))
    except ValueError:
        return None
    return west, south, east, north


def inside(lon: float | None, lat: float | None, box: Box) -> bool:
    """Whether a position lies in a box, edges included."""
    return lon is not None and lat is not None and box[0] <= lon <= box[2] and box[1] <= lat <= box[3]


@lru_cache(maxsize=16)
def _stock(folder: Path, table: Path | None, _modified: int, _size: int) -> dict[str, Row]:
    source = TableSource(table) if table is not None else FolderSource(folder)
    rows = source.list(None, Drops()).to_pylist()
    return {row["id"]: row for row in sorted(rows, key=lambda r: str(r["id"])) if row["path"]}


@lru_cache(maxsize=64)
def _smaller(path: Path, _modified: int, width: int) -> bytes:
    with open_photo(path, path.name, 178.0) as image:
        image.draft("RGB", (width, max(1, image.height * width // image.width)))
        small = image.convert("RGB")
        small.thumbnail((width, width * 16), Image.Resampling.LANCZOS, reducing_gap=2.0)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=90, exif=image.getexif(), xmp=image.info.get("xmp", b""))
    return buffer.getvalue()

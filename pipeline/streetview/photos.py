"""Photos of files on this machine, all of them, wherever they were taken."""

from __future__ import annotations

from pathlib import Path

from pipeline.streetview.encode import encode_photo as encode_photo
from pipeline.streetview.filters import in_order
from pipeline.streetview.folder import FolderSource
from pipeline.streetview.record import Drops, Photo, to_photo
from pipeline.streetview.table import SUFFIXES, TableSource
from schemas.errors import InputError


def read_photos(source: Path, licence: str | None = None) -> tuple[list[Photo], list[dict[str, object]]]:
    """Photos of a folder (recursively), a table or a single file, by capture time and id, and DROPS rows.

    Raises:
        InputError: the source is none of these, or the table lacks a column.
    """
    drops = Drops()
    if source.is_dir() or source.suffix.lower() in SUFFIXES:
        table = FolderSource(source, licence).list(None, drops)
    elif source.suffix.lower() in (".csv", ".parquet"):
        table = TableSource(source, licence).list(None, drops)
    else:
        raise InputError(f"street view {source} is neither a folder of photos, a photo, nor a .csv or .parquet table")
    rows = table.take(in_order(table)).to_pylist()
    return [to_photo(row, row["path"]) for row in rows], drops.rows()

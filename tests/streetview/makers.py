"""Photos, tables of them and a mirror's folders, made for tests."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.net.config import NetConfig
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.filters import in_order
from pipeline.streetview.pictures.encode import encode_photos
from pipeline.streetview.position import place
from pipeline.streetview.record import Drops, Photo, to_photo, to_table
from pipeline.streetview.sources import open_source
from schemas.errors import InputError

#: Impatient, so that tests are fast.
FAST = NetConfig(timeout=2.0, retries=3, backoff=0.001, max_wait=0.05)
#: A block of a town in degrees, where four tiles of zoom 14 meet.
WEST, SOUTH, EAST, NORTH = 9.5101, 47.1120, 9.5181, 47.1180

COLUMNS = (
    "file", "id", "lon", "lat", "computed_lon", "computed_lat", "heading", "computed_compass_angle", "captured_at",
    "projection", "sequence", "sequence_index", "author", "licence", "accuracy_m", "quality_score",
)  # fmt: skip


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (96, 64), **options: Any) -> Path:
    """A photo unlike those of other seeds: soft blobs, so that neither scaling nor JPEG changes it much."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(size, Image.Resampling.BICUBIC).save(path, **{"quality": 92, **options})
    return path


def write_photo(
    path: Path,
    lon: float,
    lat: float,
    heading: float | None = 90.0,
    colour: tuple[int, int, int] = (90, 120, 60),
    licence: str | None = "CC0-1.0",
) -> Path:
    """A small JPEG with EXIF GPS."""
    image = Image.new("RGB", (64, 48), colour)
    exif = Image.Exif()
    gps = exif.get_ifd(0x8825)
    for value, ref_tag, value_tag, refs in ((lat, 1, 2, "NS"), (lon, 3, 4, "EW")):
        whole = abs(value)
        degrees, minutes = int(whole), int(whole * 60 % 60)
        gps[ref_tag] = refs[value < 0]
        gps[value_tag] = (float(degrees), float(minutes), round((whole * 60 - int(whole * 60)) * 60, 6))
    if heading is not None:
        gps[16], gps[17] = "T", heading
    exif[0x0132] = "2024:06:01 10:00:00"
    if licence is not None:
        exif[0x8298] = licence
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", exif=exif)
    return path


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> Path:
    """A CSV; None is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    return path


def town(folder: Path, count: int = 24, seed: int = 1) -> list[dict[str, Any]]:
    """``photos.csv`` and its photos in a mirror's folder; every fourth is a panorama, two thirds have a correction."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        lon, lat = float(rng.uniform(WEST, EAST)), float(rng.uniform(SOUTH, NORTH))
        panorama = i % 4 == 3
        picture(folder / f"p{i}.jpg", seed=i, size=(128, 64) if panorama else (96, 64))
        row: dict[str, Any] = {
            "file": f"p{i}.jpg", "id": str(10**15 + i), "lon": lon, "lat": lat, "heading": float(i * 15 % 360),
            "captured_at": f"2024-06-{i % 28 + 1:02d}T10:00:00Z", "author": f"walker{i % 3}", "sequence": f"s{i % 3}",
            "sequence_index": i // 3, "projection": "spherical" if panorama else "perspective",
            "licence": "CC-BY-SA-4.0",
        }  # fmt: skip
        if i % 3:
            row |= {
                "computed_lon": lon + 3e-5,
                "computed_lat": lat - 2e-5,
                "computed_compass_angle": (i * 15 + 5) % 360,
            }
        rows.append(row)
    write_table(folder / "photos.csv", rows)
    return rows


def placed(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """PLACED from rows that say lon, lat and perhaps heading; other columns of PHOTOS as they are."""
    full = [
        {"source": "test", "id": str(i), "projection": "perspective", "licence": "CC0-1.0"}
        | {"lon_original": row["lon"], "lat_original": row["lat"], "heading_original": row.get("heading")}
        | {k: v for k, v in row.items() if k not in ("lon", "lat", "heading")}
        for i, row in enumerate(rows)
    ]
    return place(to_table(full), "original", None, None)


def reasons(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Reason by photo id of rows of DROPS."""
    return {str(r["key"]): str(r["reason"]) for r in rows}


def read_photos(source: Path, licence: str | None = None) -> tuple[list[Photo], list[dict[str, object]]]:
    """Photos of a folder, a table or a single file, wherever they were taken, by time and id, and DROPS rows."""
    drops = Drops()
    config = StreetviewConfig(licence=licence)
    table = open_source(str(source), config, FAST, source.parent / "cache").list(None, drops)
    return [to_photo(row, row["path"]) for row in table.take(in_order(table)).to_pylist()], drops.rows()


def encode_photo(path: str, size: int, quality: int, max_megapixels: float = 80.0) -> bytes:
    """One photo as JPEG; raises InputError with what DROPS says of it."""
    drops = Drops()
    config = StreetviewConfig(size=size, quality=quality, max_megapixels=max_megapixels)
    images = encode_photos([Photo(path, Path(path).name, 9.5, 47.1)], config, drops)
    if not images:
        raise InputError(str(drops.rows()[0]["detail"]))
    return images[0].data

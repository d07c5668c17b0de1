"""Photos with EXIF and XMP, and tables of photos."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.net.config import NetConfig
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.files.folder import FolderSource
from pipeline.streetview.files.table import TableSource
from pipeline.streetview.pictures.encode import encode_photos
from pipeline.streetview.record import Drops, to_photo
from pipeline.streetview.sources import open_source
from tests.fuzz.damage import Files, Rng, Target, ended, mutated, of_files
from tests.streetview.exif import GPANO, exif_block, extended_segments, with_segments, xmp_packet, xmp_segment


def photos(folder: Path) -> dict[str, bytes]:
    """Whole photos by name: JPEG with EXIF and XMP in both forms, PNG and WebP."""
    block = exif_block(
        [(1, "ascii", b"N\0"), (2, "rational", [(47, 1), (6, 1), (0, 1)]), (3, "ascii", b"E\0"),
         (4, "rational", [(9, 1), (30, 1), (0, 1)]), (7, "rational", [(10, 1), (0, 1), (5, 1)]),
         (17, "rational", [(90, 1)]), (29, "ascii", b"2024:06:01\0")],
        [(0x9003, "ascii", b"2024:06:01 12:00:00\0"), (0x9291, "ascii", b"25\0"), (0x9011, "ascii", b"+02:00\0")],
        [(0x0112, "short", [6]), (0x013B, "ascii", b"Ada Lovelace\0"), (0x8298, "ascii", b"CC0-1.0\0")],
    )  # fmt: skip
    values = {"ProjectionType": "equirectangular", "PoseHeadingDegrees": 90, "FullPanoWidthPixels": 64,
              "FullPanoHeightPixels": 32, "CroppedAreaImageWidthPixels": 64, "CroppedAreaImageHeightPixels": 32,
              "CroppedAreaLeftPixels": 0, "CroppedAreaTopPixels": 0}  # fmt: skip
    elements = "".join(f"<GPano:{k}>{v}</GPano:{k}>" for k, v in values.items())
    packet = xmp_packet(f"<rdf:Description {GPANO}>{elements}</rdf:Description>").encode()
    exif = b"Exif\0\0" + block
    made = {
        "exif.jpg": with_segments(folder / "a", exif).read_bytes(),
        "xmp.jpg": with_segments(folder / "a", exif, xmp_segment(packet)).read_bytes(),
        "extended.jpg": with_segments(
            folder / "a", exif, xmp_segment(xmp_packet("")), *extended_segments(packet, b"0" * 32, 300)
        ).read_bytes(),
    }
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", packet.decode())
    for name, options in (("a.png", {"pnginfo": info, "exif": exif}), ("a.webp", {"xmp": packet, "exif": exif})):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 32), (1, 2, 3)).save(buffer, name[2:], **options)  # type: ignore[arg-type]
        made[name] = buffer.getvalue()
    (folder / "a").unlink()
    return made


def tables(folder: Path) -> dict[str, bytes]:
    """Whole tables by name."""
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    count = 40
    columns: dict[str, Any] = {
        "file": ["a.jpg"] * count, "id": [f"p{i}" for i in range(count)], "lon": [9.5 + i / 1000 for i in range(count)],
        "lat": [47.1] * count, "captured_at": [1717236000000 + i for i in range(count)], "heading": [90.0] * count,
        "author": ['Ada "Countess"\nLovelace, of', None] * (count // 2), "projection": ["perspective"] * count,
    }  # fmt: skip
    rows = pa.table(columns).to_pylist()

    def text(delimiter: str, coding: str) -> bytes:
        quoted = [['"' + str(v or "").replace('"', '""') + '"' for v in row.values()] for row in rows]
        return "\n".join(delimiter.join(r) for r in [list(columns), *quoted]).encode(coding)

    def parquet(**more: Any) -> bytes:
        buffer = io.BytesIO()
        kept = {k: v for k, v in columns.items() if not more or k not in ("lon", "lat")}
        metadata = {b"geo": json.dumps({"version": "1.1.0", "primary_column": "geometry",
                                        "columns": {"geometry": {"encoding": "WKB"}}}).encode()}  # fmt: skip
        table = pa.table(kept | more)
        pq.write_table(table.replace_schema_metadata(metadata) if more else table, buffer, row_group_size=16)
        return buffer.getvalue()

    lonlat = list(zip(columns["lon"], columns["lat"], strict=True))
    xy = pa.struct([("x", pa.float64()), ("y", pa.float64())])
    return {
        "comma.csv": text(",", "utf-8"), "tab.tsv": text("\t", "utf-16"), "semicolon.csv": text(";", "utf-8-sig"),
        "plain.parquet": parquet(), "wkb.parquet": parquet(geometry=shapely.to_wkb(shapely.points(lonlat)).tolist()),
        "arrow.parquet": parquet(geometry=pa.array([{"x": x, "y": y} for x, y in lonlat], xy)),
    }  # fmt: skip


def read_photo(path: Path) -> str:
    """List a photo and encode it: what became of it."""
    drops = Drops()
    rows = FolderSource(path, "CC0-1.0").list(None, drops).to_pylist()
    config = StreetviewConfig(size=64, panorama="views", hash_distance=2)
    images = encode_photos([to_photo(row, row["path"]) for row in rows], config, drops)
    told = drops.rows()
    assert images or told, "neither a photo nor a drop"
    return "read" if images else "dropped"


def read_table(path: Path) -> str:
    """List a table: what became of it."""
    drops = Drops()
    source = open_source(str(path), StreetviewConfig(licence="CC0-1.0"), NetConfig(), path.parent / "cache")
    assert isinstance(source, TableSource)
    found = len(source.list(None, drops))
    told = drops.rows()
    return "read" if found and not told else "dropped"


def _whole(make: Callable[[Path], dict[str, bytes]]) -> list[Files]:
    with TemporaryDirectory() as folder:
        made = make(Path(folder))
        beside = {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}
    return [{name: data, **beside} for name, data in made.items()]


def by_table(data: bytes, name: str, rng: Rng) -> bytes:
    """Damage of any byte; of CSV mostly of text."""
    return mutated(data, rng, name.endswith((".csv", ".tsv")))


TARGETS = {
    "photos": Target(lambda: _whole(photos), lambda path: ended(lambda: read_photo(path), of_files(path))),
    "tables": Target(lambda: _whole(tables), lambda path: ended(lambda: read_table(path), of_files(path)), by_table),
}

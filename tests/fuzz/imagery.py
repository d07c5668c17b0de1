"""Rasters and STAC documents."""

from __future__ import annotations

import json
import os
import re
import struct
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import numpy as np

from pipeline.footprints.chips.image import read_header, read_image
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import open_scene
from pipeline.imagery.read import read_images
from pipeline.imagery.sources import find_imagery
from pipeline.net.config import NetConfig
from schemas.errors import GeoshardsError
from tests.fuzz.damage import Files, Rng, Target, best, by_bytes, by_text, by_value, ended, of_files
from tests.imagery.scenes import LAT, LON, UTM, around, texture, tiles, write_cog, write_raster

FAST = NetConfig(retries=0, backoff=0.0, timeout=5.0)
#: What stands where a TIFF has a number.
_NUMBERS = (0, 1, 2, 3, 5, 7, 8, 16, 33, 255, 6000, 32768, 65535, 1 << 20, 1 << 31, (1 << 32) - 1)


def rasters() -> list[Files]:
    """GeoTIFFs of every make, and a VRT."""
    shape = (96, 96)
    grey = texture(1, (1, *shape))
    real = texture(2, (2, *shape)).astype(np.float32)
    hole = np.full(shape, 255, np.uint8)
    hole[:40] = 0
    made: list[Files] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        tiled = {"tiled": True, "blockxsize": 32, "blockysize": 32}
        write_raster(folder / "a.tif", texture(3, (3, *shape)), compress="deflate", photometric="RGB", **tiled)
        write_raster(folder / "b.tif", real, nodata=-9999.0, tags={"LICENSE": "CC0-1.0"})
        write_raster(folder / "c.tif", texture(4, (4, *shape)), photometric="RGB", alpha="YES", compress="lzw")
        write_raster(folder / "d.tif", texture(5, (2, *shape), dtype=np.uint16, high=4000), mask=hole, **tiled)
        write_raster(folder / "e.tif", grey, photometric="PALETTE")
        write_raster(folder / "f.tif", grey, interleave="band", BIGTIFF="YES", compress="packbits")
        write_cog(folder / "g.tif", texture(6, (3, 300, 300)))
        place = ",".join(map(str, around(LON, LAT, UTM, *shape, 1.0).to_gdal()))
        vrt = (
            f'<VRTDataset rasterXSize="96" rasterYSize="96"><SRS>{UTM}</SRS><GeoTransform>{place}</GeoTransform>'
            '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename relativeToVRT="1">'
            "f.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
        )
        data = {path.name: path.read_bytes() for path in sorted(folder.glob("?.tif"))}
        made = [{name: own} for name, own in data.items()]
        return [*made, {"v.vrt": vrt.encode(), "f.tif": data["f.tif"]}]


def by_tag(data: bytes, name: str, rng: Rng) -> bytes:
    """A TIFF with another type, count or value of some tags; or damage of any byte."""
    if name.endswith(".vrt"):
        return by_text(data, name, rng)
    if rng.random() < 0.3 or data[:4] != b"II*\0":
        return by_bytes(data, name, rng)
    made = bytearray(data)
    (at,) = struct.unpack_from("<I", made, 4)
    while at and rng.random() < 0.5 and at + 2 < len(made):  # of the image itself, or of one behind it
        (count,) = struct.unpack_from("<H", made, at)
        (later,) = struct.unpack_from("<I", made, at + 2 + 12 * count) if at + 6 + 12 * count <= len(made) else (0,)
        if not later:
            break
        at = later
    (count,) = struct.unpack_from("<H", made, at)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        entry = at + 2 + 12 * int(rng.integers(count))
        match int(rng.integers(5)):
            case 0:
                struct.pack_into("<H", made, entry, int(rng.integers(254, 340)))
            case 1:
                struct.pack_into("<H", made, entry + 2, int(rng.integers(0, 20)))
            case 2:
                struct.pack_into("<I", made, entry + 4, int(rng.choice([0, 1, 2, 7, 1000, 1 << 20, (1 << 32) - 1])))
            case 3:
                value = int(rng.choice(_NUMBERS))
                struct.pack_into("<I", made, entry + 8, value)
            case _:
                (value,) = struct.unpack_from("<I", made, entry + 8)
                struct.pack_into("<I", made, entry + 8, (value + int(rng.choice([-1, 1, 8, -8, 4096]))) % (1 << 32))
    return bytes(made)


@cache
def _tiles() -> Any:
    return tiles(LON, LAT, 18, 64, 2) | tiles(LON, LAT, 15, 64)


def read_raster(path: Path) -> str:
    """As imagery, by the kernels, and as a chip."""
    kernel = ("bilinear", "nearest", "cubic", "average")[crc32(path.read_bytes()) % 4]
    config = ImageryConfig(resampling=kernel, max_nodata=1.0)  # type: ignore[arg-type]
    ends = {ended(lambda: _images(path, config), of_files(path))}
    if path.suffix == ".tif":
        ends.add(ended(lambda: _chip(path, config), of_files(path)))
    return best(ends)


def _images(path: Path, config: ImageryConfig) -> str:
    scene = open_scene(path, config)
    groups: dict[int, Any] = {}
    for key, footprint in _tiles().items():
        groups.setdefault(round(footprint.transform[0] * 1e6), {})[key] = footprint
    ends = set()
    for group in groups.values():
        images, rows = read_images([scene], group, config, FAST)
        assert len(images) + len([r for r in rows if r["stage"] == "samples"]) >= len(group), "tiles are lost"
        ends |= {"read" if images else "dropped"}
    return "read" if "read" in ends else "dropped"


def _chip(path: Path, config: ImageryConfig) -> str:
    try:
        header = read_header(path, False, config)
        image = read_image(path, config)
    except GeoshardsError as error:  # the chip's row of DROPS names the file, and holds this text
        return "dropped" if "\n" not in str(error) else f"unclear: {error}"
    assert image.data, header
    return "read"


def _item(name: str) -> dict[str, Any]:
    ring = [[LON - 1, LAT - 1], [LON + 1, LAT - 1], [LON + 1, LAT + 1], [LON - 1, LAT + 1], [LON - 1, LAT - 1]]
    asset = {"href": "FOLDER/a.tif", "type": "image/tiff", "roles": ["data"]}
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-l2a", "links": [],
        "geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [LON - 1, LAT - 1, LON + 1, LAT + 1],
        "properties": {"datetime": "2024-06-01T10:00:00Z", "eo:cloud_cover": 3.5, "s2:processing_baseline": "05.09",
                       "license": "CC-BY-4.0", "earthsearch:boa_offset_applied": True},
        "assets": {
            "red": asset | {"raster:bands": [{"nodata": 0, "data_type": "uint16"}],
                            "eo:bands": [{"name": "red", "common_name": "red"}]},
            "green": asset | {"nodata": "nan", "bands": [{"name": "green", "eo:common_name": "green", "nodata": 0}]},
            "blue": asset | {"eo:bands": [{"name": "B02", "common_name": "blue"}]}, "scl": asset,
        },
    }  # fmt: skip


def stac() -> list[Files]:
    """An item, a collection of items, a catalog with an item, and the two documents of an API."""
    items = {"type": "FeatureCollection", "features": [_item("a"), _item("b")], "links": []}
    links = [{"rel": "item", "href": "./item.json"}, {"rel": "root", "href": "./catalog.json"}]
    catalog = {"type": "Catalog", "stac_version": "1.0.0", "id": "c", "description": "d", "links": links}
    api = {
        "type": "Catalog", "stac_version": "1.0.0", "id": "api", "description": "d",
        "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"],
        "links": [{"rel": "self", "href": "URL"},
                  {"rel": "search", "href": "URL/search", "type": "application/geo+json", "method": "GET"}],
    }  # fmt: skip
    page = items | {"links": [{"rel": "self", "href": "URL/search"}], "numberMatched": 2, "numberReturned": 2}
    texts = {
        n: json.dumps(d).encode()
        for n, d in {"item": _item("a"), "items": items, "catalog": catalog, "api": api, "page": page}.items()
    }
    with TemporaryDirectory() as folder:
        raster = {"a.tif": write_raster(Path(folder) / "a.tif", texture(1, (1, 64, 64))).read_bytes()}
    here, there = ({n: text.replace(b"FOLDER", own) for n, text in texts.items()} for own in (b".", b"URL"))
    return [
        {"item.json": here["item"]} | raster, {"items.json": here["items"]} | raster,
        {"catalog.json": here["catalog"], "item.json": here["item"]} | raster,
        {"api.json": there["api"], "page.json": there["page"]} | raster,
        {"page.json": there["page"], "api.json": there["api"]} | raster,
    ]  # fmt: skip


@cache
def _server(_: int) -> tuple[ThreadingHTTPServer, list[Path]]:
    """An API on loopback whose documents lie in the folder that the list names; of this process."""
    folder: list[Path] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = {"/search": "page.json", "/a.tif": "a.tif"}.get(self.path.partition("?")[0], "api.json")
            body = (folder[0] / name).read_bytes()
            own = f"http://127.0.0.1:{self.server.server_port}".encode()  # type: ignore[attr-defined]
            part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last, size = int(part[1]) if part else 0, int(part[2]) if part else len(body), len(body)
            body = body[first : last + 1] if part else body.replace(b"URL", own)
            self.send_response(206 if part else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{size}")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, folder


def read_stac(path: Path) -> str:
    """As a document of the disk, or through an API, by names of bands and by a preset."""
    preset = crc32(path.read_bytes()) % 4 == 0
    bands = ("red", "green", "blue")
    if path.name in ("api.json", "page.json"):
        server, folder = _server(os.getpid())
        folder[:] = [path.parent]
        name = "earth-search" if preset else "stac"
        config = ImageryConfig(stac_url=f"http://127.0.0.1:{server.server_port}", collection="sentinel-2-l2a",
                               bands=() if preset else bands, max_items=500)  # fmt: skip
    else:
        name, config = str(path), ImageryConfig(bands=bands, max_items=500)

    def found() -> str:
        scenes, rows = find_imagery(name, [(LON - 0.1, LAT - 0.1, LON + 0.1, LAT + 0.1)], config, FAST)
        assert scenes, rows
        return "dropped" if rows else "read"

    known = (path.name, "item.json", "127.0.0.1", "STAC item", "a.tif", "rs.", "not followed", "api.stacspec.org")
    return ended(found, lambda text: any(word in text for word in known))


TARGETS = {"geotiff": Target(rasters, read_raster, by_tag, cost=2), "stac": Target(stac, read_stac, by_value)}

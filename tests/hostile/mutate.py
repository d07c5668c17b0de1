#!/usr/bin/env python3
"""Damaged inputs of every kind end in a result, in named drops or in one line that names the file or the setting, each
within 5 s and 1 GB, and none ends the process.

Usage: python -m tests.hostile.mutate KIND|all [--files 5000] [--first 0] [--workers 1]

An input is made from its kind and number alone, so that `--first N --files 1` does one again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import struct
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory, mkstemp
from typing import Any
from zlib import crc32

import numpy as np
import pyogrio
import shapely
import yaml

from pipeline.cli.shards import read_settings
from pipeline.footprints.chips.image import read_header, read_image
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import open_scene
from pipeline.imagery.read import read_images
from pipeline.imagery.sources import find_imagery
from pipeline.net.config import NetConfig
from pipeline.osm.vectors.objects import read_objects
from pipeline.regions.area import read_polygons
from pipeline.samples.config import ShardsConfig
from schemas.config import key_paths, to_mapping
from schemas.errors import GeoshardsError
from tests.imagery.scenes import LAT, LON, UTM, around, texture, tiles, write_cog, write_raster
from tests.streetview import mutate as photos
from tests.watched import command

Rng = np.random.Generator
Files = dict[str, bytes]
FAST = NetConfig(retries=0, backoff=0.0, timeout=5.0)
GOOD = frozenset({"read", "dropped", "refused"})
#: What stands where a format wants something else.
_ODD: list[Any] = [
    None, True, 0, -1, 3, 1e308, -1e-320, 10**30, float("nan"), float("inf"), "", "x", "\ud800", "a\nb", "2024-13-45",
    "/etc/passwd", "file:///x", "http://127.0.0.1:9/x", [], {}, [[]], [None], {"x": None}, "9" * 5000,
]  # fmt: skip
#: And where a TIFF has a number.
_NUMBERS = (0, 1, 2, 3, 5, 7, 8, 16, 33, 255, 6000, 32768, 65535, 1 << 20, 1 << 31, (1 << 32) - 1)


@dataclass(frozen=True)
class Kind:
    """One kind of input: whole ones, each of one file or several, and what reads the first of them."""

    whole: Callable[[], list[Files]]
    read: Callable[[Path], str]
    change: Callable[[bytes, str, Rng], bytes]


def by_bytes(data: bytes, name: str, rng: Rng) -> bytes:
    """Damage of any byte."""
    return photos.mutated(data, rng, text=False)


def by_text(data: bytes, name: str, rng: Rng) -> bytes:
    """Damage of a text, most of it text too."""
    return photos.mutated(data, rng, text=True)


def by_value(data: bytes, name: str, rng: Rng) -> bytes:
    """A JSON document some of whose values are others, gone, or there twice; or its text is damaged."""
    if not name.endswith("json"):
        return by_bytes(data, name, rng)
    if rng.random() < 0.25:
        return by_text(data, name, rng)
    document = json.loads(data)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        document = odd(document, rng)
    return deep(json.dumps(document), rng)


def deep(text: str, rng: Rng) -> bytes:
    """A text with lists in lists where it asks for them."""
    depth = int(rng.choice([2, 60, 5000]))
    return re.sub("[\"']?DEEP[\"']?", "[" * depth + "]" * depth, text).encode()


def odd(document: Any, rng: Rng) -> Any:
    """A document of dicts and lists with one value changed."""
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        node = waiting.pop()
        own = list(node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ())
        places += [(node, key) for key, _ in own]
        waiting += [value for _, value in own]
    if not places or rng.random() < 0.01:
        return deepcopy(_ODD[int(rng.integers(len(_ODD)))])
    node, key = places[int(rng.integers(len(places)))]
    other = places[int(rng.integers(len(places)))]
    match int(rng.integers(8)):
        case 0:
            del node[key]
        case 1:
            node[key] = json.loads(json.dumps(other[0][other[1]]))
        case 2 if isinstance(node[key], (int, float)):
            node[key] = node[key] * float(rng.choice([-1, 1e3, 1e9, 1e300, 1.0001]))
        case 3 if isinstance(node[key], list):
            node[key] = node[key] * int(rng.choice([0, 2, 50]))
        case 4:
            node[key] = "DEEP" if rng.random() < 0.5 else [node[key]]
        case _:
            node[key] = deepcopy(_ODD[int(rng.integers(len(_ODD)))])
    return document


# --- rasters ----------------------------------------------------------------------------------------------------------


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
                value = int(
                    rng.choice([0, 1, 2, 3, 5, 7, 8, 16, 33, 255, 6000, 32768, 65535, 1 << 20, 1 << 31, (1 << 32) - 1])
                )
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
    ends = {_end(path, lambda: _images(path, config))}
    if path.suffix == ".tif":
        ends.add(_end(path, lambda: _chip(path, config)))
    return "read" if "read" in ends else "dropped" if "dropped" in ends else "refused"


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


def _end(path: Path, read: Callable[[], str]) -> str:
    try:
        return read()
    except GeoshardsError as error:
        text = str(error)
        if "\n" in text or not any(f.stem in text for f in path.parent.iterdir()):
            raise AssertionError(f"unclear: {text}") from None
        return "refused"


# --- STAC -------------------------------------------------------------------------------------------------------------


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
    try:
        scenes, rows = find_imagery(name, [(LON - 0.1, LAT - 0.1, LON + 0.1, LAT + 0.1)], config, FAST)
    except GeoshardsError as error:
        text = str(error)
        named = any(
            word in text
            for word in (
                path.name,
                "item.json",
                "127.0.0.1",
                "STAC item",
                "a.tif",
                "rs.",
                "not followed",
                "api.stacspec.org",
            )
        )
        if "\n" in text or not named:
            raise AssertionError(f"unclear: {text}") from None
        return "refused"
    assert scenes, rows
    return "dropped" if rows else "read"


# --- vectors ----------------------------------------------------------------------------------------------------------


def _shapes() -> tuple[list[Any], list[dict[str, Any]]]:
    box = shapely.box(LON, LAT, LON + 0.01, LAT + 0.01)
    lake = shapely.difference(shapely.box(LON, LAT, LON + 0.02, LAT + 0.02), box)
    street = shapely.LineString([(LON, LAT), (LON + 0.01, LAT + 0.005), (LON + 0.02, LAT)])
    points = [shapely.Point(LON, LAT), shapely.MultiPoint([(LON, LAT), (LON + 0.001, LAT)])]
    shapes = [box, lake, shapely.MultiPolygon([box, shapely.box(LON + 1, LAT, LON + 2, LAT + 1)]), street, *points]
    tags = [
        {"building": "yes", "osm_id": "7"}, {"natural": "water", "other_tags": '"name"=>"x"'}, {"landuse": "forest"},
        {"highway": "path", "label": "highway:path;surface:dirt"}, {"amenity": "bench"}, {"natural": "tree"},
    ]  # fmt: skip
    return shapes, tags


def geojson() -> list[Files]:
    """Objects of a chip, a region's outline, and one geometry alone."""
    shapes, tags = _shapes()
    features = [{"type": "Feature", "id": f"way/{i}", "geometry": json.loads(shapely.to_geojson(s)), "properties": t}
                for i, (s, t) in enumerate(zip(shapes, tags, strict=True), 1)]  # fmt: skip
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
    documents: list[dict[str, Any]] = [
        {"type": "FeatureCollection", "features": features, "crs": crs},
        {"type": "FeatureCollection", "features": features[:3]}, features[0], features[1]["geometry"],
    ]  # fmt: skip
    return [{"a.geojson": json.dumps(d).encode()} for d in documents]


def _written(name: str, kinds: tuple[str, ...], **options: Any) -> Files:
    shapes, tags = _shapes()
    chosen = [i for i, s in enumerate(shapes) if s.geom_type in kinds]
    columns = sorted({key for i in chosen for key in tags[i]})
    values = [np.array([tags[i].get(c) for i in chosen], object) for c in columns]
    with TemporaryDirectory() as folder:
        pyogrio.raw.write(
            Path(folder) / name,
            shapely.to_wkb([shapes[i] for i in chosen]),
            values,
            columns,
            crs="EPSG:4326",
            **options,
        )
        made = {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}
    return {name: made.pop(name), **made}


def geopackages() -> list[Files]:
    """One of polygons, one of points."""
    return [
        _written("a.gpkg", ("Polygon",), geometry_type="Polygon"),
        _written("b.gpkg", ("Point",), geometry_type="Point"),
    ]


def shapefiles() -> list[Files]:
    """With all their parts: of polygons, of lines, of points."""
    return [
        _written("a.shp", ("Polygon", "MultiPolygon"), geometry_type="Polygon"),
        _written("b.shp", ("LineString",), geometry_type="LineString"),
        _written("c.shp", ("Point",), geometry_type="Point"),
    ]  # fmt: skip


def by_page(data: bytes, name: str, rng: Rng) -> bytes:
    """A SQLite file with damage in a page that holds something."""
    if rng.random() < 0.3:
        return by_bytes(data, name, rng)
    made = bytearray(data)
    used = [i for i in range(0, len(made), 512) if any(made[i : i + 512])]
    for _ in range(int(rng.choice([1, 2, 5]))):
        at = used[int(rng.integers(len(used)))]
        own = photos.mutated(bytes(made[at : at + 512]), rng, text=rng.random() < 0.5)
        made[at : at + 512] = own[:512].ljust(512, b"\0")
    return bytes(made)


def read_vector(path: Path) -> str:
    """As objects of a chip; of GeoJSON also as a region's outline."""
    ends = {_end(path, lambda: _objects(path))}
    if path.suffix == ".geojson":
        ends.add(_end(path, lambda: _region(path)))
    return "read" if "read" in ends else "dropped" if "dropped" in ends else "refused"


def _objects(path: Path) -> str:
    found = read_objects(path.parent, [path.name])
    return "read" if len(found.osm_id) else "dropped"


def _region(path: Path) -> str:
    return "read" if read_polygons(path).area > 0 else "dropped"


# --- settings ---------------------------------------------------------------------------------------------------------


def settings() -> list[Files]:
    """All settings at once as YAML, some of them, and some as key=value, a line each."""
    every = json.loads(json.dumps(to_mapping(ShardsConfig())))
    rs = {"bands": ["B4", "B3", "B2"], "nodata": 0, "datetime": "2024-05-01/2024-09-30", "stretch": "linear",
          "stretch_range": [[0, 3000]]}  # fmt: skip
    some = {"region": "monaco", "imagery": "earth-search", "rs": rs, "split": {"val": 0.1}, "zoom": 14, "workers": 2}
    words = [
        "rs.bands=[B4,B3]", "split.val=0.2", "zoom=15", "rs.nodata=none", "rs.quality=80", "streetview=none",
        "plan.per_shard=64", "rs.acquired=2020-01-01", "footprints=tiles,grid", "plan.max_tiles=5",
    ]  # fmt: skip
    return [
        {"a.yaml": yaml.safe_dump(every).encode()},
        {"b.yaml": yaml.safe_dump(some).encode()},
        {"c.txt": "\n".join(words).encode()},
    ]


def by_setting(data: bytes, name: str, rng: Rng) -> bytes:
    """YAML with values changed, or the text damaged."""
    if name.endswith(".txt") or rng.random() < 0.4:
        return by_text(data, name, rng)
    document = yaml.safe_load(data)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        document = odd(document, rng)
    return deep(yaml.safe_dump(document), rng)


@cache
def _keys() -> list[str]:
    return [part for key in key_paths(ShardsConfig) for part in (key, key.partition(".")[0])]


def read_some_settings(path: Path) -> str:
    """As the file --config, or as words of the command line."""
    words = path.read_bytes().decode("utf-8", "replace").splitlines() if path.suffix == ".txt" else []
    try:
        config = read_settings({"region": "demo"}, None if words else path, {}, words)
    except GeoshardsError as error:
        text = str(error)
        if "\n" in text or not (
            path.name in text or any(k in text for k in _keys()) or "setting" in text or "the value of" in text
        ):
            raise AssertionError(f"unclear: {text}") from None
        return "refused"
    assert isinstance(config, ShardsConfig)
    return "read"


# ----------------------------------------------------------------------------------------------------------------------


def _of_photos(kind: str, read: Callable[[Path], str]) -> Kind:
    def whole() -> list[Files]:
        with TemporaryDirectory() as folder:
            made = photos.KINDS[kind][0](Path(folder))
            beside = {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}
        return [{name: data, **beside} for name, data in made.items()]

    def change(data: bytes, name: str, rng: Rng) -> bytes:
        return photos.mutated(data, rng, name.endswith((".csv", ".tsv")))

    def ended(path: Path) -> str:
        def once() -> str:
            end = read(path)
            return "read" if end == "read" else "dropped"

        return _end(path, once)

    return Kind(whole, ended, change)


KINDS = {
    "geotiff": Kind(rasters, read_raster, by_tag), "photos": _of_photos("photos", photos.read_photo),
    "tables": _of_photos("tables", photos.read_table), "stac": Kind(stac, read_stac, by_value),
    "geojson": Kind(geojson, read_vector, by_value), "geopackage": Kind(geopackages, read_vector, by_page),
    "shapefile": Kind(shapefiles, read_vector, by_bytes), "settings": Kind(settings, read_some_settings, by_setting),
}  # fmt: skip


@cache
def _whole(kind: str) -> list[Files]:
    return KINDS[kind].whole()


def damaged(kind: str, number: int) -> Files:
    """The files of one input, the one that is read first; of several any may be damaged, most often that one."""
    rng = np.random.default_rng([number, int(sha256(kind.encode()).hexdigest()[:8], 16)])
    whole = _whole(kind)[number % len(_whole(kind))]
    names = list(whole)
    name = names[0] if rng.random() < 0.6 else names[int(rng.integers(len(names)))]
    return whole | {name: KINDS[kind].change(whole[name], name, rng)}


def outcome(kind: str, number: int, folder: Path) -> str:
    """How one input ends: one of `GOOD`, or what is wrong."""
    files = damaged(kind, number)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    told = _errors(os.getpid())
    before = told.stat().st_size
    try:
        result = KINDS[kind].read(folder / next(iter(files)))
    except BaseException as error:  # noqa: BLE001  # any is a finding
        where = "; ".join(
            f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-4:]
        )
        return f"{type(error).__name__}: {error} at {where}"
    with told.open("rb") as file:
        file.seek(before)
        text = file.read().decode(errors="replace")
    return f"stderr: {text}" if "Traceback" in text or "Exception" in text else result


@cache
def _errors(_: int) -> Path:
    """What this process writes on standard error goes there: a traceback may come from where no exception leads."""
    descriptor, name = mkstemp()
    os.dup2(descriptor, 2)
    return Path(name)


def main(words: list[str]) -> int:
    """Command line."""
    warnings.simplefilter("ignore")
    logging.disable()
    # a link that is damaged may lead out; nothing is asked there
    os.environ |= {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    chosen = list(KINDS) if words[:1] == ["all"] else words[:1]
    status = 0
    for kind in chosen:
        began = time.monotonic()
        _whole(kind)
        print(f"{kind}:", flush=True)
        status |= command(str(__doc__), lambda n, f, kind=kind: outcome(kind, n, f), GOOD, 5000, words[1:])  # type: ignore[misc]
        print(f"{kind}: {time.monotonic() - began:.0f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A folder of chips for tests: images in several projections, with metadata and vector files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
from PIL import Image

#: West, south, east, north of the ground on which the chips lie.
GROUND = (9.500, 47.100, 9.512, 47.108)


def picture(path: Path, width: int, height: int, seed: int = 0, mode: str = "RGB") -> Path:
    """A JPEG or PNG of noise."""
    bands = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, bands), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.squeeze(), mode).save(path, quality=90) if path.suffix != ".png" else Image.fromarray(
        noise.squeeze(), mode
    ).save(path)
    return path


def geotiff(path: Path, crs: str, left: float, top: float, gsd: float, size: tuple[int, int], **profile: Any) -> Path:
    """A north-up GeoTIFF of noise, u8[3]."""
    settings = {
        "driver": "GTiff", "width": size[0], "height": size[1], "count": 3, "dtype": "uint8", "crs": crs,
        "transform": rasterio.transform.from_origin(left, top, gsd, gsd), "photometric": "RGB",
    } | profile  # fmt: skip
    data = np.random.default_rng(len(path.name)).integers(
        1, 255, (settings["count"], size[1], size[0]), dtype=settings["dtype"]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **settings) as target:
        target.write(data)
    return path


def geojson(path: Path, features: list[tuple[dict[str, Any], dict[str, Any]]], **extra: Any) -> Path:
    """A FeatureCollection of (geometry, properties)."""
    rows = [{"type": "Feature", "properties": p, "geometry": g} for g, p in features]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": rows} | extra))
    return path


def point(lon: float, lat: float) -> dict[str, Any]:
    return {"type": "Point", "coordinates": [lon, lat]}


def line(*places: tuple[float, float]) -> dict[str, Any]:
    return {"type": "LineString", "coordinates": [list(p) for p in places]}


def ring(*places: tuple[float, float]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[list(p) for p in (*places, places[0])]]}


def skyscript_size(box: tuple[float, float, float, float], crs: str, gsd: float) -> tuple[int, int]:
    """Pixels of the chip that is cut out of an image of ``crs`` along a lon/lat box, on the grid of its GSD."""
    west, south, east, north = box
    t = np.linspace(0, 1, 101)
    lon = np.concatenate((west + (east - west) * t, np.full(101, east), west + (east - west) * t, np.full(101, west)))
    lat = np.concatenate(
        (np.full(101, south), south + (north - south) * t, np.full(101, north), south + (north - south) * t)
    )
    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
    return (
        math.ceil(x.max() / gsd) - math.floor(x.min() / gsd), math.ceil(y.max() / gsd) - math.floor(y.min() / gsd)
    )  # fmt: skip


def write_chips(base: Path) -> Path:
    """Twelve good chips of four kinds of georeference and three sizes."""
    west, south = GROUND[:2]
    rng = np.random.default_rng(4)
    for k in range(4):  # SkyScript names: Sentinel-2, each of a size of its own
        w, s = west + k * 0.003, south + rng.random() * 0.002
        box = (w, s, w + 0.0012 + 0.0002 * k, s + 0.001)
        picture(base / "images" / f"w{k}_S2_2{k}.jpg", *skyscript_size(box, "EPSG:32632", 10.0), seed=k)
        meta = base / "meta" / f"w{k}_S2_2{k}_meta.json"
        meta.parent.mkdir(exist_ok=True)
        meta.write_text(json.dumps({"bbox": box, "time": [2020, 8, 6, 6, k], "center_tags": {}}))
        objects(base / "osm", f"w{k}_S2_2{k}", box, rng, label=True)
    for k in range(4):  # GeoTIFFs in two zones
        crs = "EPSG:32632" if k < 2 else "EPSG:32633"
        x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(west + k * 0.003, south + 0.004)
        geotiff(base / "tif" / f"own-{k}.tif", crs, round(x), round(y), 2.0, (64, 64))
        objects(
            base / "tif", f"own-{k}", (west + k * 0.003, south + 0.0030, west + k * 0.003 + 0.0015, south + 0.0038), rng
        )
    for k in range(4):  # a bbox with a CRS
        w = west + k * 0.003
        box = (w, south + 0.005, w + 0.0010, south + 0.0056)
        picture(base / "named" / f"named {k}.png", 64, 64, seed=k)
        (base / "named" / f"named {k}.json").write_text(json.dumps({"bbox": box, "crs": "EPSG:2056", "time": 2021}))
        objects(base / "named", f"named {k}", box, rng)
    return base


def objects(
    base: Path, stem: str, box: tuple[float, float, float, float], rng: np.random.Generator, *, label: bool = False
) -> None:
    """Vector files of a chip: points, lines and adjoining buildings inside a box."""

    def tags(**given: str) -> dict[str, str]:
        return {"label": ";".join(f"{k}:{k if v == 'yes' else v}" for k, v in given.items())} if label else given

    west, south, east, north = box
    a, b = (east - west) / 10, (north - south) / 10

    def at(u: float, v: float) -> tuple[float, float]:
        return round(west + u * a, 9), round(south + v * b, 9)

    spots = rng.random((6, 2)) * 10
    geojson(base / f"{stem}_point.geojson", [(point(*at(u, v)), tags(natural="tree")) for u, v in spots.tolist()])
    road = line(at(0, 1), at(4, 1.5), at(10, 1.2))
    geojson(base / f"{stem}_line.geojson", [(road, tags(highway="residential", surface="asphalt"))])
    houses = [
        (ring(at(i, 3), at(i + 1, 3.1), at(i + 1, 4.1), at(i, 4)), tags(building="yes"))
        for i in range(int(rng.integers(2, 8)))
    ]
    wood = ring(at(0, 5), at(6, 5), at(6.5, 9), at(0.2, 8))
    geojson(base / f"{stem}_polygon.geojson", [*houses, (wood, tags(natural="wood"))])

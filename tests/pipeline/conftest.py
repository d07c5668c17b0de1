"""A generated village for tests: an OPL extract, an aerial image in UTM and photos with EXIF GPS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from pyproj import Transformer

WEST, SOUTH, EAST, NORTH = 9.500, 47.100, 9.512, 47.108


@dataclass(frozen=True)
class Village:
    """Paths of the three inputs."""

    osm: Path
    imagery: Path
    photos: Path


def write_opl(path: Path, nodes: list[tuple[int, float, float, str]], ways: list[tuple[int, list[int], str]]) -> Path:
    """Nodes (id, lon, lat, tags) and ways (id, node ids, tags) as OPL text; tags as in OPL: k=v,k=v."""
    lines = [
        f"n{i} v1 dV c1 t2024-06-01T00:00:00Z i1 utest T{tags} x{lon:.7f} y{lat:.7f}" for i, lon, lat, tags in nodes
    ]
    lines += [
        f"w{i} v1 dV c1 t2024-06-01T00:00:00Z i1 utest T{tags} N{','.join(f'n{r}' for r in refs)}"
        for i, refs, tags in ways
    ]
    path.write_text("\n".join(lines) + "\n")
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


def write_utm(path: Path, box: tuple[float, float, float, float], gsd: float, crs: str, pixels: object = None) -> Path:
    """A GeoTIFF in a UTM zone that contains the lon/lat box; ``pixels(x, y)`` gives u8[3,H,W] from CRS coordinates."""
    west, south, east, north = box
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(
        [west, west, east, east], [south, north, south, north]
    )
    left, top = min(x) - 20, max(y) + 20
    width, height = int((max(x) + 20 - left) / gsd), int((top - min(y) + 20) / gsd)
    if callable(pixels):
        xs, ys = np.meshgrid(left + (np.arange(width) + 0.5) * gsd, top - (np.arange(height) + 0.5) * gsd)
        data = pixels(xs, ys)
    else:
        data = np.random.default_rng(3).integers(0, 255, (3, height // 8 + 1, width // 8 + 1), dtype=np.uint8)
        data = data.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    profile = {"driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8", "crs": crs,
               "transform": rasterio.transform.from_origin(left, top, gsd, gsd), "photometric": "RGB"}  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(data)
        target.update_tags(LICENSE="CC0-1.0")
    return path


@pytest.fixture(scope="session")
def village(tmp_path_factory: pytest.TempPathFactory) -> Village:
    """About 150 objects on 900 m × 900 m."""
    folder = tmp_path_factory.mktemp("village")
    rng = np.random.default_rng(5)
    nodes: list[tuple[int, float, float, str]] = []
    ways: list[tuple[int, list[int], str]] = []

    def add(lon: float, lat: float, tags: str = "") -> int:
        nodes.append((len(nodes) + 1, lon, lat, tags))
        return len(nodes)

    for k in range(6):
        lat = SOUTH + (k + 0.5) * (NORTH - SOUTH) / 6
        road = [add(lon, lat + rng.normal() * 1e-5) for lon in np.linspace(WEST, EAST, 12)]
        ways.append((len(ways) + 1, road, "highway=residential,surface=asphalt,name=Weg"))
        for lon in np.linspace(WEST + 4e-4, EAST - 4e-4, 18):
            s, base = 1e-4, lat + 2e-4
            ring = [add(lon, base), add(lon + s, base), add(lon + s, base + s), add(lon, base + s)]
            ways.append((len(ways) + 1, [*ring, ring[0]], "building=house,addr:street=Weg"))
            if rng.random() < 0.2:
                add(lon + s / 2, base + s / 2, "amenity=cafe,name=Zum%20%Weg")
    corner = [add(lon, lat) for lon, lat in ((WEST, SOUTH), (EAST, SOUTH), (EAST, NORTH), (WEST, NORTH))]
    ways.append((len(ways) + 1, [*corner, corner[0]], "landuse=residential"))
    osm = write_opl(folder / "village.opl", nodes, ways)
    imagery = write_utm(folder / "aerial.tif", (WEST, SOUTH, EAST, NORTH), 1.0, "EPSG:32632")
    for i, (lon, lat) in enumerate(rng.uniform((WEST + 1e-3, SOUTH + 1e-3), (EAST - 1e-3, NORTH - 1e-3), (6, 2))):
        write_photo(folder / "photos" / f"{i}.jpg", float(lon), float(lat), heading=60.0 * i)
    write_photo(folder / "photos" / "far.jpg", 10.0, 48.0)
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    return Village(osm, imagery, folder / "photos")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray instance for the whole test session."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()

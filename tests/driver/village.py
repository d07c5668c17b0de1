"""A generated village for tests: an OPL extract, an aerial image in UTM and photos with EXIF GPS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.imagery.scenes import write_utm
from tests.osm.opl import write_opl
from tests.streetview.makers import write_photo

WEST, SOUTH, EAST, NORTH = 9.500, 47.100, 9.512, 47.108


@dataclass(frozen=True)
class Village:
    """Paths of the three inputs."""

    osm: Path
    imagery: Path
    photos: Path


def write_village(folder: Path) -> Village:
    """About 150 objects on 900 m × 900 m."""
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

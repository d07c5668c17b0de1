"""Indexes of extracts for tests, and extracts to fill a mirror with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import osmium
import shapely

from pipeline.regions.index import Index, parse_index

Box = tuple[float, float, float, float]


def entry(
    region: str,
    parent: str | None = None,
    box: Box | None = None,
    iso: tuple[str, ...] = (),
    name: str = "",
    url: bool = True,
) -> dict[str, Any]:
    """One feature of an index."""
    own: dict[str, Any] = {"id": region, "name": name or region.title()}
    own["urls"] = {"pbf": f"{region}.osm.pbf"} if url else {}
    if parent is not None:
        own["parent"] = parent
    for key, codes in (
        ("iso3166-1:alpha2", [c for c in iso if "-" not in c]), ("iso3166-2", [c for c in iso if "-" in c]),
    ):  # fmt: skip
        if codes:
            own[key] = codes
    geometry = None if box is None else shapely.geometry.mapping(shapely.box(*box))
    return {"type": "Feature", "properties": own, "geometry": geometry}


def index(*entries: dict[str, Any]) -> Index:
    """An index of these."""
    return parse_index({"type": "FeatureCollection", "features": list(entries)}, "http://h.org/osm", "the index")


#: Continents with the traps of the real index: a child that is one town of its parent, states that name the continent
#: as their parent, extracts put together from others, a name and a code that several have.
WORLD = [
    entry("europe", None, (-30, 30, 40, 72)),
    entry("north-america", None, (-170, 10, -50, 80)),
    entry("alps", "europe", (5, 44, 15, 48)),
    entry("austria", "europe", (9.4, 44, 17.2, 49), ("AT",)),
    entry("switzerland", "europe", (5, 44, 9.6, 49), ("CH",)),
    entry("monaco", "europe", (7.4, 43.7, 7.5, 43.8), ("MC",)),
    entry("france", "europe", (-5, 42, 8, 51), ("FR",)),
    entry("bretagne", "france", (-5, 42, 1, 51), (), "Bretagne"),
    entry("provence-alpes-cote-d-azur", "france", (1, 42, 8, 51), (), "Provence Alpes-Côte-d'Azur"),
    entry("guadeloupe", "france", (-62, 15.5, -61, 16.6), ("FR-GP",)),
    entry("england", "europe", (-6, 50, 2, 56)),
    entry("greater-london", "england", (-0.5, 51.3, 0.3, 51.7)),
    entry("enfield", "greater-london", (-0.15, 51.6, 0, 51.7)),
    entry("kent", "england", (-6, 50, 2, 56)),
    entry("austria-and-switzerland", "europe", (5, 44, 17.2, 49), ("AT", "CH")),
    entry("senegal-and-gambia", "europe", (-17, 12, -11, 16), ("SN", "GM")),
    entry("georgia", "europe", (40, 41, 47, 44), ("GE",)),
    entry("us", "north-america", (-90, 25, -80, 40), ("US",)),
    entry("us/georgia", "north-america", (-90, 25, -80, 35), ("US-GA",), "Georgia"),
    entry("us/ohio", "north-america", (-90, 35, -80, 40), ("US-OH",), "us/ohio"),
    entry("us-south", "north-america", (-90, 25, -80, 35)),
    entry("spain", "europe", (-9, 36, 3, 43.8), ("ES",)),
    entry("canaries", "europe", (-18, 27, -13, 29), ("ES",)),
    entry("jersey-north", "europe", (-2.3, 49.2, -2, 49.3), (), "Jersey"),
    entry("jersey-south", "europe", (-2.3, 49.1, -2, 49.2), (), "Jersey"),
]


def write_extract(path: Path, box: Box, points: int = 5) -> Path:
    """A small PBF whose header has this box, with some nodes in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = osmium.io.Header()
    header.add_box(osmium.osm.Box(*box))
    west, south, east, north = box
    with osmium.SimpleWriter(str(path), header=header) as writer:
        for i in range(1, points + 1):
            place = (west + (east - west) * i / (points + 1), south + (north - south) * i / (points + 1))
            writer.add_node(osmium.osm.mutable.Node(id=i, version=1, location=place, tags={"amenity": "cafe"}))
    return path

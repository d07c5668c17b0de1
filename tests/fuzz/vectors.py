"""GeoJSON, GeoPackage and Shapefile: objects beside chips, and outlines of regions."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyogrio
import shapely

from pipeline.osm.vectors.objects import read_objects
from pipeline.regions.area import read_polygons
from tests.fuzz.damage import Files, Target, best, by_page, by_value, ended, of_files
from tests.imagery.scenes import LAT, LON


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


def read_vector(path: Path) -> str:
    """As objects of a chip; of GeoJSON also as a region's outline."""
    ends = {ended(lambda: _objects(path), of_files(path))}
    if path.suffix == ".geojson":
        ends.add(ended(lambda: _region(path), of_files(path)))
    return best(ends)


def _objects(path: Path) -> str:
    found = read_objects(path.parent, [path.name])
    return "read" if len(found.osm_id) else "dropped"


def _region(path: Path) -> str:
    return "read" if read_polygons(path).area > 0 else "dropped"


TARGETS = {
    "geojson": Target(geojson, read_vector, by_value), "geopackage": Target(geopackages, read_vector, by_page),
    "shapefile": Target(shapefiles, read_vector),
}  # fmt: skip

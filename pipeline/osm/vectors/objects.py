"""The objects of a chip, from the features of its vector files.

One feature is one object (a multipoint is several). An object without an OSM id gets a negative one, a hash of its
kind, shape and tags: the same object has the same id in every file and run, and no id of OSM is negative. Features that
share an OSM id are parts of one object.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from pipeline.meridian import FARTHEST, has_wide_part, wrapped
from pipeline.osm.cells.cut import densify, keep_dimension
from pipeline.osm.vectors.noding import share_vertices
from pipeline.osm.vectors.tags import feature_id, feature_tags
from pipeline.osm.vectors.vectors import Geometries, Layer, read_vectors
from schemas.errors import InputError, at_the_door
from schemas.features import Kind, ObjectType

#: Kinds by GEOS type id; a collection (7) is what its parts are.
_KIND_OF = np.array([0, 1, 1, 2, 0, 1, 2, 3])
_COLLECTION = 3


@dataclass(frozen=True, eq=False)
class ChipObjects:
    """N objects of one chip, sorted by kind, type and id, and what was left out."""

    osm_type: NDArray[np.uint8]  # [N]
    osm_id: NDArray[np.int64]  # [N]
    kind: NDArray[np.uint8]  # [N]
    tags: list[dict[str, str]]  # [N] as in OSM
    geometry: Geometries  # [N] shapely, lon/lat degrees, densified
    dropped: Counter[tuple[str, str]]  # (file, reason) to the number of features


@dataclass(frozen=True, eq=False)
class _Row:
    """One feature."""

    path: str
    kind: int
    geometry: Any  # shapely
    tags: dict[str, str]
    identity: tuple[ObjectType, int]  # in OSM, or made


def read_objects(folder: Path, paths: Sequence[str]) -> ChipObjects:
    """All objects of a chip's vector files.

    Raises:
        InputError: a file cannot be read; the message names it.
    """
    dropped: Counter[tuple[str, str]] = Counter()
    rows: dict[str, list[_Row]] = {}  # by CRS
    for path in paths:
        try:
            with at_the_door("it cannot be read"):
                for layer in read_vectors(folder / path):
                    rows.setdefault(layer.crs, []).extend(_rows(path, layer, dropped))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    with at_the_door(f"{', '.join(paths)}: the objects cannot be read"):
        placed = [row for crs in sorted(rows) for row in _to_lonlat(rows[crs], crs)]
        return _objects(_on_earth(placed, dropped), dropped)


def _rows(path: str, layer: Layer, dropped: Counter[tuple[str, str]]) -> list[_Row]:
    """The features of a layer that have tags and a geometry of one kind; multipoints as single points."""
    geometry = shapely.force_2d(layer.geometry)
    there = ~shapely.is_missing(geometry)
    xy, owner = shapely.get_coordinates(geometry, return_index=True)
    finite = there & ~shapely.is_empty(geometry)
    finite[owner[~np.isfinite(xy).all(axis=1)]] = False
    kind = _KIND_OF[shapely.get_type_id(geometry)]
    valid = shapely.is_valid(geometry)
    rows: list[_Row] = []
    for i, properties in enumerate(layer.properties):
        tags = feature_tags(properties)
        if not finite[i]:
            dropped[path, "invalid_geometry" if there[i] else "no_geometry"] += 1
            continue
        if not tags:
            dropped[path, "no_tags"] += 1
            continue
        shape, its = geometry[i], int(kind[i])
        if its == _COLLECTION:
            shape, its = _highest(shape)
        if its == Kind.POLYGON and not (valid[i] and shape is geometry[i]):
            shape, repaired = _valid(shape)
            dropped[path, "geometry_repaired"] += repaired
        if shape is None or (its > 0 and shapely.length(shape) == 0) or (its == 2 and shapely.area(shape) == 0):
            dropped[path, "invalid_geometry"] += 1
            continue
        identity = feature_id(properties, layer.ids[i], its)
        parts = shape.geoms if isinstance(shape, shapely.MultiPoint) else [shape]
        rows += [_Row(path, its, part, tags, identity or _made_id(its, part, tags)) for part in parts]
    return rows


def _highest(collection: Any) -> tuple[Any, int]:
    """The parts of the highest dimension of a collection, which clipping leaves where an object touches the box."""
    parts = shapely.get_parts(collection)
    while (shapely.get_type_id(parts) == 7).any():
        parts = np.concatenate([shapely.get_parts(p) for p in parts])
    parts = parts[~shapely.is_empty(parts)]
    kinds = _KIND_OF[shapely.get_type_id(parts)]
    if not len(parts):
        return None, 0
    return shapely.union_all(parts[kinds == kinds.max()]), int(kinds.max())


def _valid(polygon: Any) -> tuple[Any, bool]:
    """A polygon made valid where it crosses itself, and whether it was; None if no area is left."""
    if polygon is None or shapely.is_valid(polygon):
        return polygon, False
    repaired = shapely.make_valid(np.array([polygon], object), method="structure", keep_collapsed=False)
    shape = keep_dimension(repaired, np.array([Kind.POLYGON], np.uint8))[0]
    return shape, shape is not None


@lru_cache(maxsize=64)
def _from_crs(crs: str) -> Transformer | None:
    """Into lon/lat degrees; None for what is in them."""
    source = CRS.from_wkt(crs)
    if source.equals(CRS.from_epsg(4326), ignore_axis_order=True):
        return None
    return Transformer.from_crs(source, "EPSG:4326", always_xy=True)


def _to_lonlat(rows: list[_Row], crs: str) -> list[_Row]:
    """Rows of one CRS in lon/lat degrees; before, their vertices are shared where they run along a box."""
    if not rows:
        return rows
    geometry = share_vertices(np.array([r.geometry for r in rows], object))
    transformer = _from_crs(crs)
    if transformer is not None:
        with at_the_door(f"objects of {rows[0].path} lie outside its CRS"):
            geometry = shapely.transform(geometry, lambda xy: np.stack(transformer.transform(*xy.T), axis=1))
    return [replace(row, geometry=shape) for row, shape in zip(rows, geometry, strict=True)]


def _on_earth(rows: list[_Row], dropped: Counter[tuple[str, str]]) -> list[_Row]:
    """Rows whose coordinates are lon/lat, cut at the 180th meridian, and not around the world."""
    b = shapely.bounds(np.array([r.geometry for r in rows], object)).reshape(-1, 4)
    there = (b[:, 0] >= -FARTHEST) & (b[:, 2] <= FARTHEST) & (b[:, 1] >= -90) & (b[:, 3] <= 90)
    for i in np.flatnonzero(~there).tolist():
        dropped[rows[i].path, "coordinate_out_of_range"] += 1
    rows = [rows[i] for i in np.flatnonzero(there).tolist()]
    shapes = wrapped(np.array([r.geometry for r in rows], object))
    wide = has_wide_part(shapes)
    for i in np.flatnonzero(wide).tolist():
        dropped[rows[i].path, "antimeridian"] += 1
    return [replace(rows[i], geometry=shapes[i]) for i in np.flatnonzero(~wide).tolist()]


def _objects(rows: list[_Row], dropped: Counter[tuple[str, str]]) -> ChipObjects:
    """Rows as objects, each identity once."""
    by_identity: dict[tuple[int, int, int], list[_Row]] = {}
    for row in rows:
        by_identity.setdefault((row.kind, *row.identity), []).append(row)
    keys = sorted(by_identity)
    for key in keys:
        own = by_identity[key]
        if key[2] < 0 or key[0] == Kind.POINT:  # the same shape and tags, or the same node, again
            for row in own[1:]:
                dropped[row.path, "duplicate"] += 1
            del own[1:]
    columns = np.array(keys, np.int64).reshape(-1, 3)
    shapes = [[r.geometry for r in by_identity[k]] for k in keys]
    geometry = np.array([own[0] if len(own) == 1 else shapely.union_all(own) for own in shapes], object)
    tags = [by_identity[k][0].tags for k in keys]
    kind, osm_type = columns[:, 0].astype(np.uint8), columns[:, 1].astype(np.uint8)
    return ChipObjects(osm_type, columns[:, 2], kind, tags, densify(geometry), dropped)


def _made_id(kind: int, geometry: Any, tags: dict[str, str]) -> tuple[ObjectType, int]:
    """Type and negative id of an object that has none in OSM."""
    shape = shapely.to_wkb(shapely.normalize(geometry), byte_order=1)
    text = json.dumps([kind, sorted(tags.items())])
    digest = blake2b(text.encode() + shape, digest_size=8).digest()
    osm_type = ObjectType.NODE if kind == Kind.POINT else ObjectType.WAY
    return osm_type, -(int.from_bytes(digest, "little") >> 1) - 1

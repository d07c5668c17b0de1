"""The world's map: objects of a district numbered and placed, and the file that they make together."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import osmium
import osmium.io
import osmium.osm
from numpy.typing import NDArray
from osmium.osm.mutable import Node
from osmium.osm.mutable import Way as OsmWay

from pipeline.demo.geo import FloatArray
from pipeline.demo.town.block import Tags
from pipeline.demo.town.osm_writer import GENERATOR, META
from pipeline.demo.world.district import District
from pipeline.demo.world.plan import Plan
from pipeline.formats.libosmium import osm_writer

ID_STRIDE = 100_000  # ids of one district, for each type
_FIRST_OWN = 32  # 0: its vertex, 1-11: the edge eastward, 12-22: the edge northward


@dataclass(frozen=True)
class MapPart:
    """Map objects of one district, by rising ids."""

    nodes: NDArray[np.int64]  # (n,) ids
    lonlat: FloatArray  # (n, 2) degrees, seven decimals
    node_tags: dict[int, Tags]
    ways: list[tuple[int, list[int], Tags]]  # id, node ids, tags


def map_part(plan: Plan, district: District) -> MapPart:
    """What the map has of a district; objects wholly beyond the world's tiles are left out."""
    first = _first_id(plan, district.i, district.j)
    at = _lattice(plan, district.i, district.j)
    own = {n: xy for n, xy in at.values() if first <= n < first + ID_STRIDE and plan.inside(xy[None], -700.0)[0]}
    known = {key: n for key, (n, _) in at.items()}
    tags: dict[int, Tags] = {}
    ways: list[tuple[int, list[int], Tags]] = []

    def node(xy: FloatArray, fresh: bool = False) -> int:
        key = _key(xy)
        found = None if fresh else known.get(key)
        if found is None:
            found = first + _FIRST_OWN + len(own)
            own[found] = xy
            if not fresh:
                known[key] = found
        return found

    for xy, said in district.areas:
        if plan.inside(xy).any():
            refs = [node(p) for p in xy]
            ways.append((first + len(ways), [*refs, refs[0]], said))
    for xy, said in district.lines:
        if plan.inside(xy).any():
            ways.append((first + len(ways), [node(p) for p in xy], said))
    for xy, said in district.points:
        if plan.inside(xy[None])[0]:
            tags[node(xy, fresh=True)] = said
    ids = np.array(sorted(own), np.int64)
    places = np.array([own[n] for n in ids.tolist()]).reshape(-1, 2)
    return MapPart(ids, np.round(plan.to_lonlat(places), 7), tags, ways)


def _first_id(plan: Plan, i: int, j: int) -> int:
    return (1 + i + j * plan.extent[0]) * ID_STRIDE


def _key(xy: FloatArray) -> tuple[int, int]:
    return round(float(xy[0]) * 100), round(float(xy[1]) * 100)


def _lattice(plan: Plan, i: int, j: int) -> dict[tuple[int, int], tuple[int, FloatArray]]:
    """Nodes of the roads around a district that have the id of a district: by place, id and metres."""
    found = {}
    for axis, a, b in ((0, i, j), (1, i, j), (0, i, j + 1), (1, i + 1, j)):
        edge = plan.edge(axis, a, b)
        for n, xy in enumerate(edge):
            p, q = (a + (axis == 0), b + (axis == 1)) if n == 12 else (a, b)
            if p < plan.extent[0] and q < plan.extent[1]:
                local = 0 if n in (0, 12) else n + 11 * axis
                found[_key(xy)] = (_first_id(plan, p, q) + local, xy)
    return found


def write_map(plan: Plan, parts: Iterable[MapPart], path: Path) -> dict[str, int]:
    """Write parts, in the order of their ids, as a .osm.pbf. Ways wait in a file: the format wants all nodes first."""
    header = osmium.io.Header()
    header.set("generator", GENERATOR)
    header.set("sorting", "Type_then_ID")
    (west, south), (east, north) = plan.to_lonlat(np.array([(0.0, 0.0), plan.size])).tolist()
    header.add_box(osmium.osm.Box(osmium.osm.Location(west, south), osmium.osm.Location(east, north)))
    waiting = path.with_name(path.name + ".ways")
    counts = {"nodes": 0, "ways": 0}
    try:
        with osm_writer(path, header=header) as writer:
            with waiting.open("w", encoding="utf-8") as out:
                for part in parts:
                    for n, place in zip(part.nodes.tolist(), part.lonlat.tolist(), strict=True):
                        writer.add_node(Node(id=n, location=tuple(place), tags=part.node_tags.get(n, {}), **META))
                    out.writelines(json.dumps(way) + "\n" for way in part.ways)
                    counts["nodes"] += len(part.nodes)
            with waiting.open(encoding="utf-8") as lines:
                for line in lines:
                    number, refs, tags = json.loads(line)
                    writer.add_way(OsmWay(id=number, nodes=refs, tags=tags, **META))
                    counts["ways"] += 1
    finally:
        waiting.unlink(missing_ok=True)
    return counts

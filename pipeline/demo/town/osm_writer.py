"""Writes the demo world as OpenStreetMap PBF, byte-identical on every run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import osmium
import osmium.io
import osmium.osm
from osmium.osm.mutable import Node
from osmium.osm.mutable import Relation as OsmRelation
from osmium.osm.mutable import Way as OsmWay

from pipeline.demo.geo import to_lonlat
from pipeline.demo.town.block import Block, Relation, Way
from pipeline.demo.town.oddities import INVALID_OBJECTS, OUT_OF_RANGE_LONLAT, make_oddities, tile_edge_points
from pipeline.demo.town.world import World
from pipeline.formats.libosmium import osm_writer

GENERATOR = "geoshards-demo"
TIMESTAMP = dt.datetime(2024, 8, 20, 10, 0, 0, tzinfo=dt.UTC)
META = {"version": 1, "visible": True, "timestamp": TIMESTAMP, "changeset": 1, "uid": 1, "user": "geoshards demo"}


def blocks_in_order(world: World) -> Iterator[Block]:
    """Blocks by rising ids, with the vertices on the far edges, then the odd objects."""
    (i0, i1), (j0, j1) = world.plan.extent
    for j in range(j0, j1 + 1):
        for i in range(i0, i1 + 1):
            yield world.block(i, j)
    yield make_oddities(world.plan)


def write_osm(world: World, path: Path) -> dict[str, int]:
    """Write the world's map to a .osm.pbf file; returns the number of objects by type."""
    region = world.plan.region
    header = osmium.io.Header()
    header.set("generator", GENERATOR)
    header.set("sorting", "Type_then_ID")
    header.add_box(
        osmium.osm.Box(osmium.osm.Location(region.west, region.south), osmium.osm.Location(region.east, region.north))
    )
    ways: list[Way] = []
    relations: list[Relation] = []
    nodes = 0
    with osm_writer(path, header=header) as writer:
        exact = _exact_places(world)
        for block in blocks_in_order(world):
            nodes += _write_nodes(writer, block, region.origin, exact)
            ways += block.ways
            relations += block.relations
        # Ways and relations wait in memory: the format wants all nodes first.
        for way in sorted(ways, key=lambda w: w.id):
            writer.add_way(OsmWay(id=way.id, nodes=list(way.refs), tags=way.tags, **META))
        for relation in sorted(relations, key=lambda r: r.id):
            members = [(kind, ref, role) for kind, ref, role in relation.members]
            writer.add_relation(OsmRelation(id=relation.id, members=members, tags=relation.tags, **META))
    return {"nodes": nodes, "ways": len(ways), "relations": len(relations)}


def _exact_places(world: World) -> dict[int, tuple[float, float]]:
    """Longitude/latitude of the few nodes that must not go through the projection."""
    by_what = {what: ref for kind, ref, what in INVALID_OBJECTS if kind == "node"}
    west, north = tile_edge_points(world.plan)
    return {
        by_what["node outside the valid coordinate range"]: OUT_OF_RANGE_LONLAT,
        by_what["point of interest on the west edge of a zoom 17 tile"]: west,
        by_what["point of interest on the north edge of a zoom 17 tile"]: north,
    }


def _write_nodes(
    writer: osmium.SimpleWriter, block: Block, origin: tuple[float, float], exact: dict[int, tuple[float, float]]
) -> int:
    if not block.node_ids:
        return 0
    lonlat = np.round(to_lonlat(np.array(block.node_xy) + origin), 7)
    order = np.argsort(np.array(block.node_ids), kind="stable")
    for k in order.tolist():
        node = block.node_ids[k]
        place = exact.get(node, (float(lonlat[k, 0]), float(lonlat[k, 1])))
        writer.add_node(Node(id=node, location=place, tags=block.node_tags.get(node, {}), **META))
    return len(block.node_ids)

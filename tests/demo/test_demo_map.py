from __future__ import annotations

from collections import Counter

import mercantile
import osmium
import osmium.io
import pytest

from pipeline.demo import DemoFiles
from pipeline.demo.town.oddities import INVALID_OBJECTS
from pipeline.demo.town.plan import Plan


class _Reader(osmium.SimpleHandler):
    def __init__(self) -> None:
        super().__init__()
        self.ids: dict[str, list[int]] = {"node": [], "way": [], "relation": []}
        self.node_tags: dict[int, dict[str, str]] = {}
        self.places: dict[int, tuple[int, int]] = {}
        self.counts: Counter[str] = Counter()
        self.longest = 0
        self.holes: Counter[str] = Counter()
        self.areas: set[tuple[str, int]] = set()
        self.way_nodes: dict[int, list[int]] = {}

    def _count(self, kind: str, tags: dict[str, str]) -> None:
        for key in ("highway", "building", "natural", "landuse", "railway", "leisure", "waterway", "type"):
            if key in tags:
                self.counts[f"{key}={tags[key]}"] += 1
        self.counts[kind] += 1
        self.longest = max([self.longest, *(len(v) for v in tags.values())])

    def node(self, n: osmium.osm.Node) -> None:
        self.ids["node"].append(n.id)
        self.places[n.id] = (n.location.x, n.location.y)
        if n.tags:
            self.node_tags[n.id] = dict(n.tags)
        self._count("node", dict(n.tags))

    def way(self, w: osmium.osm.Way) -> None:
        self.ids["way"].append(w.id)
        self.way_nodes[w.id] = [n.ref for n in w.nodes]
        self._count("way", dict(w.tags))

    def relation(self, r: osmium.osm.Relation) -> None:
        self.ids["relation"].append(r.id)
        self._count("relation", dict(r.tags))

    def area(self, a: osmium.osm.Area) -> None:
        holes = sum(len(list(a.inner_rings(ring))) for ring in a.outer_rings())
        if a.num_rings()[0]:
            self.areas.add(("way" if a.from_way() else "relation", a.orig_id()))
        for key in ("natural", "landuse", "building"):
            if key in a.tags and holes:
                self.holes[f"{key}={a.tags[key]}"] += holes


@pytest.fixture(scope="session")
def map_content(small_demo: DemoFiles) -> _Reader:
    reader = _Reader()
    reader.apply_file(str(small_demo.osm), locations=True)
    return reader


def test_file_is_sorted_with_unique_ids_and_has_the_box(
    map_content: _Reader, small_demo: DemoFiles, small_plan: Plan
) -> None:
    for ids in map_content.ids.values():
        assert ids == sorted(set(ids))
    reader = osmium.io.Reader(str(small_demo.osm))
    box = reader.header().box()
    reader.close()
    r = small_plan.region
    corners = (box.bottom_left.lon, box.bottom_left.lat, box.top_right.lon, box.top_right.lat)
    assert corners == pytest.approx((r.west, r.south, r.east, r.north), abs=1e-7)


@pytest.mark.parametrize(("kind", "ref", "what"), INVALID_OBJECTS, ids=[w for _, _, w in INVALID_OBJECTS])
def test_every_odd_object_is_in_the_file(map_content: _Reader, kind: str, ref: int, what: str) -> None:
    assert ref in map_content.ids[kind]


def test_invalid_areas_do_not_assemble_and_valid_odd_ones_do(map_content: _Reader) -> None:
    by_what = {what: (kind, ref) for kind, ref, what in INVALID_OBJECTS}
    for what in ("self-crossing building outline (bow-tie)", "multipolygon whose outer ring is not closed"):
        assert by_what[what] not in map_content.areas
    assert by_what["building with the same geometry as way 9000000007"] in map_content.areas
    assert by_what["closed highway=service with area=yes"] in map_content.areas


def test_multipolygons_have_their_holes(map_content: _Reader) -> None:
    assert map_content.holes["building=commercial"] >= 1


def test_town_has_every_kind_of_object(map_content: _Reader) -> None:
    for key in (
        "highway=primary", "highway=secondary", "highway=residential", "highway=pedestrian", "highway=crossing",
        "highway=bus_stop", "railway=rail", "building=train_station", "building=church", "building=house",
        "building=apartments", "natural=tree", "landuse=residential", "landuse=industrial", "leisure=park",
        "type=multipolygon", "type=boundary", "type=route", "type=site",
    ):  # fmt: skip
        assert map_content.counts[key] > 0, key


def test_land_use_neighbours_share_nodes(map_content: _Reader, small_plan: Plan) -> None:
    used: Counter[int] = Counter()
    for refs in map_content.way_nodes.values():
        used.update(set(refs))
    assert sum(1 for n in used.values() if n >= 3) > 200


def test_way_nodes_exist_except_where_said(map_content: _Reader) -> None:
    have = set(map_content.ids["node"])
    odd = {ref for kind, ref, _ in INVALID_OBJECTS if kind == "way"}
    broken = {w for w, refs in map_content.way_nodes.items() if not have.issuperset(refs)}
    assert broken
    assert broken <= odd


def test_edge_points_lie_on_tile_edges(map_content: _Reader) -> None:
    for kind, ref, what in INVALID_OBJECTS:
        if kind == "node" and "edge of a zoom 17 tile" in what:
            x, y = (v / 1e7 for v in map_content.places[ref])
            tile = mercantile.bounds(mercantile.tile(x + 1e-6, y - 1e-6, 17))
            offset = abs(x - tile.west) if "west" in what else abs(y - tile.north)
            assert offset <= 1e-7


def test_odd_points_of_interest_are_in_the_file(map_content: _Reader) -> None:
    names = {tags.get("name") for tags in map_content.node_tags.values()}
    assert {"Nowhere", "Edge west", "Edge north"} <= names


def test_values_reach_255_characters_and_several_scripts(map_content: _Reader) -> None:
    assert map_content.longest == 255
    text = "".join(v for tags in map_content.node_tags.values() for v in tags.values())
    assert any("\u4e00" <= c <= "\u9fff" for c in text)
    assert any("\u0600" <= c <= "\u06ff" for c in text)
    assert "😀" in text
    assert "\x01" in text

"""Exploded tokens: every part an object, as GeoLink has them, and nothing else changed."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipeline.osm.features import FeatureBatch
from pipeline.rules import load_rules
from pipeline.tokens.build import build_tokens
from schemas.footprint import Footprint
from schemas.relations import Relation
from schemas.tokens import OsmTokens
from tests.tokens.building import STEP, in_pixels
from tests.tokens.oracle import NOISE, atoms, cover_of, relation_of

SQUARE = shapely.box(0, 0, 64, 64)
COMB = shapely.Polygon([(-9, 10), (30, 10), (30, 20), (-1, 20), (-1, 30), (30, 30), (30, 40), (-9, 40)])
ZIGZAG = shapely.LineString([(10, 50), (10, 70), (20, 70), (20, 50), (30, 50), (30, 70)])
ISLANDS = shapely.MultiPolygon([shapely.box(40, 2, 44, 6), shapely.box(50, 2, 58, 6), shapely.box(90, 2, 99, 6)])


def exploded(shapes: list[Any], explode: bool = True) -> OsmTokens:
    batch, footprint = in_pixels(shapes)
    return build_tokens(batch, [footprint], (4, 4), explode=explode).tokens[0]


def parts_of(shape: Any) -> list[Any]:
    """Parts of what the square leaves of a shape, in its own dimension and not along the neighbour's side alone."""
    dimension = shapely.get_dimensions(shape)
    if dimension == 0:
        return [shape] if 0 <= shape.x < 64 and 0 <= shape.y < 64 else []
    left = shape if shape.within(SQUARE) else shape.intersection(SQUARE)
    found = [p for p in atoms(left) if shapely.get_dimensions(p) == dimension]
    if dimension == 1:
        return [p for p in found if p.length > NOISE and p.bounds[0] < 64 and p.bounds[1] < 64]
    return [p for p in found if p.area > NOISE]


def geometry_of(tokens: OsmTokens, n: int) -> Any:
    """An object's shape from its snapped vertices."""
    rings = range(tokens.object_ring_offsets[n], tokens.object_ring_offsets[n + 1])
    xy = [tokens.vertices[tokens.ring_offsets[r] : tokens.ring_offsets[r + 1]] / 65535 * 64 for r in rings]
    if tokens.kind[n] == 2:
        return shapely.Polygon(xy[0], xy[1:])
    return shapely.LineString(xy[0]) if tokens.kind[n] else shapely.Point(xy[0][0])


def test_every_part_is_an_object_in_the_order_of_its_feature() -> None:
    tokens = exploded([COMB, ZIGZAG, ISLANDS, shapely.Point(5, 5)])
    assert tokens.kind.tolist() == [0, 1, 1, 2, 2, 2, 2]
    assert tokens.osm_id.tolist() == [3, 1, 1, 0, 0, 2, 2]
    assert tokens.tag_ids.tolist() == tokens.osm_id.tolist()
    assert np.diff(tokens.object_ring_offsets).tolist() == [1] * 7
    assert (tokens.extent[3:] * 64**2).tolist() == pytest.approx([300, 300, 16, 32])
    assert tokens.region_count[tokens.region_tag_id == 2].tolist() == [2]
    assert tokens.problem() is None


TILE = st.integers(-4, 20).map(lambda n: n * 4)
PLACE = st.tuples(TILE, TILE)


@st.composite
def shapes(draw: st.DrawFn) -> Any:
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return shapely.Point(draw(PLACE))
    if kind == 1:
        line = shapely.LineString(draw(st.lists(PLACE, min_size=2, max_size=6, unique=True)))
        return line if line.is_simple else shapely.Point(1, 1)
    (x, y), (u, v) = draw(PLACE), draw(PLACE)
    box = shapely.box(x, y, x + 40, y + 24)
    if kind == 2:
        return box
    rest = box.difference(shapely.box(u, v, u + 12, v + 40))
    return rest if rest.area else box


@given(st.lists(shapes(), min_size=1, max_size=6))
def test_exploded_tokens_are_those_of_the_parts(found: list[Any]) -> None:
    tokens = exploded(found)
    assert tokens.problem() is None
    kind = [int(shapely.get_dimensions(s)) for s in found]
    order = sorted(range(len(found)), key=lambda n: (kind[n], n))
    objects = [(n, p) for n in order for p in parts_of(found[n])]
    assert tokens.osm_id.tolist() == [n for n, _ in objects]
    # Parts of one feature may come in any order, but in the same one everywhere: match them by shape.
    matched = []
    for n, group in groupby(range(len(tokens)), key=lambda i: int(tokens.osm_id[i])):
        left = [p for m, p in objects if m == n]
        for i in group:
            best = min(left, key=lambda p: p.hausdorff_distance(geometry_of(tokens, i)))
            assert best.hausdorff_distance(geometry_of(tokens, i)) < 2e-3
            left.remove(best)
            matched.append(best)
    footprint = Footprint("chip-a", "EPSG:4326", (STEP, 0, 9.0, 0, -STEP, 47.0), 64, 64)
    cells = tokens.patch_object.astype(int) * 16 + tokens.patch_cell
    cover = dict(zip(cells.tolist(), tokens.patch_cover.tolist(), strict=True))
    expected = {
        i * 16 + c: v
        for i, p in enumerate(matched)
        for c, v in cover_of(p, int(tokens.kind[i]), footprint, (4, 4)).items()
    }
    assert cover == pytest.approx(expected, rel=1e-6)
    relations = dict(zip(zip(*tokens.edges.tolist(), strict=True), tokens.relation.tolist(), strict=True))
    for j, b in enumerate(matched):
        for i, a in enumerate(matched[:j]):
            code = relation_of(a, b)
            assert relations.get((i, j), Relation.DELAUNAY) == (Relation.DELAUNAY if code is None else code)


@given(st.lists(shapes(), min_size=1, max_size=6))
def test_exploding_changes_neither_tags_nor_sums_of_area_and_length(found: list[Any]) -> None:
    one, many = exploded(found, False), exploded(found)
    assert one.region_tag_id.tolist() == many.region_tag_id.tolist()
    assert many.region_area.tolist() == pytest.approx(one.region_area.tolist(), rel=1e-6)
    assert set(one.osm_id.tolist()) == set(many.osm_id.tolist())
    assert len(many) >= len(one)
    if len(many) == len(one):
        assert one.to_bytes() == many.to_bytes()


def test_parts_of_one_feature_draw_their_own_anchors() -> None:
    boxes = shapely.MultiPolygon([shapely.box(0, 0, 16, 16), shapely.box(32, 0, 48, 16), shapely.box(0, 32, 16, 48)])
    anchors = exploded([boxes]).anchors.astype(float) * 64
    drawn = anchors[:, 1:] - anchors[:, :1]
    assert len(np.unique(np.round(drawn.reshape(3, -1), 2), axis=0)) == 3
    assert (anchors == exploded([boxes]).anchors.astype(float) * 64).all()


def test_a_part_along_the_neighbours_side_is_left_to_it() -> None:
    line = shapely.LineString([(10, 10), (20, 10), (20, 70), (30, 70), (30, 64), (50, 64)])
    assert exploded([line]).extent.tolist() == pytest.approx([64 / 64])


def test_rasters_do_not_depend_on_it() -> None:
    batch, footprint = in_pixels([COMB, ZIGZAG, ISLANDS])
    painted = FeatureBatch(**{n: getattr(batch, n) for n in FeatureBatch.__dataclass_fields__ if n != "paint"},
                           paint=np.array([24, 31, 16], np.uint16))  # fmt: skip
    paint, gsd = load_rules().paint, np.ones(1)
    one, many = (build_tokens(painted, [footprint], paint=paint, gsd=gsd, explode=e).rasters for e in (False, True))
    assert one is not None
    assert many is not None
    assert (one == many).all()
    assert set(np.unique(one)) == {0, 16, 24, 31}

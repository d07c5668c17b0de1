"""Relation codes against shapely's predicates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas.relations import DISJOINT, INVERSE, Relation, classify, classify_all
from tests.tokens.oracle import relation_of

GRID = st.tuples(st.integers(0, 4), st.integers(0, 4))


@st.composite
def shapes(draw: st.DrawFn) -> Any:
    """Points, lines and polygons on a small grid, where contacts of every kind are frequent."""
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return shapely.Point(draw(GRID))
    if kind == 1:
        line = shapely.LineString(draw(st.lists(GRID, min_size=2, max_size=4)))
        assume(line.length > 0)
        return line
    if kind == 2:
        (x, y), (w, h) = draw(GRID), draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        hole = shapely.box(x + 1, y + 1, x + 2, y + 2) if w == h == 3 and draw(st.booleans()) else shapely.Point()
        return shapely.box(x, y, x + w, y + h).difference(hole)
    if kind == 3:
        parts = [shapely.box(x, y, x + 1, y + 1) for x, y in draw(st.lists(GRID, min_size=1, max_size=3))]
        return shapely.union_all(parts)
    hull = shapely.convex_hull(shapely.MultiPoint(draw(st.lists(GRID, min_size=3, max_size=5))))
    assume(hull.geom_type == "Polygon")
    return hull


def code(a: Any, b: Any) -> int:
    return classify(shapely.relate(a, b), shapely.get_dimensions(a), shapely.get_dimensions(b))


@settings(max_examples=600)
@given(shapes(), shapes())
def test_codes_agree_with_predicates_by_the_documented_precedence(a: Any, b: Any) -> None:
    expected = relation_of(a, b)
    assert code(a, b) == (DISJOINT if expected is None else expected)


@settings(max_examples=600)
@given(shapes(), shapes())
def test_the_code_of_the_turned_pair_is_the_inverse(a: Any, b: Any) -> None:
    forward, back = code(a, b), code(b, a)
    if forward == DISJOINT:
        assert back == DISJOINT
    else:
        assert back == INVERSE[forward]
    matrix = shapely.relate(a, b)
    turned = "".join(matrix[i] for i in (0, 3, 6, 1, 4, 7, 2, 5, 8))
    assert classify(turned, shapely.get_dimensions(b), shapely.get_dimensions(a)) == back


def test_every_code_of_a_real_pair_occurs() -> None:
    p, q = shapely.Point(1, 1), shapely.box(0, 0, 2, 2)
    pairs = [
        (q, q, Relation.EQUALS), (q, shapely.box(2, 0, 3, 1), Relation.TOUCHES), (p, q, Relation.WITHIN),
        (q, p, Relation.CONTAINS), (shapely.box(0, 0, 1, 1), q, Relation.COVERED_BY),
        (q, shapely.box(0, 0, 1, 1), Relation.COVERS),
        (shapely.LineString([(-1, 1), (3, 1)]), q, Relation.CROSSES), (q, shapely.box(1, 1, 3, 3), Relation.OVERLAPS),
        (p, shapely.Point(2, 2), DISJOINT), (shapely.Point(2, 1), q, Relation.TOUCHES),
        (shapely.LineString([(0, 0), (2, 0)]), q, Relation.TOUCHES),
    ]  # fmt: skip
    for a, b, expected in pairs:
        assert code(a, b) == expected


def test_inverse_is_an_involution_on_every_code_and_read_only() -> None:
    assert INVERSE.shape == (len(Relation),)
    assert (INVERSE[INVERSE] == np.arange(len(Relation))).all()
    changed = {Relation(i).name for i in np.flatnonzero(np.arange(len(Relation)) != INVERSE)}
    assert changed == {"WITHIN", "CONTAINS", "COVERED_BY", "COVERS"}
    with pytest.raises(ValueError, match="read-only"):
        INVERSE[0] = 1


@given(st.lists(st.tuples(shapes(), shapes()), max_size=8))
def test_many_pairs_at_once_give_what_one_at_a_time_gives(pairs: list[tuple[Any, Any]]) -> None:
    matrices = np.array([shapely.relate(a, b) for a, b in pairs], dtype="U9")
    dims = np.array([[shapely.get_dimensions(a), shapely.get_dimensions(b)] for a, b in pairs], np.uint8).reshape(-1, 2)
    found = classify_all(matrices, dims[:, 0], dims[:, 1])
    assert found.dtype == np.uint8
    assert found.tolist() == [code(a, b) for a, b in pairs]

"""Packed geometry and the ragged-array steps, against plain Python lists."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geometry.packed import PackedGeometry, expand, ranges

NESTED = st.lists(
    st.tuples(
        st.integers(0, 2), st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4), max_size=3)
    ),
    max_size=6,
)
Nested = list[tuple[int, list[list[tuple[int, int]]]]]


def packed(nested: Nested) -> PackedGeometry:
    rings = [ring for _, rs in nested for ring in rs]
    return PackedGeometry(
        np.array([k for k, _ in nested], np.uint8),
        np.array([v for ring in rings for v in ring], float).reshape(-1, 2),
        np.concatenate(([0], np.cumsum([len(r) for r in rings]))).astype(np.int64),
        np.concatenate(([0], np.cumsum([len(rs) for _, rs in nested]))).astype(np.int64),
    )


def unpacked(g: PackedGeometry) -> Nested:
    return [
        (
            int(g.kind[n]),
            [
                [(int(x), int(y)) for x, y in g.vertices[g.ring_offsets[r] : g.ring_offsets[r + 1]]]
                for r in range(g.object_ring_offsets[n], g.object_ring_offsets[n + 1])
            ],
        )
        for n in range(len(g))
    ]


@given(NESTED, st.data())
def test_take_gives_the_chosen_objects_in_their_order(nested: Nested, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(nested) - 1), max_size=8)) if nested else []
    assert unpacked(packed(nested).take(np.array(chosen, np.int64))) == [nested[c] for c in chosen]


@given(NESTED, st.booleans())
def test_edges_join_the_vertices_of_a_ring_and_no_others(nested: Nested, closed: bool) -> None:
    expected = []
    for n, (_, rings) in enumerate(nested):
        for ring in rings:
            expected += [(a, b, n) for a, b in itertools.pairwise(ring)]
            expected += [(ring[-1], ring[0], n)] if closed and ring else []
    start, end, owner = packed(nested).edges(closed=closed)
    assert [
        (tuple(a), tuple(b), n) for a, b, n in zip(start.tolist(), end.tolist(), owner.tolist(), strict=True)
    ] == expected


@given(NESTED)
def test_every_vertex_knows_its_ring_and_every_ring_its_object(nested: Nested) -> None:
    g = packed(nested)
    assert g.ring_object.tolist() == [n for n, (_, rings) in enumerate(nested) for _ in rings]
    rings = [ring for _, rs in nested for ring in rs]
    assert g.vertex_ring.tolist() == [r for r, ring in enumerate(rings) for _ in ring]


@given(st.lists(st.integers(0, 4), max_size=8), st.data())
def test_ranges_lists_the_slices_one_after_another(counts: list[int], data: st.DataObject) -> None:
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    chosen = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=8)) if counts else []
    flat, own = ranges(offsets, np.array(chosen, np.int64))
    slices = [list(range(offsets[c], offsets[c + 1])) for c in chosen]
    assert flat.tolist() == [i for s in slices for i in s]
    assert np.diff(own).tolist() == [len(s) for s in slices]


@given(st.lists(st.integers(0, 5), max_size=10))
def test_expand_names_row_and_place_of_every_element(counts: list[int]) -> None:
    row, k = expand(np.array(counts, np.int64))
    assert list(zip(row.tolist(), k.tolist(), strict=True)) == [(r, i) for r, n in enumerate(counts) for i in range(n)]

"""Tokens of a window of a footprint: geometry clipped again, anchors, extent, cover and summary reckoned again.

Relations are facts about the ground: those between objects that are left stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry.anchors import anchors, object_seed
from geometry.clip import clip_to_unit, line_length, signed_area
from geometry.cover import patch_cover
from geometry.packed import Floats, Ints, PackedGeometry, expand, ranges
from schemas.features import Kind
from schemas.tokens import OsmTokens, empty_tokens, snap, unsnap

Window = tuple[float, float, float, float]  # left, top, right, bottom, normalised image coordinates

#: Share of the window, or of its side, below which what a cut leaves is rounding of the snapped vertices.
_NOISE = 1e-9


def crop_each(
    parts: Sequence[OsmTokens], windows: Sequence[Window], sizes: Sequence[tuple[float, float]],
    grid: tuple[int, int] | None = None, seeds: Sequence[int] | None = None,
) -> list[OsmTokens]:  # fmt: skip
    """Tokens of what lies in a window of each of many footprints, in normalised coordinates of the window.

    Args:
        parts: tokens of whole footprints.
        windows: left < right and top < bottom; may reach out of the footprint, where nothing is known.
        sizes: width and height of the window in pixels, or in any unit that is square on the ground.
        grid: rows and columns of the patch grid; that of each of ``parts`` where None.
        seeds: of the polygon anchors.
    """
    shapes = [grid or (int(t.patch_grid[0]), int(t.patch_grid[1])) for t in parts]
    salts = list(seeds or [0] * len(parts))
    if len(set(shapes)) > 1:
        found: dict[int, OsmTokens] = {}
        for shape in set(shapes):
            mine = [i for i, s in enumerate(shapes) if s == shape]
            some, own = [parts[i] for i in mine], [windows[i] for i in mine]
            cropped = crop_each(some, own, [sizes[i] for i in mine], shape, [salts[i] for i in mine])
            found |= zip(mine, cropped, strict=True)
        return [found[i] for i in range(len(parts))]
    if not parts:
        return []
    counts = np.array([len(t) for t in parts], np.int64)
    owner = np.repeat(np.arange(len(parts)), counts)
    joined = parts[0] if len(parts) == 1 else _join(parts)
    place = np.array(windows, np.float64).reshape(-1, 2, 2)[owner]
    whole = PackedGeometry(
        joined.kind, unsnap(joined.vertices), joined.ring_offsets.astype(np.int64),
        joined.object_ring_offsets.astype(np.int64),
    )  # fmt: skip
    of_vertex = whole.ring_object[whole.vertex_ring]
    corner, extent = place[:, 0], place[:, 1] - place[:, 0]
    vertices = (whole.vertices - corner[of_vertex]) / extent[of_vertex]
    clipped, belongs = clip_to_unit(replace(whole, vertices=vertices), _NOISE)
    chosen = np.flatnonzero(belongs)
    salt = np.array([int(s) % 2**64 for s in salts], np.uint64)[owner[chosen]]
    size = np.array(sizes, np.float64).reshape(-1, 2)[owner[chosen]]
    left = _retokenise(joined, clipped.take(chosen), chosen, size, shapes[0], salt)
    return _split(left, np.bincount(owner[chosen], minlength=len(parts)))


def _retokenise(
    tokens: OsmTokens, kept: PackedGeometry, chosen: Ints, size: Floats, grid: tuple[int, int], salt: NDArray[np.uint64]
) -> OsmTokens:
    """Tokens of the ``chosen`` objects i64[M], rising, with the geometry ``kept``, normalised; no summary yet.

    ``size`` f64[M,2] is that of the footprint of each in pixels, ``salt`` u64[M] its seed.
    """
    of_vertex = kept.ring_object[kept.vertex_ring]
    scaled = replace(kept, vertices=kept.vertices * size[of_vertex])
    square = size.prod(axis=1)
    area, length = signed_area(scaled) / square, line_length(scaled) / np.sqrt(square)
    amount = np.select([kept.kind == Kind.POLYGON, kept.kind == Kind.LINE], [np.maximum(area, 0.0), length], 0.0)
    osm_type, osm_id = tokens.osm_type[chosen], tokens.osm_id[chosen]
    place = anchors(scaled, object_seed(osm_type, osm_id, salt)) / size[:, None]
    patch_object, patch_cell, cover = patch_cover(scaled, size, grid)
    at, tag_offsets = ranges(tokens.tag_offsets.astype(np.int64), chosen)
    edges, relation = _edges(tokens, chosen)
    none = np.zeros(0, np.float32)
    return OsmTokens(
        kind=kept.kind,
        osm_type=osm_type,
        osm_id=osm_id,
        tag_offsets=tag_offsets.astype(np.int32),
        tag_ids=tokens.tag_ids[at],
        anchors=place.astype(np.float32),
        extent=amount.astype(np.float32),
        vertices=snap(kept.vertices),
        ring_offsets=kept.ring_offsets.astype(np.int32),
        object_ring_offsets=kept.object_ring_offsets.astype(np.int32),
        edges=edges,
        relation=relation,
        patch_grid=np.array(grid, np.uint16),
        patch_cell=patch_cell.astype(np.uint16),
        patch_object=patch_object.astype(np.int32),
        patch_cover=cover.astype(np.float32),
        region_tag_id=np.zeros(0, np.int64),
        region_count=np.zeros(0, np.int32),
        region_area=none,
        region_length=none,
    )


def _join(parts: Sequence[OsmTokens]) -> OsmTokens:
    """The objects of many footprints as if of one, without their patches and summaries."""

    def flat(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(t, name) for t in parts])

    def offsets(name: str) -> NDArray[np.int32]:
        lengths = [np.diff(getattr(t, name)) for t in parts]
        return np.concatenate(([0], np.cumsum(np.concatenate(lengths)))).astype(np.int32)

    before = np.cumsum([len(t) for t in parts]) - [len(t) for t in parts]
    edges = [t.edges + np.int32(b) for t, b in zip(parts, before, strict=True)]
    flats = {n: flat(n) for n in ("kind", "osm_type", "osm_id", "tag_ids", "vertices", "relation")}
    ends: dict[str, Any] = {n: offsets(n) for n in ("tag_offsets", "ring_offsets", "object_ring_offsets")}
    return replace(empty_tokens(), edges=np.concatenate(edges, axis=1), **flats, **ends)


def _split(tokens: OsmTokens, counts: Ints) -> list[OsmTokens]:
    """The footprints of ``counts`` objects each, with their summaries: the inverse of joining."""
    last = np.cumsum(counts)
    first = last - counts
    ring, tag = tokens.object_ring_offsets[[first, last]], tokens.tag_offsets[[first, last]]
    vertex = tokens.ring_offsets[ring]
    # Both ends of an edge lie in one footprint, and edges and patches keep the order of the footprints.
    footprint = np.searchsorted(last, tokens.edges[0], "right")
    edge = np.searchsorted(footprint, [np.arange(len(counts)), np.arange(1, len(counts) + 1)])
    patch = np.searchsorted(tokens.patch_object, [first, last])
    regions = _summaries(tokens, counts)
    found = []
    for i, (a, b) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        (r, rr), (t, tt), (v, vv), (e, ee), (p, pp) = (x[:, i].tolist() for x in (ring, tag, vertex, edge, patch))
        found.append(OsmTokens(
            tokens.kind[a:b], tokens.osm_type[a:b], tokens.osm_id[a:b], tokens.tag_offsets[a : b + 1] - np.int32(t),
            tokens.tag_ids[t:tt], tokens.anchors[a:b], tokens.extent[a:b], tokens.vertices[v:vv],
            tokens.ring_offsets[r : rr + 1] - np.int32(v), tokens.object_ring_offsets[a : b + 1] - np.int32(r),
            tokens.edges[:, e:ee] - np.int32(a), tokens.relation[e:ee], tokens.patch_grid,
            tokens.patch_cell[p:pp], tokens.patch_object[p:pp] - np.int32(a), tokens.patch_cover[p:pp], *regions[i],
        ))  # fmt: skip
    return found


def take_objects(tokens: OsmTokens, chosen: Ints) -> OsmTokens:
    """Tokens of the ``chosen`` objects i64[M], rising, as they are; the summary is reckoned again."""
    at, tag_offsets = ranges(tokens.tag_offsets.astype(np.int64), chosen)
    rings, object_ring_offsets = ranges(tokens.object_ring_offsets.astype(np.int64), chosen)
    points, ring_offsets = ranges(tokens.ring_offsets.astype(np.int64), rings)
    edges, relation = _edges(tokens, chosen)
    number = np.full(len(tokens), -1, np.int32)
    number[chosen] = np.arange(len(chosen), dtype=np.int32)
    patch = np.flatnonzero(number[tokens.patch_object] >= 0)
    kind, extent, tag_ids = tokens.kind[chosen], tokens.extent[chosen], tokens.tag_ids[at]
    region = summary(kind, extent.astype(np.float64), tag_offsets, tag_ids)
    return OsmTokens(
        kind=kind,
        osm_type=tokens.osm_type[chosen],
        osm_id=tokens.osm_id[chosen],
        tag_offsets=tag_offsets.astype(np.int32),
        tag_ids=tag_ids,
        anchors=tokens.anchors[chosen],
        extent=extent,
        vertices=tokens.vertices[points],
        ring_offsets=ring_offsets.astype(np.int32),
        object_ring_offsets=object_ring_offsets.astype(np.int32),
        edges=edges,
        relation=relation,
        patch_grid=tokens.patch_grid,
        patch_cell=tokens.patch_cell[patch],
        patch_object=number[tokens.patch_object[patch]],
        patch_cover=tokens.patch_cover[patch],
        region_tag_id=region[0],
        region_count=region[1],
        region_area=region[2],
        region_length=region[3],
    )


def _edges(tokens: OsmTokens, chosen: Ints) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Relations both of whose ends are chosen, by their new numbers."""
    number = np.full(len(tokens), -1, np.int32)
    number[chosen] = np.arange(len(chosen), dtype=np.int32)
    ends = number[tokens.edges]
    both = (ends >= 0).all(axis=0)
    return ends[:, both], tokens.relation[both]


def summary(
    kind: NDArray[np.uint8], extent: NDArray[np.float64], offsets: Ints, ids: Ints
) -> tuple[Ints, NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Distinct tag ids i64[K] with count of objects, summed area and summed length, each [K]."""
    owner, _ = expand(np.diff(offsets))
    distinct, where = np.unique(ids, return_inverse=True)
    return distinct, *_sums(kind, extent, owner, where.reshape(-1), len(distinct))


Sums = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]


def _sums(kind: NDArray[np.uint8], extent: NDArray[np.float64], owner: Ints, where: Ints, rows: int) -> Sums:
    """Count, area and length of the objects ``owner`` by the row ``where`` of each of their tags."""
    count = np.bincount(where, minlength=rows).astype(np.int32)
    area = np.bincount(where, np.where(kind == Kind.POLYGON, extent, 0)[owner], rows).astype(np.float32)
    length = np.bincount(where, np.where(kind == Kind.LINE, extent, 0)[owner], rows).astype(np.float32)
    return count, area, length


def _summaries(tokens: OsmTokens, counts: Ints) -> list[tuple[Ints, *Sums]]:
    """The summary of each of many footprints of ``counts`` objects."""
    owner, _ = expand(np.diff(tokens.tag_offsets))
    ids, tag = np.unique(tokens.tag_ids, return_inverse=True)
    footprint = np.repeat(np.arange(len(counts)), counts)[owner]
    rows, where = np.unique(footprint * len(ids) + tag.reshape(-1), return_inverse=True)
    sums = _sums(tokens.kind, tokens.extent.astype(np.float64), owner, where.reshape(-1), len(rows))
    ends = np.searchsorted(rows, np.arange(len(counts) + 1) * max(1, len(ids)))
    named = ids[rows % max(1, len(ids))]
    count, area, length = sums
    return [(named[a:b], count[a:b], area[a:b], length[a:b]) for a, b in pairwise(ends.tolist())]

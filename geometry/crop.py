"""Tokens of a window of a footprint: geometry clipped again, anchors, extent, cover and summary reckoned again.

Relations are facts about the ground: those between objects that are left stay as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geometry.anchors import anchors, object_seed
from geometry.clip import clip_to_unit, line_length, signed_area
from geometry.cover import patch_cover
from geometry.packed import Ints, PackedGeometry, expand, ranges
from schemas.features import Kind
from schemas.tokens import OsmTokens, snap, unsnap

Window = tuple[float, float, float, float]  # left, top, right, bottom, normalised image coordinates

#: Share of the window, or of its side, below which what a cut leaves is rounding of the snapped vertices.
_NOISE = 1e-9


def crop_tokens(
    tokens: OsmTokens, window: Window, size: tuple[float, float] = (1.0, 1.0), grid: tuple[int, int] | None = None,
    seed: int = 0,
) -> OsmTokens:  # fmt: skip
    """Tokens of what lies in ``window``, in normalised coordinates of the window.

    Args:
        tokens: of the whole footprint.
        window: left < right and top < bottom; may reach out of the footprint, where nothing is known.
        size: width and height of the window in pixels, or in any unit that is square on the ground.
        grid: rows and columns of the patch grid; that of ``tokens`` where None.
        seed: of the polygon anchors.
    """
    corner, extent = np.array(window[:2]), np.array(window[2:]) - np.array(window[:2])
    whole = PackedGeometry(
        tokens.kind, (unsnap(tokens.vertices) - corner) / extent,
        tokens.ring_offsets.astype(np.int64), tokens.object_ring_offsets.astype(np.int64),
    )  # fmt: skip
    clipped, belongs = clip_to_unit(whole, _NOISE)
    return retokenise(tokens, clipped, np.flatnonzero(belongs), size, grid, seed)


def retokenise(
    tokens: OsmTokens,
    geometry: PackedGeometry,
    chosen: Ints,
    size: tuple[float, float] = (1.0, 1.0),
    grid: tuple[int, int] | None = None,
    seed: int = 0,
) -> OsmTokens:
    """Tokens of the ``chosen`` objects i64[M], rising, with new geometry: normalised, of all [N] objects."""
    shape = grid or (int(tokens.patch_grid[0]), int(tokens.patch_grid[1]))
    kept = geometry.take(chosen)
    scaled = PackedGeometry(kept.kind, kept.vertices * size, kept.ring_offsets, kept.object_ring_offsets)
    w, h = size
    area, length = signed_area(scaled) / (w * h), line_length(scaled) / np.sqrt(w * h)
    amount = np.select([kept.kind == Kind.POLYGON, kept.kind == Kind.LINE], [np.maximum(area, 0.0), length], 0.0)
    osm_type, osm_id = tokens.osm_type[chosen], tokens.osm_id[chosen]
    place = anchors(scaled, object_seed(osm_type, osm_id, np.full(len(chosen), seed, np.uint64))) / size
    patch_object, patch_cell, cover = patch_cover(scaled, (w, h), shape)  # type: ignore[arg-type]
    at, tag_offsets = ranges(tokens.tag_offsets.astype(np.int64), chosen)
    tag_ids = tokens.tag_ids[at]
    edges, relation = _edges(tokens, chosen)
    region = summary(kept.kind, amount, tag_offsets, tag_ids)
    return OsmTokens(
        kind=kept.kind,
        osm_type=osm_type,
        osm_id=osm_id,
        tag_offsets=tag_offsets.astype(np.int32),
        tag_ids=tag_ids,
        anchors=place.astype(np.float32),
        extent=amount.astype(np.float32),
        vertices=snap(kept.vertices),
        ring_offsets=kept.ring_offsets.astype(np.int32),
        object_ring_offsets=kept.object_ring_offsets.astype(np.int32),
        edges=edges,
        relation=relation,
        patch_grid=np.array(shape, np.uint16),
        patch_cell=patch_cell.astype(np.uint16),
        patch_object=patch_object.astype(np.int32),
        patch_cover=cover.astype(np.float32),
        region_tag_id=region[0],
        region_count=region[1],
        region_area=region[2],
        region_length=region[3],
    )


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
    where = where.reshape(-1)
    count = np.bincount(where, minlength=len(distinct)).astype(np.int32)
    area = np.bincount(where, np.where(kind == Kind.POLYGON, extent, 0)[owner], len(distinct)).astype(np.float32)
    length = np.bincount(where, np.where(kind == Kind.LINE, extent, 0)[owner], len(distinct)).astype(np.float32)
    return distinct, count, area, length

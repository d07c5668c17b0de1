"""Tokens of a window of a footprint: geometry clipped again, anchors, extent, cover and summary reckoned again.

Relations are facts about the ground: those between objects that are left stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from geometry.anchors import anchors, object_seed
from geometry.clip import clip_to_unit, line_length, signed_area
from geometry.cover import patches
from geometry.packed import PackedGeometry
from geometry.tokens import joined, split, take
from schemas.features import Kind
from schemas.tokens import FIELDS, OsmTokens, empty_tokens, snap, unsnap

Window = tuple[float, float, float, float]  # left, top, right, bottom, normalised image coordinates

#: Share of the window, or of its side, below which what a cut leaves is rounding of the snapped vertices.
_NOISE = 1e-9
#: Fields that a crop makes from the clipped geometry.
_MADE = {"anchors", "extent", "vertices", "ring_offsets", "object_ring_offsets"} | {
    name for name, f in FIELDS.items() if f.granularity in ("patches", "region")
}


def crop_each(
    parts: Sequence[OsmTokens], windows: Sequence[Window], sizes: Sequence[tuple[float, float]],
    grid: tuple[int, int] | None = None, seeds: Sequence[int] | None = None,
) -> list[OsmTokens]:  # fmt: skip
    """Tokens of what lies in a window of each of many footprints, in normalised coordinates of the window.

    Args:
        parts: tokens of whole footprints.
        windows: left < right and top < bottom; may reach out of the footprint, where nothing is known.
        sizes: width and height of the window in pixels, or in any unit that is square on the ground.
        grid: rows and columns of the patch grid; that of each of ``parts`` where None, and without one no patches.
            So a window that is the whole makes patches that were not stored.
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
    kept_fields = {name: joined(parts, name) for name in FIELDS if name not in _MADE}
    whole = PackedGeometry(
        kept_fields["kind"], unsnap(joined(parts, "vertices")), joined(parts, "ring_offsets").astype(np.int64),
        joined(parts, "object_ring_offsets").astype(np.int64),
    )  # fmt: skip
    place = np.array(windows, np.float64).reshape(-1, 2, 2)[owner]
    of_vertex = whole.ring_object[whole.vertex_ring]
    corner, extent = place[:, 0], place[:, 1] - place[:, 0]
    vertices = (whole.vertices - corner[of_vertex]) / extent[of_vertex]
    clipped, belongs = clip_to_unit(replace(whole, vertices=vertices), _NOISE)
    chosen = np.flatnonzero(belongs)
    kept = clipped.take(chosen)
    size = np.array(sizes, np.float64).reshape(-1, 2)[owner[chosen]]
    scaled = replace(kept, vertices=kept.vertices * size[kept.ring_object[kept.vertex_ring]])
    square = size.prod(axis=1)
    area, length = signed_area(scaled) / square, line_length(scaled) / np.sqrt(square)
    amount = np.select([kept.kind == Kind.POLYGON, kept.kind == Kind.LINE], [np.maximum(area, 0.0), length], 0.0)
    left = take(replace(empty_tokens((0, 0)), **kept_fields), chosen, _MADE)
    salt = np.array([int(s) % 2**64 for s in salts], np.uint64)[owner[chosen]]
    left = replace(
        left,
        anchors=(anchors(scaled, object_seed(left.osm_type, left.osm_id, salt)) / size[:, None]).astype(np.float32),
        extent=amount.astype(np.float32),
        vertices=snap(kept.vertices),
        ring_offsets=kept.ring_offsets.astype(np.int32),
        object_ring_offsets=kept.object_ring_offsets.astype(np.int32),
    )
    if all(shapes[0]):
        left = replace(left, **patches(scaled, size, shapes[0]))
    return split(left, np.bincount(owner[chosen], minlength=len(parts)), any(t.rows("K") for t in parts))

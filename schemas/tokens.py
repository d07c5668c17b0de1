"""The four granularities of OSM tokens of one footprint, and their bytes (``osm.safetensors``).

All values come from the geometry clipped to the footprint in float64; only ``vertices`` is snapped.
Symbols: N objects, E related pairs, P object-patch incidences, T tags, V vertices, R rings, K distinct tags.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from schemas.errors import CorruptSampleError
from schemas.features import Kind
from schemas.relations import Relation

#: Units a side of a footprint in ``vertices``: the full range of u16.
UNITS = 65535

_DTYPES = {
    "kind": "u1", "osm_type": "u1", "osm_id": "i8", "tag_offsets": "i4", "tag_ids": "i8", "anchors": "f4",
    "extent": "f4", "vertices": "u2", "ring_offsets": "i4", "object_ring_offsets": "i4", "edges": "i4",
    "relation": "u1", "patch_grid": "u2", "patch_cell": "u2", "patch_object": "i4", "patch_cover": "f4",
    "region_tag_id": "i8", "region_count": "i4", "region_area": "f4", "region_length": "f4",
}  # fmt: skip
_RANKS = {"anchors": 3, "vertices": 2, "edges": 2}  # the others have one dimension


@dataclass(frozen=True, eq=False)
class OsmTokens:
    """Tokens of one footprint. Objects are sorted by (kind, osm_type, osm_id)."""

    # objects
    kind: NDArray[np.uint8]  # [N] Kind
    osm_type: NDArray[np.uint8]  # [N] ObjectType: an id is unique only within its type
    osm_id: NDArray[np.int64]  # [N]
    tag_offsets: NDArray[np.int32]  # [N+1] into tag_ids
    tag_ids: NDArray[np.int64]  # [T] schemas.tags.tag_id, sorted within an object
    anchors: NDArray[np.float32]  # [N,4,2] normalised x, y; unused = NaN
    extent: NDArray[np.float32]  # [N] area as a fraction of the footprint, or length in sides (sqrt of its area)
    vertices: NDArray[np.uint16]  # [V,2] normalised x, y times UNITS; rings are not closed
    ring_offsets: NDArray[
        np.int32
    ]  # [R+1] into vertices; outer rings counter-clockwise seen with y up, holes clockwise
    object_ring_offsets: NDArray[np.int32]  # [N+1] into rings; a line's parts and a point's vertices are rings too
    # relations
    edges: NDArray[np.int32]  # [2,E] object indices, edges[0] < edges[1], each pair once
    relation: NDArray[np.uint8]  # [E] Relation of edges[0] to edges[1]
    # patches
    patch_grid: NDArray[np.uint16]  # [2] rows, columns of the ViT grid
    patch_cell: NDArray[np.uint16]  # [P] row * columns + column
    patch_object: NDArray[np.int32]  # [P] object index
    patch_cover: NDArray[np.float32]  # [P] polygon: area fraction of the cell; line: length in cell sides; point: 1
    # region
    region_tag_id: NDArray[np.int64]  # [K] sorted
    region_count: NDArray[np.int32]  # [K] objects that carry the tag
    region_area: NDArray[np.float32]  # [K] summed polygon extent
    region_length: NDArray[np.float32]  # [K] summed line extent

    def __len__(self) -> int:
        return len(self.kind)

    def counts(self) -> tuple[int, int, int]:
        """Number of points, lines and polygons."""
        n_point, n_line, n_polygon = np.bincount(self.kind, minlength=3)[:3]
        return int(n_point), int(n_line), int(n_polygon)

    def to_bytes(self) -> bytes:
        """One safetensors buffer. Equal tokens give equal bytes."""
        arrays = {f.name: np.ascontiguousarray(getattr(self, f.name), _DTYPES[f.name]) for f in fields(self)}
        return safetensors.numpy.save(arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> OsmTokens:
        """Inverse of :meth:`to_bytes`; checks shapes and offsets, so that a bad buffer cannot index out of range.

        Raises:
            CorruptSampleError: the buffer is truncated, lacks a tensor, or its offsets do not fit.
        """
        try:
            arrays = safetensors.numpy.load(data)
            tokens = cls(**{name: arrays[name] for name in _DTYPES})
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise CorruptSampleError(f"osm.safetensors cannot be read ({error}); build the sample again") from None
        problem = tokens.problem()
        if problem:
            raise CorruptSampleError(f"osm.safetensors is inconsistent: {problem}; build the sample again")
        return tokens

    def problem(self) -> str | None:
        """What breaks the layout, or None."""
        for name, dtype in _DTYPES.items():
            if getattr(self, name).dtype != np.dtype(dtype):
                return f"{name} is {getattr(self, name).dtype}, not {np.dtype(dtype)}"
            if getattr(self, name).ndim != _RANKS.get(name, 1):
                return f"{name} has shape {getattr(self, name).shape}, not {_RANKS.get(name, 1)} dimensions"
        n, k, p, e = len(self.kind), len(self.region_tag_id), len(self.patch_cell), len(self.relation)
        shapes = {
            "osm_type": (n,), "osm_id": (n,), "extent": (n,), "anchors": (n, 4, 2), "edges": (2, e),
            "patch_object": (p,), "patch_cover": (p,), "patch_grid": (2,),
            "region_count": (k,), "region_area": (k,), "region_length": (k,),
        }  # fmt: skip
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                return f"{name} has shape {getattr(self, name).shape}, not {shape}"
        if self.vertices.shape[1] != 2:
            return f"vertices has shape {self.vertices.shape}, not (V, 2)"
        for name, rows, end in (
            ("tag_offsets", n, len(self.tag_ids)),
            ("object_ring_offsets", n, len(self.ring_offsets) - 1),
            ("ring_offsets", None, len(self.vertices)),
        ):
            offsets = getattr(self, name)
            if len(offsets) < 1 or (rows is not None and len(offsets) != rows + 1):
                return f"{name} has {len(offsets)} entries, not {rows} + 1"
            if offsets[0] != 0 or offsets[-1] != end or (offsets[1:] < offsets[:-1]).any():
                return f"{name} does not rise from 0 to {end}"
        if (np.diff(self.object_ring_offsets) == 0).any() or (np.diff(self.ring_offsets) == 0).any():
            return "an object has no ring, or a ring no vertex"
        if e and self.relation.max() >= len(Relation):
            return f"a relation is above {max(Relation)}"
        if n and self.kind.max() > Kind.POLYGON:
            return "a kind is above 2"
        if e and not (self.edges[0].min() >= 0 and (self.edges[0] < self.edges[1]).all() and self.edges[1].max() < n):
            return "edges do not keep 0 <= i < j < N"
        cells = int(self.patch_grid[0]) * int(self.patch_grid[1])
        if p and not (self.patch_object.min() >= 0 and self.patch_object.max() < n and self.patch_cell.max() < cells):
            return "a patch names an object or a cell that does not exist"
        return None


def empty_tokens(patch_grid: tuple[int, int] = (14, 14)) -> OsmTokens:
    """Tokens of a footprint without objects."""
    shapes = {"anchors": (0, 4, 2), "vertices": (0, 2), "edges": (2, 0)}
    offsets = {"tag_offsets", "ring_offsets", "object_ring_offsets"}
    arrays = {n: np.zeros(1 if n in offsets else shapes.get(n, (0,)), d) for n, d in _DTYPES.items()}
    arrays["patch_grid"] = np.array(patch_grid, np.uint16)
    return OsmTokens(**arrays)


def snap(normalised: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Normalised coordinates to units, rounded half to even and clamped to the footprint."""
    return np.clip(np.rint(np.asarray(normalised) * UNITS), 0, UNITS).astype(np.uint16)


def unsnap(units: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Units to normalised coordinates."""
    return units.astype(np.float64) / UNITS

"""Token buffers of a whole batch at once: the checks of ``OsmTokens.from_bytes``, made over all samples together.

Whatever does not pass is read again by ``OsmTokens.from_bytes``, alone, which decides and words the fault.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from schemas.errors import CorruptSampleError
from schemas.features import Kind
from schemas.relations import Relation
from schemas.tokens import OsmTokens, empty_tokens

_CODES = {"u1": "U8", "u2": "U16", "i4": "I32", "i8": "I64", "f4": "F32"}
_BLANK = empty_tokens()
#: Code in a safetensors header, type, and number of dimensions of each tensor.
_TENSORS = {
    f.name: (_CODES[a.dtype.str[1:]], a.dtype, a.ndim) for f in fields(OsmTokens) for a in [getattr(_BLANK, f.name)]
}


def parse_tokens(buffers: Sequence[bytes | memoryview]) -> list[OsmTokens | CorruptSampleError]:
    """Tokens of each ``osm.safetensors``, as views of its buffer, or what is wrong with it."""
    parsed = [_parse(data) for data in buffers]
    sound = [t for t in parsed if t is not None]
    if _consistent(sound):
        return [t if t is not None else _alone(data) for t, data in zip(parsed, buffers, strict=True)]
    return [_alone(data) for data in buffers]


def _alone(data: bytes | memoryview) -> OsmTokens | CorruptSampleError:
    try:
        return OsmTokens.from_bytes(bytes(data))
    except CorruptSampleError as error:
        return error


def _parse(data: bytes | memoryview) -> OsmTokens | None:
    """The tensors as views of the buffer, if types, dimensions and shapes are as they should be."""
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8:start]))
        arrays: dict[str, NDArray[np.generic]] = {}
        shapes: dict[str, list[int]] = {}
        used = start
        for name, (code, dtype, dimensions) in _TENSORS.items():
            entry = header[name]
            shape, (first, last) = entry["shape"], entry["data_offsets"]
            size = math.prod(shape)
            if (
                entry["dtype"] != code or len(shape) != dimensions or min(first, *shape) < 0
                or last - first != size * dtype.itemsize
            ):  # fmt: skip
                return None
            used += last - first
            shapes[name] = shape
            arrays[name] = np.frombuffer(data, dtype, size, start + first).reshape(shape)
        fits = used == len(data) and _shaped(shapes)
        return OsmTokens(**arrays) if fits else None  # type: ignore[arg-type]  # types are checked by the codes
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def _shaped(shapes: dict[str, list[int]]) -> bool:
    n, k, p, e = (shapes[name][0] for name in ("kind", "region_tag_id", "patch_cell", "relation"))
    return (
        all(shapes[name] == [n] for name in ("osm_type", "osm_id", "extent"))
        and all(shapes[name] == [p] for name in ("patch_object", "patch_cover"))
        and all(shapes[name] == [k] for name in ("region_count", "region_area", "region_length"))
        and all(shapes[name] == [n + 1] for name in ("tag_offsets", "object_ring_offsets"))
        and shapes["anchors"] == [n, 4, 2] and shapes["edges"] == [2, e] and shapes["patch_grid"] == [2]
        and shapes["vertices"][1] == 2 and shapes["ring_offsets"][0] >= 1
    )  # fmt: skip


def _consistent(held: Sequence[OsmTokens]) -> bool:
    """Whether no offset or index of any sample leads out of its arrays."""
    if not held:
        return True

    def joined(name: str) -> NDArray[np.int64]:
        return np.concatenate([getattr(t, name) for t in held]).astype(np.int64)

    for name, target, least in (
        ("tag_offsets", "tag_ids", 0), ("object_ring_offsets", "ring_offsets", 1), ("ring_offsets", "vertices", 1),
    ):  # fmt: skip
        ends = [len(getattr(t, target)) - (target == "ring_offsets") for t in held]
        offsets = joined(name)
        last = np.cumsum([len(getattr(t, name)) for t in held]) - 1
        first = np.concatenate(([0], last[:-1] + 1))
        step = np.diff(offsets)
        step[last[:-1]] = least  # from one sample to the next
        if offsets[first].any() or (offsets[last] != ends).any() or (step < least).any():
            return False
    objects = np.array([len(t.kind) for t in held])
    of_edge = np.repeat(objects, [len(t.relation) for t in held])
    start, end = (np.concatenate([t.edges[k] for t in held]) for k in (0, 1))
    incidences = [len(t.patch_cell) for t in held]
    cells = np.array([int(t.patch_grid[0]) * int(t.patch_grid[1]) for t in held])
    owner = joined("patch_object")
    return bool(
        joined("relation").max(initial=0) < len(Relation)
        and joined("kind").max(initial=0) <= Kind.POLYGON
        and ((start >= 0) & (start < end) & (end < of_edge)).all()
        and ((owner >= 0) & (owner < np.repeat(objects, incidences))).all()
        and (joined("patch_cell") < np.repeat(cells, incidences)).all()
    )

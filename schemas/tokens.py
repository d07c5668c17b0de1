"""The four granularities of OSM tokens of one footprint, and their bytes (``osm.safetensors``).

All values come from the geometry clipped to the footprint in float64; only ``vertices`` is snapped.
Symbols: N objects, E related pairs, P object-patch incidences, T tags, V vertices, R rings, K distinct tags.

Each field says on itself what it is: its type, its :class:`TokenField`. Checks, packing, crops and turns follow that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal, get_args, get_type_hints

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from schemas.errors import ConfigError, CorruptSampleError
from schemas.features import Kind, ObjectType
from schemas.relations import Relation
from schemas.tensors import read_tensors

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]

#: Units a side of a footprint in ``vertices``: the full range of u16.
UNITS = 65535

Granularity = Literal["objects", "relations", "patches", "region"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
#: Granularities that a dataset may lack, and the setting that leaves them out.
OPTIONAL: dict[Granularity, str] = {"patches": "tokens.patches"}
#: Units of places: normalised image coordinates, and those in ``UNITS`` a side.
NORMALISED, SNAPPED = "normalised x, y", "normalised x, y times UNITS"


@dataclass(frozen=True)
class TokenField:
    """What one array of :class:`OsmTokens` is."""

    granularity: Granularity
    shape: tuple[int | str, ...]  # a letter: one row each, see the module; "N+1": where the run of each row begins
    unit: str
    into: str = ""  # letter of the rows that its values number; of those that its runs are made of
    least: int = 0  # fewest rows a run holds
    below: int = 0  # what its values stay below; 0: any
    amount: bool = False  # its values are finite and not negative
    dtype: np.dtype[Any] = np.dtype("u1")  # that of the annotation

    @cached_property
    def axis(self) -> int | None:
        """The axis that a letter counts; None where all are fixed."""
        return next((i for i, n in enumerate(self.shape) if isinstance(n, str)), None)

    @cached_property
    def rows(self) -> str:
        """The letter of that axis."""
        return str(self.shape[self.axis])[0] if self.axis is not None else ""

    @cached_property
    def runs(self) -> bool:
        """Whether it says where runs begin and end."""
        return self.axis is not None and self.shape[self.axis] == f"{self.rows}+1"

    def of(self, rows: int) -> tuple[int | str, ...]:
        """The shape with so many rows."""
        at = self.axis
        return self.shape if at is None else (*self.shape[:at], rows + self.runs, *self.shape[at + 1 :])


@dataclass(frozen=True, eq=False)
class OsmTokens:
    """Tokens of one footprint. Objects are sorted by (kind, osm_type, osm_id).

    Fields of a granularity that was not stored or not read are empty, and ``patch_grid`` is 0, 0.
    """

    kind: Annotated[U8, TokenField("objects", ("N",), "Kind", below=len(Kind))]
    # an id is unique only within its type
    osm_type: Annotated[U8, TokenField("objects", ("N",), "ObjectType", below=len(ObjectType))]
    osm_id: Annotated[I64, TokenField("objects", ("N",), "OSM id")]
    tag_offsets: Annotated[I32, TokenField("objects", ("N+1",), "row", into="T")]
    # sorted within an object
    tag_ids: Annotated[I64, TokenField("objects", ("T",), "schemas.tags.tag_id")]
    # unused = NaN
    anchors: Annotated[F32, TokenField("objects", ("N", 4, 2), NORMALISED)]
    # in footprints; a side is the square root of one
    extent: Annotated[F32, TokenField("objects", ("N",), "area, or length in sides", amount=True)]
    # a line's parts and a point's vertices are rings too
    object_ring_offsets: Annotated[I32, TokenField("objects", ("N+1",), "row", into="R", least=1)]
    # outer rings counter-clockwise seen with y up, holes clockwise; not closed
    ring_offsets: Annotated[I32, TokenField("objects", ("R+1",), "row", into="V", least=1)]
    vertices: Annotated[U16, TokenField("objects", ("V", 2), SNAPPED)]
    # edges[0] < edges[1], each pair once
    edges: Annotated[I32, TokenField("relations", (2, "E"), "row", into="N")]
    relation: Annotated[U8, TokenField("relations", ("E",), "Relation of edges[0] to edges[1]", below=len(Relation))]
    patch_grid: Annotated[U16, TokenField("patches", (2,), "rows, columns of the ViT grid")]
    patch_cell: Annotated[U16, TokenField("patches", ("P",), "row * columns + column")]
    patch_object: Annotated[I32, TokenField("patches", ("P",), "row", into="N")]
    # polygon: area in cells; line: length in cell sides; point: 1
    patch_cover: Annotated[F32, TokenField("patches", ("P",), "cells, or cell sides", amount=True)]
    # sorted
    region_tag_id: Annotated[I64, TokenField("region", ("K",), "schemas.tags.tag_id")]
    region_count: Annotated[I32, TokenField("region", ("K",), "objects that carry the tag")]
    region_area: Annotated[F32, TokenField("region", ("K",), "summed polygon extent", amount=True)]
    region_length: Annotated[F32, TokenField("region", ("K",), "summed line extent", amount=True)]

    def __len__(self) -> int:
        return len(self.kind)

    def rows(self, letter: str) -> int:
        """How many rows a letter of the fields' shapes stands for."""
        name = _COUNTED[letter]
        return len(getattr(self, name)) - FIELDS[name].runs  # all of these count along their first axis

    def counts(self) -> tuple[int, int, int]:
        """Number of points, lines and polygons."""
        n_point, n_line, n_polygon = np.bincount(self.kind, minlength=3)[:3]
        return int(n_point), int(n_line), int(n_polygon)

    def to_bytes(self) -> bytes:
        """One safetensors buffer. Equal tokens give equal bytes; patches without a grid are left out."""
        held = {n: f.dtype for n, f in FIELDS.items() if f.granularity != "patches" or self.patch_grid.any()}
        return safetensors.numpy.save({n: np.ascontiguousarray(getattr(self, n), dtype) for n, dtype in held.items()})

    def problem(self) -> str | None:
        """What breaks the layout, or None."""
        return _problem([self])

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, wanted: Collection[Granularity] | None = None) -> OsmTokens:
        """Inverse of :meth:`to_bytes`, of one buffer; see :meth:`from_buffers`.

        Raises:
            CorruptSampleError: the buffer is truncated, lacks a tensor, or its offsets do not fit.
            ConfigError: a wanted granularity was not stored.
        """
        found = cls.from_buffers([data], wanted)[0]
        if isinstance(found, CorruptSampleError):
            raise found
        return found

    @classmethod
    def from_buffers(
        cls, buffers: Sequence[bytes | memoryview], wanted: Collection[Granularity] | None = None
    ) -> list[OsmTokens | CorruptSampleError]:
        """Tokens of each ``osm.safetensors`` as views of its buffer, or what is wrong with it.

        Shapes, offsets and indices are checked, of all of them at once, so that none leads out of an array.

        Args:
            buffers: the members.
            wanted: granularities that are decoded, the objects in any case; all that are there where None.

        Raises:
            ConfigError: a wanted granularity was not stored.
        """
        chosen = {n: f.dtype for n, f in FIELDS.items() if wanted is None or f.granularity in ("objects", *wanted)}
        found = [_read(data, chosen, wanted) for data in buffers]
        if _problem([t for t in found if isinstance(t, OsmTokens)]):
            found = [_checked(t) if isinstance(t, OsmTokens) else t for t in found]
        return found


#: The fields by name, in their order.
FIELDS: dict[str, TokenField] = {
    name: replace(get_args(hint)[1], dtype=np.dtype(get_args(get_args(get_args(hint)[0])[1])[0]))
    for name, hint in get_type_hints(OsmTokens, include_extras=True).items()
}
_COUNTED = {f.rows: name for name, f in reversed(FIELDS.items()) if f.axis == 0}
_AMOUNTS = [name for name, f in FIELDS.items() if f.amount]
#: Cells of a grid that ``patch_cell`` can name.
_CELLS = 1 << 16
_WITHOUT = {
    name: np.zeros([n if isinstance(n, int) else int(f.runs) for n in f.shape], f.dtype) for name, f in FIELDS.items()
}


def empty_tokens(patch_grid: tuple[int, int] = (14, 14)) -> OsmTokens:
    """Tokens of a footprint without objects."""
    return OsmTokens(**_WITHOUT | {"patch_grid": np.array(patch_grid, np.uint16)})


def _read(data: bytes | memoryview, chosen: dict[str, np.dtype[Any]], wanted: Any) -> OsmTokens | CorruptSampleError:
    try:
        arrays, _ = read_tensors(data, chosen)
    except ValueError as error:
        return CorruptSampleError(f"osm.safetensors cannot be read ({error}); build the sample again")
    if len(arrays) < len(chosen):
        absent = OPTIONAL.keys() - {FIELDS[name].granularity for name in arrays}
        for name in chosen:
            if name not in arrays and FIELDS[name].granularity not in absent:
                return CorruptSampleError(f"osm.safetensors lacks {name}; build the sample again")
        for granularity in absent.intersection(wanted or ()):
            raise ConfigError(
                f"osm.safetensors holds no {granularity}: it was built with {OPTIONAL[granularity]}=false; build it "
                f"with {OPTIONAL[granularity]}=true, or read without {granularity}"
            )
    return OsmTokens(**_WITHOUT | arrays)


def _checked(tokens: OsmTokens) -> OsmTokens | CorruptSampleError:
    wrong = tokens.problem()
    return (
        tokens
        if wrong is None
        else CorruptSampleError(f"osm.safetensors is inconsistent: {wrong}; build the sample again")
    )


def _problem(parts: Sequence[OsmTokens]) -> str | None:
    """What breaks the layout in one of ``parts``, or None."""
    if not parts:
        return None
    arrays = {name: [getattr(t, name) for t in parts] for name in FIELDS}
    for name, f in FIELDS.items():
        if any(a.ndim != len(f.shape) or a.dtype != f.dtype for a in arrays[name]):
            return f"{name} is not {f.dtype} of {len(f.shape)} dimensions"
    sizes = {letter: np.array([t.rows(letter) for t in parts]) for letter in _COUNTED}
    for name, f in FIELDS.items():
        lengths = sizes[f.rows].tolist() if f.rows else [0] * len(parts)
        for array, n in zip(arrays[name], lengths, strict=True):
            if array.shape != f.of(n) or n < 0:
                return f"{name} has shape {array.shape}, not {f.of(n)}"
    numbers = {n: f for n, f in FIELDS.items() if f.into or f.below}
    joined = {n: np.concatenate(arrays[n], f.axis or 0).astype(np.int64) for n, f in numbers.items()}
    for name, f in numbers.items():
        values = joined[name]
        ends = sizes[f.into] if f.into else np.full(len(parts), f.below)
        if not f.runs:
            outside = (values < 0) | (values >= np.repeat(ends, sizes[f.rows]))
            if outside.any():
                return f"{name} holds a number that is not below {ends.max()}"
            continue
        last = np.cumsum(sizes[f.rows] + 1) - 1
        first = last - sizes[f.rows]
        step = np.diff(values)
        step[last[:-1]] = f.least  # from one footprint to the next
        if values[first].any() or (values[last] != ends).any() or (step < f.least).any():
            return f"{name} does not rise by {f.least} or more from 0 to {ends.max()}"
    if (joined["edges"][0] >= joined["edges"][1]).any():
        return "edges do not keep i < j"
    for name in _AMOUNTS:
        values = np.concatenate(arrays[name])
        if len(values) and not (values.min() >= 0 and values.max() < np.inf):  # one that is no number fails the first
            return f"{name} holds a number that is no amount"
    cells = np.stack(arrays["patch_grid"]).astype(np.int64).prod(axis=1)
    if (cells > _CELLS).any():
        return f"patch_grid asks for more than {_CELLS:,} cells"
    if (np.concatenate(arrays["patch_cell"]) >= np.repeat(cells, sizes["P"])).any():
        return "patch_cell names a cell that is not in the grid"
    return None


def snap(normalised: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Normalised coordinates to units, rounded half to even and clamped to the footprint."""
    return np.clip(np.rint(np.asarray(normalised) * UNITS), 0, UNITS).astype(np.uint16)


def unsnap(units: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Units to normalised coordinates."""
    return units.astype(np.float64) / UNITS

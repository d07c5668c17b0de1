"""Samples to one packed batch of tensors.

Variable-length parts are packed end to end with the index of what they belong to, and padded to a bucketed capacity,
so that few shapes occur. Padding nodes belong to sample B; padding edges, tags and patches to the last node, which is
always padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from geometry.keypoints import KeyPoints
from geometry.tokens import joined
from schemas.bands import RGB
from schemas.tokens import FIELDS, NORMALISED, Granularity, empty_tokens
from trainers.embed.features import TagTable
from trainers.stream.augment import Photo, TileSample
from trainers.stream.members.levels import Levels
from trainers.stream.pixels import LOOK, look_row, place, show

#: Least capacities: of packed tokens, and of photos, each of which costs a pass of an encoder.
CAPACITY, PHOTO_CAPACITY = 16, 8
#: Each tensor of a batch begins at a multiple of so many bytes of its buffer.
ALIGNMENT = 64


@dataclass(frozen=True)
class View:
    """What a model looks at."""

    image_size: int  # pixels a side of the image after resizing
    bands: tuple[str, ...] = RGB  # in channel order, by any name that schemas.bands knows or the images have
    osm: tuple[Granularity, ...] = ()  # granularities of tokens that are read, the objects among them; none: no tokens
    tag_width: int = 512  # features a tag
    anchors: KeyPoints = "ours"  # places by which an object is located
    levels: Levels = "dataset"  # whose statistics of bands map values to 8 bits
    photos: int = 0  # most photos a tile
    photo_size: int = 224  # pixels a side of a photo after resizing
    photo_fit: Literal["squash", "crop"] = "squash"  # a photo to its square: all of it, or its middle undistorted
    dates: int = 1  # most images of one tile; 1: one that is drawn


@dataclass
class TileBatch:
    """B slots. N nodes, E related pairs, T tags of nodes, U distinct tags, P patch incidences, Q photos: capacities.

    Those of a granularity that the view does not read are 0. Where it takes D dates, D > 1, images have one more axis:
    rs u8 [B,D,C,…], rs_valid u8 [B,D,…]; an image that a tile lacks is 0 and ``has_date`` false.
    """

    key: list[str]  # [B] sample keys, "" in a masked slot
    corrupt: list[str]  # one message a sample that could not be read
    weight: float  # share of this part in its global batch's samples, times the number of parts: 1 but for tails
    valid: Tensor  # bool [B] False: padding of the epoch's tail, or a corrupt sample
    source: Tensor  # i64 [B] number of the dataset among those of the stream, -1 in a masked slot
    seed: Tensor  # i64 [B] draws of the slot: f(seed, epoch, position)
    lonlat: Tensor  # f64 [B,2] centre, degrees
    bbox: Tensor  # f64 [B,4] west, south, east, north, degrees
    gsd: Tensor  # f32 [B,2] true metres a pixel of the stored image, as lonlat and bbox of the whole footprint
    window: Tensor  # f32 [B,4] left, top, right, bottom of what is shown, normalised coordinates of the footprint
    image_size: int  # S, pixels a side of the image that a model takes
    look: Tensor  # f64 [B,14] what is left to do to rs, see trainers.stream.pixels; [B,0] where it is done
    rs: Tensor  # u8 [B,C,S,S]; [B,C,H,W], each image in the corner of its slot, where something is left
    rs_valid: Tensor  # u8 [B,S,S] or [B,H,W] as rs: 255 where a pixel is data; [B,0,0] where all of the batch are
    has_rs: Tensor  # bool [B]
    has_date: Tensor  # bool [B,D] which images there are, those of has_rs first
    node_valid: Tensor  # bool [N]
    node_sample: Tensor  # i64 [N] slot, B in padding
    node_kind: Tensor  # i64 [N] schemas.features.Kind
    anchors: Tensor  # f32 [N,4,2] normalised x, y; unused = NaN
    extent: Tensor  # f32 [N] share of the footprint's area, or length in sides
    edges: Tensor  # i64 [2,E] node indices of the batch, each pair once
    edge_relation: Tensor  # i64 [E] schemas.relations.Relation of edges[0] to edges[1]
    edge_valid: Tensor  # bool [E]
    tag_node: Tensor  # i64 [T] node
    tag_row: Tensor  # i64 [T] into tag_id and tag_features
    tag_weight: Tensor  # f32 [T] weights within a node sum to 1; 0 in padding
    tag_id: Tensor  # i64 [U] schemas.tags.tag_id
    tag_features: Tensor  # f16 [U,F]
    patch_grid: tuple[int, int]  # rows, columns of the incidence's grid
    patch_node: Tensor  # i64 [P] node
    patch_cell: Tensor  # i64 [P] row * columns + column
    patch_cover: Tensor  # f32 [P] share of the cell, sides of line in it, or 1; 0 in padding
    photos: Tensor  # u8 [Q,3,s,s]
    photo_valid: Tensor  # bool [Q]
    photo_sample: Tensor  # i64 [Q] slot, B in padding
    photo_xy: Tensor  # f32 [Q,2] normalised image coordinates in the tile
    photo_lonlat: Tensor  # f64 [Q,2] degrees
    photo_frame: Tensor  # f32 [Q,2,2] in normalised image coordinates (x, y) a metre: to its right, ahead; or NaN

    def __len__(self) -> int:
        return len(self.key)

    @property
    def samples(self) -> int:
        """Slots that hold a sample."""
        return sum(1 for key in self.key if key)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> TileBatch:
        """The batch with its tensors on ``device``; one copy of one buffer where they share it, as packed ones do.

        What was left to do to the images is done there.
        """
        moved = self._map(lambda t: t.to(device, non_blocking=non_blocking))
        if not moved.look.shape[1]:
            return moved
        size, dates, valid = moved.image_size, moved.rs.shape[1:-3], moved.rs_valid
        look = moved.look.repeat_interleave(math.prod(dates), 0)
        rs = show(moved.rs.flatten(0, -4), look, size).unflatten(0, (-1, *dates))
        if valid.shape[-1]:
            valid = place(valid.flatten(0, -3)[:, None], look, size)[:, 0].unflatten(0, (-1, *dates))
        return replace(moved, rs=rs, rs_valid=valid, look=moved.look[:, :0])

    def pin_memory(self) -> TileBatch:
        """The batch with its tensors in page-locked memory."""
        return self._map(lambda t: t.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> TileBatch:
        tensors: dict[str, Any] = dict(self._tensors())
        buffer = _shared(tensors.values())
        if buffer is None:
            moved: dict[str, Any] = {name: change(value) for name, value in tensors.items()}
            return replace(self, **moved)
        views: dict[str, Any] = dict(_views(change(buffer), {name: _layout(t) for name, t in tensors.items()}))
        return replace(self, **views)

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}

    def __getstate__(self) -> dict[str, Any]:
        """Between processes a packed batch travels as one shared buffer, not as thirty."""
        tensors = self._tensors()
        buffer = _shared(tensors.values())
        if buffer is None:
            return {"rest": self.__dict__, "layout": {}, "buffer": None}
        rest = {name: value for name, value in self.__dict__.items() if name not in tensors}
        return {"rest": rest, "layout": {name: _layout(t) for name, t in tensors.items()}, "buffer": buffer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state["rest"])
        if state["buffer"] is not None:
            self.__dict__.update(_views(state["buffer"], state["layout"]))


#: The tensors of a batch that are fields of the tokens: joined, as i64 or f32, and padded.
TENSORS = {
    "node_kind": "kind", "anchors": "anchors", "extent": "extent", "edges": "edges", "edge_relation": "relation",
    "patch_node": "patch_object", "patch_cell": "patch_cell", "patch_cover": "patch_cover",
}  # fmt: skip

Layout = tuple[int, torch.dtype, tuple[int, ...]]  # first byte in the buffer, type, shape


def _layout(tensor: Tensor) -> Layout:
    return int(tensor.storage_offset()) * tensor.element_size(), tensor.dtype, tuple(tensor.shape)


def _shared(tensors: Iterable[Tensor]) -> Tensor | None:
    """The buffer u8[bytes] that all the tensors lie in, or None where they have memory of their own."""
    held = list(tensors)
    storage = held[0].untyped_storage()
    if any(t.untyped_storage().data_ptr() != storage.data_ptr() or not t.is_contiguous() for t in held):
        return None
    return torch.empty(0, dtype=torch.uint8, device=held[0].device).set_(storage, 0, (storage.nbytes(),), (1,))


def _views(buffer: Tensor, layouts: Mapping[str, Layout]) -> dict[str, Tensor]:
    """Tensors in a buffer u8[bytes]."""
    return {
        name: buffer[start : start + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
        for name, (start, dtype, shape) in layouts.items()
    }


def _allocate(
    arrays: Mapping[str, NDArray[np.generic]], blank: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], dict[str, NDArray[np.uint8]]]:
    """``arrays``, and u8 arrays of the shapes ``blank`` to fill, as tensors in one buffer; the latter as arrays."""
    place = 0
    layouts: dict[str, Layout] = {}
    shapes = {name: (torch.from_numpy(a[..., :0]).dtype, a.shape) for name, a in arrays.items()}
    shapes |= {name: (torch.uint8, shape) for name, shape in blank.items()}
    for name, (dtype, shape) in shapes.items():
        layouts[name] = (place, dtype, shape)
        place += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
    tensors = _views(_buffer(place), layouts)
    for name, array in arrays.items():
        tensors[name].numpy()[...] = array
    return tensors, {name: tensors[name].numpy() for name in blank}


def _buffer(size: int) -> Tensor:
    """u8[size] to fill; a loader process takes shared memory, so that the batch need not be copied into it."""
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(size)  # as torch's own collation does
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,), (1,))


@dataclass(frozen=True, eq=False)
class Slot:
    """One slot of a batch before packing."""

    key: str  # "" when masked
    source: int  # -1 when masked
    seed: np.uint64
    lonlat: NDArray[np.float64]  # [2]
    bbox: NDArray[np.float64]  # [4]
    gsd: NDArray[np.float64]  # [2]
    sample: TileSample | None  # None when masked


def bucket(count: int, least: int = CAPACITY) -> int:
    """Smallest capacity of 16, 24, 32, 48, 64, 96 … that holds ``count``: at most a third is padding.

    >>> [bucket(n) for n in (0, 17, 33, 100)]
    [16, 24, 48, 128]
    """
    size = least
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size


def pack(slots: Sequence[Slot], view: View, tags: TagTable | None, weight: float, corrupt: list[str]) -> TileBatch:
    """The batch of ``slots`` as a model with ``view`` takes it; ``tags`` is needed where the view reads tokens."""
    count = len(slots)
    held = [(i, p) for i, s in enumerate(slots) if s.sample for p in s.sample.photos[: view.photos]]
    photos = bucket(len(held), PHOTO_CAPACITY) if view.photos else 0
    arrays: dict[str, NDArray[np.generic]] = {
        "valid": np.array([s.sample is not None for s in slots], bool),
        "source": np.array([s.source for s in slots], np.int64),
        "seed": np.array([s.seed for s in slots], np.uint64).view(np.int64),
        "lonlat": np.stack([s.lonlat for s in slots]),
        "bbox": np.stack([s.bbox for s in slots]),
        "gsd": np.stack([s.gsd for s in slots]).astype(np.float32),
        "window": np.array([s.sample.window if s.sample else (0, 0, 1, 1) for s in slots], np.float32),
        "has_rs": np.array([s.sample is not None and s.sample.rs is not None for s in slots], bool),
        "has_date": np.arange(view.dates) < np.array([[_dates(s.sample, view)] for s in slots]),
        "look": _pack_looks(slots),
        **_pack_tokens(slots, view, tags),
        **_pack_photos(held, photos, count),
    }
    shapes = _image_shapes(slots, view, bool(arrays["look"].size))
    side = view.photo_size if view.photos else 0
    tensors, pixels = _allocate(arrays, shapes | {"photos": (photos, 3, side, side)})
    _fill_images(slots, pixels["rs"], pixels["rs_valid"])
    for k, (_, photo) in enumerate(held):
        pixels["photos"][k] = photo.pixels
    pixels["photos"][len(held) :] = 0
    grids = {tuple(s.sample.tokens.patch_grid.tolist()) for s in slots if s.sample and s.sample.tokens}
    return TileBatch(
        key=[s.key for s in slots],
        corrupt=corrupt,
        weight=weight,
        image_size=view.image_size,
        patch_grid=min(grids) if grids else (0, 0),
        **tensors,
    )


def _dates(sample: TileSample | None, view: View) -> int:
    """Images that a slot shows."""
    if sample is None or sample.rs is None:
        return 0
    return len(sample.rs) if view.dates > 1 else 1


def _image_shapes(slots: Sequence[Slot], view: View, later: bool) -> dict[str, tuple[int, ...]]:
    """Of rs and rs_valid: as large as the largest image where something is left to do ``later``."""
    samples = [s.sample for s in slots]
    sizes = [
        s.rs.shape[-2:] if later and s is not None and s.rs is not None else (view.image_size,) * 2 for s in samples
    ]
    height, width = np.max(sizes, 0).tolist()
    whole = all(s is None or s.rs_valid is None for s in samples)
    dates = (view.dates,) if view.dates > 1 else ()
    plane = (0, 0) if whole else (height, width)
    return {
        "rs": (len(slots), *dates, len(view.bands), height, width),
        "rs_valid": (len(slots), *dates, *plane),
    }


def _fill_images(slots: Sequence[Slot], rs: NDArray[np.uint8], valid: NDArray[np.uint8]) -> None:
    """Each image in the corner of its slot, 0 around it."""
    valid[:] = 255
    for i, sample in enumerate(s.sample for s in slots):
        image = None if sample is None else sample.rs
        if sample is None or image is None:
            rs[i] = 0
            continue
        height, width = image.shape[-2:]
        place = (i, slice(len(image))) if rs.ndim == 5 else (i,)
        if image.shape != rs[i].shape:
            rs[i] = 0
        rs[*place, ..., :height, :width] = image
        if sample.rs_valid is not None:
            valid[*place, ..., :height, :width] = sample.rs_valid


def _pack_looks(slots: Sequence[Slot]) -> NDArray[np.float64]:
    """What is left to do to each image; no columns where nothing is."""
    samples = [s.sample for s in slots]
    if not any(s is not None and s.look is not None for s in samples):
        return np.zeros((len(slots), 0))
    return np.array([
        look_row(s.look, *s.rs.shape[-2:]) if s is not None and s.rs is not None and s.look else [0.0] * LOOK
        for s in samples
    ])  # fmt: skip


def _padded(rows: NDArray[Any], capacity: int, fill: float) -> NDArray[Any]:
    """``rows``, filled up to ``capacity`` of them."""
    result = np.full((capacity, *rows.shape[1:]), fill, rows.dtype)
    result[: len(rows)] = rows
    return result


def _pack_tokens(slots: Sequence[Slot], view: View, tags: TagTable | None) -> dict[str, NDArray]:
    held = [(i, s.sample.tokens) for i, s in enumerate(slots) if view.osm and s.sample and s.sample.tokens is not None]
    parts = [t for _, t in held] or [empty_tokens()]
    read = ("objects", *view.osm)
    shown = {FIELDS[name].rows: FIELDS[name].granularity in read for name in TENSORS.values()}
    counts = {letter: sum(t.rows(letter) for t in parts) if seen else 0 for letter, seen in shown.items()}
    total = counts["N"]
    nodes, last = bucket(total + 1), bucket(total + 1) - 1
    found: dict[str, NDArray] = {}
    for tensor, name in TENSORS.items():
        f, values = FIELDS[name], joined(parts, name)
        room = nodes if f.rows == "N" else bucket(counts[f.rows]) if shown[f.rows] else 0
        shape = [room if i == f.axis else n for i, n in enumerate(values.shape)]
        fill = last if f.into else math.nan if f.unit == NORMALISED else 0
        found[tensor] = np.full(shape, fill, np.float32 if values.dtype.kind == "f" else np.int64)
        place = (slice(None),) * (f.axis or 0) + (slice(counts[f.rows]),)
        found[tensor][place] = values[place]
    ids, tag_node = joined(parts, "tag_ids"), np.repeat(np.arange(total), np.diff(joined(parts, "tag_offsets")))
    distinct, row = np.unique(ids, return_inverse=True)
    tag_room, distinct_room = bucket(len(ids)), bucket(len(distinct))
    slot, lengths = (np.array(n, np.int64) for n in ([i for i, _ in held], [len(t) for _, t in held]))
    features = tags.features(distinct) if tags else np.zeros((0, view.tag_width), np.float16)
    return found | {
        "node_valid": np.arange(nodes) < total,
        "node_sample": _padded(np.repeat(slot, lengths), nodes, len(slots)),
        "edge_valid": np.arange(found["edges"].shape[1]) < counts["E"],
        "tag_node": _padded(tag_node, tag_room, last),
        "tag_row": _padded(row.reshape(-1), tag_room, 0),
        "tag_weight": _padded(_tag_weights(tags, distinct, row, tag_node, total), tag_room, 0),
        "tag_id": _padded(distinct, distinct_room, 0),
        "tag_features": _padded(features, distinct_room, 0),
    }


def _tag_weights(
    tags: TagTable | None, distinct: NDArray[np.int64], row: NDArray[np.int64], node: NDArray[np.int64], nodes: int
) -> NDArray[np.float32]:
    """f32[T] weights that sum to 1 within a node; a node whose tags all weigh 0 takes their plain mean."""
    if tags is None or not len(row):
        return np.zeros(len(row), np.float32)
    weight = tags.weights(distinct)[row.reshape(-1)].astype(np.float64)
    total = np.bincount(node, weight, nodes)
    weight = np.where(total[node] > 0, weight, 1.0)
    total = np.bincount(node, weight, nodes)
    return (weight / total[node]).astype(np.float32)


def _pack_photos(held: Sequence[tuple[int, Photo]], capacity: int, count: int) -> dict[str, NDArray]:
    """All of the photos, each with its slot, but their pixels."""
    xy, lonlat = [(p.x, p.y) for _, p in held], [(p.lon, p.lat) for _, p in held]
    return {
        "photo_valid": np.arange(capacity) < len(held),
        "photo_sample": _padded(np.array([i for i, _ in held], np.int64), capacity, count),
        "photo_xy": _padded(np.array(xy, np.float32).reshape(-1, 2), capacity, 0.5),
        "photo_lonlat": _padded(np.array(lonlat, np.float64).reshape(-1, 2), capacity, 0.0),
        "photo_frame": _padded(np.array([p.frame for _, p in held], np.float32).reshape(-1, 2, 2), capacity, math.nan),
    }

"""A split as encoders see it: photos, the images at their places, over a grid, and beside their places."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from schemas.footprint import gair_query
from trainers.evaluate.gair.colours import sampled
from trainers.evaluate.gair.members import Key
from trainers.evaluate.gair.places import GOLDEN, Places, cells
from trainers.stream.batch import TileBatch

#: Metres by which queries are moved, to both sides.
SHIFTS = (0.0, 10.0, 25.0, 50.0, 100.0, 200.0, 500.0)
SIDES = (1.0, -1.0)
#: Queries put to a model at once.
QUERIES = 2048
#: Plain ways to read tokens between their centres.
MODES = ("bilinear", "bicubic")


class Encoder(Protocol):
    """What is measured."""

    def encode_tiles(self, batch: TileBatch) -> Tensor:
        """Tokens [B,P,D] of the images, a square row by row."""

    def encode_photos(self, batch: TileBatch) -> Tensor:
        """Embeddings [Q,dim] of the photos."""

    def query(
        self, tokens: Tensor, batch: TileBatch, sample: Tensor, xy: Tensor, frame: Tensor | None = None
    ) -> Tensor:
        """Embeddings [M,dim] of places xy f32[M,2], normalised image coordinates, of the tiles ``sample`` i64[M].

        ``tokens`` are those of ``batch``, ``frame`` f32[M,2,2] is what is known of cameras there.
        """


@dataclass(frozen=True, eq=False)
class Seen:
    """What one encoder makes of a split; N photos, T tiles, G places of the grid, M queries."""

    photo: Tensor  # f32 [N,dim]
    place: Tensor  # f32 [N,dim] image at the photo's place
    grid: Tensor  # f32 [T,G,dim]
    moved: Mapping[float, tuple[Tensor, Tensor]]  # by metres, if any: f32 [M,dim] and the photo i64 [M] on the CPU
    tokens: Mapping[str, Tensor]  # by mode: f32 [N,D] tokens at the photo's place


@dataclass
class _Parts:
    photo: list[Tensor] = field(default_factory=list)
    place: list[Tensor] = field(default_factory=list)
    grid: list[Tensor] = field(default_factory=list)
    moved: dict[float, list[tuple[Tensor, Tensor]]] = field(default_factory=lambda: {d: [] for d in SHIFTS})
    tokens: dict[str, list[Tensor]] = field(default_factory=lambda: {mode: [] for mode in MODES})

    def joined(self) -> Seen:
        moved = {d: (torch.cat([q for q, _ in p]), torch.cat([o for _, o in p])) for d, p in self.moved.items() if p}
        tokens = {mode: torch.cat(part) for mode, part in self.tokens.items() if part}
        grid = torch.cat(self.grid) if self.grid else torch.zeros(0)
        return Seen(torch.cat(self.photo), torch.cat(self.place), grid, moved, tokens)


@dataclass(frozen=True, eq=False)
class _Rows:
    """The photos of one batch that count, and what is asked of their tiles."""

    photo: Tensor  # i64 [n] rows of the batch
    slot: Tensor  # i64 [n] of each
    xy: Tensor  # f32 [n,2] normalised image coordinates
    held: Tensor  # i64 [t] slots that have some
    frame: Tensor  # f32 [n,2,2] TileBatch.photo_frame
    #: By metres: slot i64 [m], xy f32 [m,2], frame f32 [m,2,2], photo of the split i64 [m].
    moved: Mapping[float, tuple[Tensor, Tensor, Tensor, Tensor]]


@torch.no_grad()
def embed(
    encoders: Sequence[Encoder], batches: Iterable[TileBatch], mask: Callable[[TileBatch], Tensor],
    size: Mapping[Key, tuple[float, float]], device: torch.device, grid: int, tokens: bool,
) -> tuple[Places, list[Seen]] | None:  # fmt: skip
    """What each of the ``encoders`` makes of the photos of ``batches``, and where these lie; None without photos.

    Args:
        encoders: all of them see each batch, which is read once.
        batches: of samples as they are stored.
        mask: which photos of a batch count, bool[Q].
        size: metres of each sample; photos of others are left out.
        device: of the encoders.
        grid: places a side of the grid over a tile; 0: neither a grid nor moved queries.
        tokens: whether tokens are sampled as well.
    """
    parts = [_Parts() for _ in encoders]
    where: list[tuple[Tensor, Tensor, Tensor]] = []
    keys: list[Key] = []
    ground: list[tuple[Tensor, Tensor]] = []
    count = 0
    for batch in batches:
        named = list(zip(batch.source.tolist(), batch.key, strict=True))
        metres = torch.tensor([size.get(key, (math.nan, math.nan)) for key in named], dtype=torch.float64)
        batch = batch.to(device)
        rows = _rows(batch, mask(batch), metres, count, grid > 0)
        if not len(rows.photo):
            continue
        tile = torch.searchsorted(rows.held, rows.slot) + len(keys)
        where.append((tile, batch.photo_xy[rows.photo].double(), batch.photo_lonlat[rows.photo].double()))
        held = rows.held.tolist()
        keys += [named[i] for i in held]
        ground.append((batch.lonlat[rows.held].double().cpu(), metres[held]))
        count += len(rows.photo)
        for encoder, part in zip(encoders, parts, strict=True):
            _see(encoder, batch, rows, part, grid, tokens)
    if not count:
        return None
    tile, xy, lonlat = (torch.cat(part).cpu() for part in zip(*where, strict=True))
    centre, sides = (torch.cat(part) for part in zip(*ground, strict=True))
    return Places(tile, xy, lonlat, keys, centre, sides), [part.joined() for part in parts]


def _rows(batch: TileBatch, valid: Tensor, metres: Tensor, before: int, moving: bool) -> _Rows:
    """``metres`` f64[B,2] of each slot, ``before`` photos of the split were in other batches."""
    known = torch.cat((metres.isfinite().all(1), torch.zeros(1, dtype=torch.bool))).to(valid.device)
    photo = (valid & known[batch.photo_sample]).nonzero().squeeze(1)
    slot, xy, frame = batch.photo_sample[photo], batch.photo_xy[photo].double(), batch.photo_frame[photo]
    moved = {}
    if moving:
        number = torch.arange(len(photo), device=xy.device) + before
        way = torch.stack(((GOLDEN * number).cos(), (GOLDEN * number).sin()), 1).double()
        size = metres.to(xy.device)[slot]
        for distance in SHIFTS:
            steps = [distance * side for side in (SIDES if distance else SIDES[:1])]
            at = torch.cat([xy + step * way / size for step in steps])
            inside = ((at >= 0) & (at < 1)).all(1)
            again = len(steps)
            whose = torch.arange(len(photo), device=xy.device).repeat(again)[inside]
            moved[distance] = (slot[whose], at[inside].float(), frame[whose], number[whose])
    return _Rows(photo, slot, batch.photo_xy[photo], slot.unique(), frame, moved)


def _see(encoder: Encoder, batch: TileBatch, rows: _Rows, part: _Parts, grid: int, tokens: bool) -> None:
    image = encoder.encode_tiles(batch)
    part.photo.append(encoder.encode_photos(batch)[rows.photo].float())
    part.place.append(_asked(encoder, image, batch, rows.slot, rows.xy, rows.frame))
    if tokens:
        for mode in MODES:
            part.tokens[mode].append(sampled(image, rows.slot, gair_query(rows.xy), mode))
    if not grid:
        return
    xy = cells(grid).float().to(rows.xy.device)
    found = _asked(encoder, image, batch, rows.held.repeat_interleave(len(xy)), xy.repeat(len(rows.held), 1))
    part.grid.append(found.view(len(rows.held), len(xy), -1))
    for distance, (slot, at, frame, own) in rows.moved.items():
        if len(own):
            part.moved[distance].append((_asked(encoder, image, batch, slot, at, frame), own.cpu()))


def _asked(
    encoder: Encoder, tokens: Tensor, batch: TileBatch, slot: Tensor, xy: Tensor, frame: Tensor | None = None
) -> Tensor:
    rows = torch.arange(len(slot), device=slot.device).split(QUERIES)
    asked = [(slot[r], xy[r], None if frame is None else frame[r]) for r in rows]
    return torch.cat([encoder.query(tokens, batch, *one).float() for one in asked])

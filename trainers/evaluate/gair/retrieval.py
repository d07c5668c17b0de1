"""Retrieval across all tiles and within one, and of photos by queries that were moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.evaluate.gair.intervals import PerPhoto
from trainers.evaluate.gair.places import Places
from trainers.models.losses import normalise

#: Numbers of candidates.
AT = (1, 5, 10)
#: Cosines nearer to each other than this are equal: float32 tells them apart by chance.
TIE = 1e-6
#: Queries compared with the gallery at once.
CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where the right answers of M queries stand among the candidates."""

    above: Tensor  # f64 [M] candidates that are nearer than the right one
    tied: Tensor  # f64 [M] others that are as near

    def hits(self, k: int) -> Tensor:
        """f64[M]: whether the right one is among the first k; where it is tied, how often it would be by lot."""
        return ((k - self.above) / (self.tied + 1)).clamp(0, 1)


def ranks(queries: Tensor, gallery: Tensor, own: Tensor, tile: Tensor) -> tuple[Ranks, Ranks]:
    """Ranks by cosine among all of the gallery, and among its rows of the right one's tile.

    Args:
        queries, gallery: f32 [M,D] and [N,D], on one device.
        own: i64 [M] the right row of the gallery.
        tile: i64 [N] of the gallery's rows.
    """
    gallery, own, tile = normalise(gallery), own.to(gallery.device), tile.to(gallery.device)
    parts: list[list[Tensor]] = [[], [], [], []]
    for some, right in zip(queries.split(CHUNK), own.split(CHUNK), strict=True):
        similar = (normalise(some) @ gallery.T / TIE).round()
        mine = similar.gather(1, right[:, None])
        above, tied, near = similar > mine, similar == mine, tile[right][:, None] == tile[None]
        found = (above.sum(1), tied.sum(1) - 1, (above & near).sum(1), (tied & near).sum(1) - 1)
        for held, part in zip(parts, found, strict=True):
            held.append(part.double().cpu())
    every = [torch.cat(part) for part in parts]
    return Ranks(every[0], every[1]), Ranks(every[2], every[3])


def retrieval(name: str, queries: Tensor, gallery: Tensor, places: Places) -> dict[str, PerPhoto]:
    """``NAME/r@k`` and ``NAME_in_tile/r@k``; row i of the gallery f32[N,D] answers query i.

    Within a tile only photos count that are not alone in theirs.
    """
    rows = torch.arange(len(places))
    across, within = ranks(queries, gallery, rows, places.tile)
    several = places.mates > 1
    found = {f"{name}/r@{k}": PerPhoto(across.hits(k), rows) for k in AT}
    if several.any():
        found |= {f"{name}_in_tile/r@{k}": PerPhoto(within.hits(k)[several], rows[several]) for k in AT}
    return found


def retrieval_chance(names: Sequence[str], places: Places) -> dict[str, float]:
    """What drawing lots would give: k of N, and the mean of k of the photos of a tile."""
    mates = places.mates
    several = mates[mates > 1].double()
    found = {f"{name}/r@{k}": min(1.0, k / len(places)) for name in names for k in AT}
    if len(several):
        held = {k: float((k / several).clamp_max(1).mean()) for k in AT}
        found |= {f"{name}_in_tile/r@{k}": held[k] for name in names for k in AT}
    return found


def shift_curve(moved: Mapping[float, tuple[Tensor, Tensor]], photo: Tensor, places: Places) -> dict[str, PerPhoto]:
    """``shift/r@1_at_Dm`` and ``shift_in_tile/r@1_at_Dm``: the photo by a query D metres beside its place.

    Args:
        moved: by distance the queries f32[M,D] that stay in their tile, and the photo i64[M] of each.
        photo: f32 [N,D].
        places: of the photos.
    """
    several = places.mates > 1
    found = {}
    for distance, (queries, own) in moved.items():
        across, within = ranks(queries, photo, own, places.tile)
        found[f"shift/r@1_at_{distance:g}m"] = PerPhoto(across.hits(1), own)
        held = several[own]
        if held.any():
            found[f"shift_in_tile/r@1_at_{distance:g}m"] = PerPhoto(within.hits(1)[held], own[held])
    return found


def shift_chance(moved: Mapping[float, tuple[Tensor, Tensor]], places: Places) -> dict[str, float]:
    """What drawing lots would give, of the same queries."""
    mates = places.mates
    found = {}
    for distance, (_, own) in moved.items():
        found[f"shift/r@1_at_{distance:g}m"] = 1 / len(places)
        held = mates[own][mates[own] > 1].double()
        if len(held):
            found[f"shift_in_tile/r@1_at_{distance:g}m"] = float((1 / held).mean())
    return found

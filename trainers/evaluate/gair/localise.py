"""Localisation: how far from a photo the place of a grid lies that is the nearest to it in the common space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.evaluate.gair.intervals import PerPhoto
from trainers.evaluate.gair.places import Places, cells, metres
from trainers.models.losses import great_circle, normalise

#: Photos compared with the grid at once, and photos from which the chance across tiles is told.
CHUNK, SOME = 256, 64


@dataclass(frozen=True, eq=False)
class Gallery:
    """A grid of places over every tile: what a photo is looked for in."""

    xy: Tensor  # f64 [G,2] normalised image coordinates, the same in every tile
    lonlat: Tensor  # f64 [T,G,2] degrees

    @classmethod
    def of(cls, places: Places, side: int) -> Gallery:
        """``side`` x ``side`` places a tile."""
        xy, tiles = cells(side), len(places.key)
        own = torch.arange(tiles).repeat_interleave(len(xy))
        return cls(xy, places.degrees(xy.repeat(tiles, 1), own).view(tiles, len(xy), 2))

    def apart(self, places: Places) -> Tensor:
        """Metres f64[N,G] from each photo to the places of its own tile."""
        step = (self.xy[None] - places.xy[:, None]) * places.size[places.tile][:, None]
        return step.norm(dim=-1)


def localisation(name: str, photo: Tensor, grid: Tensor, gallery: Gallery, places: Places) -> dict[str, PerPhoto]:
    """``NAME/error_m`` and ``NAME_in_tile/error_m``, medians, and ``NAME/right_tile``, a share of the photos.

    Args:
        name: of the grid.
        photo: f32 [N,D].
        grid: f32 [T,G,D] embeddings of its places.
        gallery: where they are.
        places: of the photos.
    """
    tiles, count, _ = grid.shape
    flat, tile = normalise(grid.flatten(0, 1)), places.tile.to(grid.device)
    best, inner = [], []
    for some, own in zip(photo.split(CHUNK), tile.split(CHUNK), strict=True):
        similar = normalise(some) @ flat.T
        best.append(similar.argmax(1).cpu())
        held = similar.view(len(some), tiles, count)[torch.arange(len(some), device=own.device), own]
        inner.append(held.argmax(1).cpu())
    named, rows = torch.cat(best), torch.arange(len(places))
    across = metres(places.lonlat, gallery.lonlat.flatten(0, 1)[named])
    within = gallery.apart(places)[rows, torch.cat(inner)]
    return {
        f"{name}/error_m": PerPhoto(across, rows, median=True),
        f"{name}/right_tile": PerPhoto((named // count == places.tile).double(), rows),
        f"{name}_in_tile/error_m": PerPhoto(within, rows, median=True),
    }


def localisation_chance(name: str, gallery: Gallery, places: Places) -> dict[str, float]:
    """What a random place of the grid gives, of all tiles and of the photo's."""
    some = places.lonlat[:: -(-len(places) // SOME)]
    return {
        f"{name}/error_m": float(great_circle(some, gallery.lonlat.flatten(0, 1)).median()),
        f"{name}/right_tile": 1 / len(places.key),
        f"{name}_in_tile/error_m": float(gallery.apart(places).median()),
    }


def localisation_floor(name: str, gallery: Gallery, places: Places) -> dict[str, float]:
    """What the place of the grid that is nearest to each photo gives: no model does better."""
    least = float(gallery.apart(places).amin(1).median())
    return {f"{name}/error_m": least, f"{name}/right_tile": 1.0, f"{name}_in_tile/error_m": least}

"""Colour histograms as an encoder: what can be found without having learned anything."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.bands import RGB, canonical
from trainers.stream.batch import TileBatch

#: Bins of red, green and blue each, and cells of a tile a side.
BINS, CELLS = 4, 12


class Colours:
    """Embeds a photo by its joint histogram of red, green and blue, and a place by that of the ground around it.

    Square roots of the shares, so that the cosine of two is the Bhattacharyya coefficient. Around a place lies a square
    of a quarter of the tile's side (3 x 3 cells, mixed bilinearly). ``channels``: those of red, green and blue.
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        self.channels = list(channels)

    @classmethod
    def of(cls, bands: tuple[str, ...]) -> Colours | None:
        """For images with ``bands``; None where they lack one of the three."""
        held = [canonical(band) for band in bands]
        if not set(RGB) <= set(held):
            return None
        red, green, blue = (held.index(band) for band in RGB)
        return cls((red, green, blue))

    def encode_tiles(self, batch: TileBatch) -> Tensor:
        """Histograms f32[B,CELLS * CELLS,BINS ** 3] around each cell."""
        maps = _one_hot(batch.rs[:, self.channels])
        cells = F.adaptive_avg_pool2d(maps, CELLS)
        around = F.avg_pool2d(cells, 3, 1, 1, count_include_pad=False)
        return around.flatten(2).transpose(1, 2)

    def encode_photos(self, batch: TileBatch) -> Tensor:
        """f32[Q,BINS ** 3]."""
        return _one_hot(batch.photos).mean((2, 3)).sqrt()

    def query(self, tokens: Tensor, sample: Tensor, u: Tensor) -> Tensor:
        """f32[Q,BINS ** 3] at places ``u`` f32[Q,2] in -1..1 of the tiles ``sample`` i64[Q]."""
        return sampled(tokens, sample, u, "bilinear").sqrt()


def _one_hot(pixels: Tensor) -> Tensor:
    """Which bin each pixel of u8[N,3,H,W] falls in, f32[N,BINS ** 3,H,W]."""
    level = pixels.long() * BINS // 256
    bins = (level[:, 0] * BINS + level[:, 1]) * BINS + level[:, 2]
    found = torch.zeros(len(bins), BINS**3, *bins.shape[1:], device=pixels.device)
    return found.scatter_(1, bins[:, None], 1.0)


def sampled(tokens: Tensor, sample: Tensor, u: Tensor, mode: str, chunk: int = 256) -> Tensor:
    """Tokens f32[B,P,D], a square row by row, at places ``u`` f32[Q,2] in -1..1 of the tiles ``sample``, f32[Q,D].

    ``mode``: bilinear or bicubic; beyond the outermost centres the border goes on.
    """
    count, patches, dim = tokens.shape
    side = round(patches**0.5)
    maps = tokens.float().transpose(1, 2).reshape(count, dim, side, side)
    parts = [
        F.grid_sample(maps[own], at.float()[:, None, None], mode, "border", align_corners=False)[:, :, 0, 0]
        for own, at in zip(sample.split(chunk), u.split(chunk), strict=True)
    ]
    return torch.cat(parts) if parts else tokens.new_zeros(0, dim)

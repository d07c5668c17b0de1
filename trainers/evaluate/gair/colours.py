"""Colour histograms as an encoder: what can be found without having learned anything."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.bands import RGB, canonical
from schemas.footprint import gair_query
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
        cells = self._cells(batch)
        around = F.avg_pool2d(cells, 3, 1, 1, count_include_pad=False)
        return around.flatten(2).transpose(1, 2)

    def encode_photos(self, batch: TileBatch) -> Tensor:
        """f32[Q,BINS ** 3]."""
        return histograms(batch.photos, 1)[:, :, 0, 0].sqrt()

    def query(
        self, tokens: Tensor, _batch: TileBatch, sample: Tensor, xy: Tensor, _frame: Tensor | None = None
    ) -> Tensor:
        """f32[Q,BINS ** 3] at places xy f32[Q,2] of the tiles ``sample`` i64[Q]."""
        return sampled(tokens, sample, gair_query(xy), "bilinear").sqrt()

    def _cells(self, batch: TileBatch) -> Tensor:
        """Histograms f32[B,BINS ** 3,CELLS,CELLS], those of several dates in equal parts."""
        if batch.rs.dim() == 4:
            return histograms(batch.rs[:, self.channels], CELLS)
        dates = batch.rs[:, :, self.channels]
        each = histograms(dates.flatten(0, 1), CELLS).unflatten(0, dates.shape[:2])
        share = batch.has_date.float() / batch.has_date.sum(1, keepdim=True).clamp_min(1)
        return (each * share[:, :, None, None, None]).sum(1)


def histograms(pixels: Tensor, cells: int) -> Tensor:
    """Shares f32[N,BINS ** 3,cells,cells] of each colour among the pixels of u8[N,3,H,W] in each cell of a grid."""
    count, _, height, width = pixels.shape
    level = pixels.int() * BINS // 256
    bins = (level[:, 0] * BINS + level[:, 1]) * BINS + level[:, 2]
    row, column = (torch.arange(n, device=pixels.device) * cells // n for n in (height, width))
    cell = row[:, None] * cells + column[None]
    image = torch.arange(count, device=pixels.device)[:, None, None] * cells**2
    held = torch.bincount(((image + cell) * BINS**3 + bins).flatten(), minlength=count * cells**2 * BINS**3)
    found = held.view(count, cells, cells, BINS**3).float()
    return (found / found.sum(-1, keepdim=True).clamp_min(1)).permute(0, 3, 1, 2).contiguous()


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

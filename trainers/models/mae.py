"""Masked autoencoding of the image: which patches stay, the decoder, the reconstruction loss (He et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainers.models.losses import masked_mean
from trainers.models.noise import uniform
from trainers.models.vit import Block, ViTSettings, grid_positions, init_linear, run_blocks, sincos

#: Stream of random numbers for image masks.
IMAGE_MASK = 101


@dataclass
class PatchMask:
    """Which patches a sample keeps."""

    keep: Tensor  # i64 [B,V] visible patches
    hidden: Tensor  # i64 [B,M] the others


def mask_patches(seed: Tensor, grid: int, ratio: float, block: int = 1) -> PatchMask:
    """Keep ``grid² * (1 - ratio)`` patches (at least one), chosen by the slot seeds i64[B].

    ``block`` > 1 hides whole squares of so many patches a side, the last one in part
    (docs/papers/geolink.md#image-encoder, ``mask_scale``).
    """
    side = torch.arange(grid, device=seed.device) // block
    number = (side[:, None] * grid + side[None]).reshape(-1)
    noise = uniform(seed[:, None], number[None], IMAGE_MASK)
    order = torch.argsort(noise, dim=1, stable=True)
    visible = max(1, int(grid * grid * (1 - ratio)))
    return PatchMask(order[:, :visible], order[:, visible:])


def gather_patches(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows [B,V,D] of ``tokens`` [B,P,D] at ``index`` i64[B,V]."""
    b, p, d = tokens.shape
    start = torch.arange(b, device=index.device)[:, None] * p
    return tokens.reshape(b * p, d).index_select(0, (start + index).reshape(-1)).view(b, -1, d)


def patchify(image: Tensor, patch: int) -> Tensor:
    """Pixels [B,C,S,S] to [B,P,patch*patch*C], channels innermost."""
    b, c, s, _ = image.shape
    g = s // patch
    return image.view(b, c, g, patch, g, patch).permute(0, 2, 4, 3, 5, 1).reshape(b, g * g, -1)


class MaeDecoder(nn.Module):
    """Visible tokens to the pixels of the hidden patches (docs/papers/geolink.md#pixel-decoder)."""

    position: Tensor

    def __init__(
        self, vit: ViTSettings, channels: int, dim: int, depth: int, heads: int, recompute: bool = False
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.embed = nn.Linear(vit.dim, dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.register_buffer("position", sincos(grid_positions(vit.grid), dim), persistent=False)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, vit.patch**2 * channels)
        self.apply(init_linear)

    def forward(self, token: Tensor, patches: Tensor, mask: PatchMask) -> Tensor:
        """Class token [B,0|1,D] and visible tokens [B,V,D] to predictions [B,M,patch*patch*C].

        The blocks see a set whose members carry their positions, so the patches need not be put back in order.
        """
        seen = self.embed(patches) + self.position[mask.keep]
        filler = self.mask_token + self.position[mask.hidden]
        x = torch.cat((self.embed(token).to(seen.dtype), seen, filler), 1)
        x = run_blocks(self.blocks, x, self.recompute and self.training)
        return self.head(self.norm(x[:, token.shape[1] + patches.shape[1] :]))


def reconstruction_loss(
    predicted: Tensor, pixels: Tensor, valid: Tensor, gather: bool = False, data: Tensor | None = None
) -> Tensor:
    """Mean squared error over the hidden patches of valid samples, each patch normalised by its own mean and variance.

    docs/papers/geolink.md#losses. ``predicted`` [B,M,F], ``pixels`` f32[B,M,F], ``valid`` bool[B];
    ``gather`` is that of :func:`~trainers.models.losses.masked_mean`. ``data`` bool[B,M,F] is false where a pixel is no
    data: it counts neither for the error of its patch nor for its mean and variance; None: all are.
    """
    if data is not None:
        count = data.sum(-1, keepdim=True).float()
        pixels, least = pixels.masked_fill(~data, 0.0), count.clamp_min(1)
        centred = (pixels - pixels.sum(-1, keepdim=True) / least).masked_fill(~data, 0.0)
        variance = centred.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)
        target = centred / (variance + 1e-6).sqrt()
        error = (predicted.float() - target).square().masked_fill(~data, 0.0).sum(-1) / least[..., 0]
        return masked_mean(error, valid[:, None] & (count[..., 0] > 0), gather)
    centred = pixels - pixels.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / (pixels.shape[-1] - 1)
    target = centred / (variance + 1e-6).sqrt()
    error = (predicted.float() - target).square().mean(-1)
    return masked_mean(error, valid[:, None].expand(error.shape), gather)

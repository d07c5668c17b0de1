"""Masked autoencoding of the image: which patches stay, the decoder, the reconstruction loss (He et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainers.models.losses import masked_mean
from trainers.models.noise import uniform
from trainers.models.vit import Block, ViTSettings, grid_positions, init_linear, sincos

#: Stream of random numbers for image masks.
IMAGE_MASK = 101


@dataclass
class PatchMask:
    """Which patches a sample keeps."""

    keep: Tensor  # i64 [B,V] visible patches
    restore: Tensor  # i64 [B,P] place of each patch in (visible, masked) order
    masked: Tensor  # bool [B,P]


def mask_patches(seed: Tensor, patches: int, ratio: float) -> PatchMask:
    """Keep ``patches * (1 - ratio)`` patches (at least one), chosen by the slot seeds i64[B]."""
    noise = uniform(seed[:, None], torch.arange(patches, device=seed.device)[None], IMAGE_MASK)
    order = torch.argsort(noise, dim=1, stable=True)
    restore = torch.argsort(order, dim=1)
    visible = max(1, int(patches * (1 - ratio)))
    return PatchMask(order[:, :visible], restore, restore >= visible)


def gather_patches(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens [B,P,D] at ``index`` i64[B,V]: [B,V,D]."""
    return torch.gather(tokens, 1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def patchify(image: Tensor, patch: int) -> Tensor:
    """Pixels [B,C,S,S] to [B,P,patch*patch*C], channels innermost."""
    b, c, s, _ = image.shape
    g = s // patch
    return image.view(b, c, g, patch, g, patch).permute(0, 2, 4, 3, 5, 1).reshape(b, g * g, -1)


class MaeDecoder(nn.Module):
    """Visible tokens to the pixels of every patch: two blocks by default (specs/geolink.md section 3.2)."""

    position: Tensor

    def __init__(self, vit: ViTSettings, channels: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(vit.dim, dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        position = torch.cat((torch.zeros(1, dim), sincos(grid_positions(vit.grid), dim)))
        self.register_buffer("position", position[None], persistent=False)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, vit.patch**2 * channels)
        self.apply(init_linear)

    def forward(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Class token and visible tokens [B,1+V,D] to predictions [B,P,patch*patch*C]."""
        x = self.embed(tokens)
        missing = restore.shape[1] + 1 - x.shape[1]
        filler = self.mask_token.to(x.dtype).expand(len(x), missing, -1)
        patches = gather_patches(torch.cat((x[:, 1:], filler), 1), restore)
        x = torch.cat((x[:, :1], patches), 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))[:, 1:]


def reconstruction_loss(predicted: Tensor, image: Tensor, mask: PatchMask, valid: Tensor, patch: int) -> Tensor:
    """Mean squared error over the masked patches of valid samples, each patch normalised by its own mean and variance.

    specs/geolink.md section 4.1. ``predicted`` [B,P,F], ``image`` f32[B,C,S,S], ``valid`` bool[B].
    """
    target = patchify(image, patch).float()
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    error = (predicted.float() - target).square().mean(-1)
    return masked_mean(error, mask.masked & valid[:, None])

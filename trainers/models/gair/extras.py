"""What GAIR can learn from beside its contrast: the encoders as they were at first, and hidden patches."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from trainers.models.gair.croma import Croma
from trainers.models.gair.photo import PhotoEncoder
from trainers.models.gair.settings import GairSettings
from trainers.models.losses import normalise
from trainers.models.mae import MaeDecoder, gather_patches, mask_patches, patchify, reconstruction_loss
from trainers.models.vit import PatchTokens, PatchViT, PixelNorm, ViTSettings


class FirstEncoders(nn.Module):
    """Frozen copies of encoders as they are now (docs/papers/gair.md#losses, distillation)."""

    def __init__(self, **encoders: nn.Module) -> None:
        super().__init__()
        self.held = nn.ModuleDict({name: copy.deepcopy(encoder) for name, encoder in encoders.items()})
        self.requires_grad_(requires_grad=False)

    def renew(self, **encoders: nn.Module) -> None:
        """Take the weights of ``encoders``: after pretrained ones were loaded into them."""
        for name, encoder in encoders.items():
            self.held[name].load_state_dict(encoder.state_dict())

    def train(self, mode: bool = True) -> FirstEncoders:
        """Always in evaluation mode: a target is without dropout."""
        return super().train(mode and False)

    def __getitem__(self, name: str) -> nn.Module:
        return self.held[name]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines f32[N] of rows [N,D]."""
    return (normalise(a) * normalise(b)).sum(-1)


class MaskedImages(nn.Module):
    """Predicts the hidden patches of images from what an encoder makes of the others (He et al. 2022)."""

    def __init__(self, settings: GairSettings, vit: ViTSettings, channels: int) -> None:
        super().__init__()
        self.vit, self.ratio = vit, settings.mask
        s = settings
        self.decoder = MaeDecoder(vit, channels, s.decoder_dim, s.decoder_depth, s.decoder_heads)

    def forward(
        self, encoder: Croma | PatchViT | PatchTokens | PhotoEncoder, norm: PixelNorm, images: Tensor, seed: Tensor,
        valid: Tensor, data: Tensor, gather: bool,
    ) -> Tensor:  # fmt: skip
        """Mean squared error of hidden patches of images u8[N,C,S,S].

        Args:
            encoder: its patches a side are those of the settings.
            norm: 8-bit levels to what the encoder takes.
            images: pixels.
            seed: i64[N], decides which patches are hidden.
            valid: bool[N], which images count.
            data: u8[N,S,S], 255 where a pixel is data; [N,0,0] where all are.
            gather: whether the ranks' images are one batch.
        """
        patch = self.vit.patch
        mask = mask_patches(seed, self.vit.grid, self.ratio)
        pixels = patchify(images, patch)
        seen = norm.patches(gather_patches(pixels, mask.keep))
        tokens = encoder.encode_visible(seen, mask.keep)
        token, patches = tokens.split((int(encoder.class_token), mask.keep.shape[1]), 1)
        predicted = self.decoder(token, patches, mask)
        planes = None
        if data.shape[1]:
            planes = (data == 255)[:, None].expand(-1, images.shape[1], -1, -1).contiguous()
            planes = gather_patches(patchify(planes, patch), mask.hidden)
        hidden = norm.patches(gather_patches(pixels, mask.hidden))
        return reconstruction_loss(predicted, hidden, valid, gather, planes)

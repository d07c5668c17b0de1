"""A small convolutional encoder, which learns from thousands of pictures what a ViT learns from millions.

In: f32[B,C,S,S] normalised pixels. Out: tokens [B,P,D], row-major, one for each ``patch`` × ``patch`` pixels; or, as
:class:`PhotoConvNet`, [B,D]. Convolutions halve the sides, norms are over groups of channels, so that no picture
depends on the others of its batch (Wu and He 2018).
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from schemas.errors import ConfigError
from trainers.models.vit import PixelNorm, ViTSettings, init_linear

#: Channels that are normalised together, and cells a side of what a photo's layout is kept in.
_CHANNELS, _LAYOUT = 8, 4


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_layer(dim, dim, 1), *_layer(dim, dim, 1)[:2])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.layers(x))


class ConvNet(nn.Module):
    """Images to tokens.

    Args:
        settings: sizes; ``patch`` is a power of two, ``depth`` counts the residual blocks behind, ``heads`` is unused.
        channels: bands of an image.
    """

    def __init__(self, settings: ViTSettings, channels: int = 3) -> None:
        super().__init__()
        self.settings = settings
        halvings = settings.patch.bit_length() - 1
        if settings.patch != 1 << halvings or not halvings or settings.dim % _CHANNELS:
            raise ConfigError(
                f"a conv encoder takes a patch of 2, 4, 8, … pixels and a dim that {_CHANNELS} divides, not "
                f"patch={settings.patch} and dim={settings.dim}"
            )
        widths = [channels, *(_width(settings.dim, (k + 1) / halvings) for k in range(halvings))]
        stem = [layer for k in range(halvings) for layer in _layer(widths[k], widths[k + 1], 2, 3 if k else 5)]
        self.layers = nn.Sequential(*stem, *(Residual(settings.dim) for _ in range(settings.depth)))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image).flatten(2).transpose(1, 2)

    def load(self, path: str, _bands: tuple[str, ...], _norm: PixelNorm) -> None:
        """There are no published weights of it.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"init.rs={path} has the weights of a ViT, and arch.rs_encoder=conv; give init.run")


class PhotoConvNet(nn.Module):
    """Photos to features [Q,D], through their layout in 4 × 4 cells."""

    def __init__(self, settings: ViTSettings, _pooler: bool = True) -> None:
        super().__init__()
        self.net = ConvNet(settings)
        self.layout = nn.AdaptiveAvgPool2d(min(_LAYOUT, settings.grid))
        self.head = nn.Linear(settings.dim * min(_LAYOUT, settings.grid) ** 2, settings.dim)
        init_linear(self.head)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layout(self.net.layers(image)).flatten(1))

    def load(self, path: str) -> None:
        """There are no published weights of it.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"init.sv={path} has the weights of a ViT, and arch.sv_encoder=conv; give init.run")


def _width(dim: int, share: float) -> int:
    return max(_CHANNELS, math.ceil(dim * share / _CHANNELS) * _CHANNELS)


def _layer(width: int, out: int, stride: int, kernel: int = 3) -> list[nn.Module]:
    convolution = nn.Conv2d(width, out, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.GroupNorm(out // _CHANNELS, out), nn.ReLU()]

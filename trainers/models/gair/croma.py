"""CROMA's optical encoder (Fuller et al. 2023), with its parameter names, so that its weights load.

In: f32[B,C,S,S] normalised pixels. Out: patch tokens [B,P,D], row-major. docs/papers/gair.md#encoders.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.bands import canonical
from schemas.errors import ConfigError
from trainers.models.vit import PixelNorm, ViTSettings, grid_positions, init_linear
from trainers.models.weights import load_strictly, read_weights, under

#: Bands that the published weights take, in the order of their channels: all of Sentinel-2 L2A.
BANDS = tuple(map(canonical, ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")))
#: Parts of the published file beside the optical encoder.
_OTHERS = ("s1_encoder.", "s1_GAP_FFN.", "s2_GAP_FFN.", "joint_encoder.")


def slopes(heads: int) -> list[float]:
    """ALiBi's slope of each head (Press et al. 2022): 2^(-8k/heads) for a power of two; else those of the power below,
    then every other one of the power above.

    >>> [round(s, 4) for s in slopes(16)[:4]], slopes(3)
    ([0.7071, 0.5, 0.3536, 0.25], [0.0625, 0.00390625, 0.25])
    """
    below = 1 << (heads.bit_length() - 1)
    found = [2.0 ** (-8 * k / below) for k in range(1, below + 1)]
    return found + [2.0 ** (-4 * k / below) for k in range(1, 2 * below + 1, 2)][: heads - below]


def alibi(heads: int, side: int) -> Tensor:
    """What is added to attention scores, f32[heads,P,P]: minus slope times the distance of two patches of a square
    grid, in patches."""
    place = grid_positions(side).double()
    distance = (place[:, None] - place).square().sum(-1).sqrt()
    return (-torch.tensor(slopes(heads), dtype=torch.float64)[:, None, None] * distance).float()


class Attention(nn.Module):
    """Norm and multi-head self-attention with a bias of the scores."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)
        self.input_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [B,P,D], bias f32[B or 1,heads,P,P]."""
        b, n, d = x.shape
        q, k, v = self.to_qkv(self.input_norm(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype))
        return self.to_out(seen.transpose(1, 2).reshape(b, n, d))


class FeedForward(nn.Module):
    """Norm and two layers with GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # An identity stands where CROMA has a dropout of 0, which counts in the names.
        self.net = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Identity(), nn.Linear(4 * dim, dim))
        self.input_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.input_norm(x))


class Block(nn.ModuleList):
    """Attention, then two layers; both pre-norm."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__((Attention(dim, heads), FeedForward(dim)))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        attention, feed_forward = self
        x = x + attention(x, bias)
        return x + feed_forward(x)


class Transformer(nn.Module):
    """Pre-norm blocks and a final norm."""

    def __init__(self, settings: ViTSettings) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(settings.dim, settings.heads) for _ in range(settings.depth))
        self.norm_out = nn.LayerNorm(settings.dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        for block in self.layers:
            x = block(x, bias)
        return self.norm_out(x)


class Croma(nn.Module):
    """Vision transformer without class token and position embedding: attention falls with distance instead.

    Args:
        settings: sizes.
        channels: image bands.
    """

    bias: Tensor
    class_token = False

    def __init__(self, settings: ViTSettings, channels: int) -> None:
        super().__init__()
        self.settings = settings
        self.linear_input = nn.Linear(channels * settings.patch**2, settings.dim)
        self.transformer = Transformer(settings)
        self.register_buffer("bias", alibi(settings.heads, settings.grid), persistent=False)
        self.apply(init_linear)

    def forward(self, image: Tensor) -> Tensor:
        b, c, _, side = image.shape
        p = self.settings.patch
        n = side // p
        patches = image.reshape(b, c, n, p, n, p).permute(0, 2, 4, 1, 3, 5).reshape(b, n * n, c * p * p)
        bias = self.bias if n == self.settings.grid else alibi(self.settings.heads, n).to(image.device)
        return self.transformer(self.linear_input(patches), bias[None])

    def encode_visible(self, pixels: Tensor, patch: Tensor) -> Tensor:
        """Tokens [B,V,D] of chosen patches alone: pixels [B,V,patch*patch*C], channels innermost; numbers i64[B,V]."""
        dim, size = self.settings.dim, self.settings.patch**2
        weight = self.linear_input.weight.view(dim, -1, size).transpose(1, 2).flatten(1)
        bias = self.bias[:, patch[:, :, None], patch[:, None]].transpose(0, 1)
        return self.transformer(F.linear(pixels, weight, self.linear_input.bias), bias)

    def load(self, path: str, bands: tuple[str, ...], norm: PixelNorm) -> None:
        """Take the published weights, of the file itself or of its optical encoder alone.

        Of their bands those are kept that the model has. They take pixels of 0 … 1: what ``norm`` makes of 8 bits is
        undone in the patch embedding, so that the tokens are the same.

        Raises:
            ConfigError: the file cannot be read, a band is none of CROMA's, or anything else does not fit.
        """
        unknown = [b for b in bands if canonical(b) not in BANDS]
        if unknown:
            raise ConfigError(
                f"CROMA has no band {unknown[0]}; it takes {', '.join(BANDS)}: name some as arch.bands=[…]"
            )
        held = read_weights(path)
        if any(name.startswith("s2_encoder.") for name in held):
            rest = {n: v for n, v in held.items() if not n.startswith((*_OTHERS, "s2_encoder."))}
            held = under(held, "s2_encoder.") | rest
        s = self.settings
        load_strictly(
            self, self._fitted(held, bands, norm), path, "CROMA-base has patch 8, 12 blocks of 768 and 16 heads, the "
            f"model of arch.rs {s.patch}, {s.depth} of {s.dim} and {s.heads}",
        )  # fmt: skip

    def _fitted(self, held: dict[str, Tensor], bands: tuple[str, ...], norm: PixelNorm) -> dict[str, Tensor]:
        """The weights with a patch embedding for the model's bands and its norm, where it has the published shape."""
        dim, size = self.settings.dim, self.settings.patch**2
        weight, bias = held.get("linear_input.weight"), held.get("linear_input.bias")
        if weight is None or bias is None or (*weight.shape, *bias.shape) != (dim, len(BANDS) * size, dim):
            return held
        blocks = weight.view(dim, len(BANDS), size)[:, [BANDS.index(canonical(b)) for b in bands]]
        scaled = (blocks * (norm.deviation.view(-1, 1) / 255)).flatten(1)
        moved = (blocks.sum(2) * (norm.mean.flatten() / 255)).sum(1)
        return {**held, "linear_input.weight": scaled, "linear_input.bias": bias + moved}

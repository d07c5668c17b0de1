"""A plain vision transformer with timm's parameter names, so that weights move both ways.

In: f32[B,C,S,S] normalised pixels. Out: tokens [B,(1+)P,D], row-major patches, the class token (if any) first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from schemas.bands import IMAGENET, canonical
from schemas.config import at_least
from schemas.errors import ConfigError
from trainers.models.weights import load_strictly, read_weights


@dataclass(frozen=True)
class ViTSettings:
    """Size of a vision transformer."""

    image_size: int = 224  # pixels a side
    patch: int = 16  # pixels a side
    dim: int = 384  # width of a token
    depth: int = 12  # blocks
    heads: int = 6  # attention heads

    def __post_init__(self) -> None:
        at_least(self, "", image_size=1, patch=1, dim=1, depth=0, heads=1)
        if self.image_size % self.patch:
            raise ConfigError(f"image_size={self.image_size} is no multiple of patch={self.patch}")
        if self.dim % self.heads or self.dim % 4:
            raise ConfigError(f"dim={self.dim} must be divisible by heads={self.heads} and by 4")

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch

    @property
    def hybrid_blocks(self) -> tuple[int, int, int]:
        """Blocks, from 0, whose output a dense head takes beside the fused map: 7, 11 and 15 of 24, and as far along
        in others."""
        third, half, most = (max(0, share * self.depth // 6 - 1) for share in (2, 3, 4))
        return third, half, most


#: The four sizes by name (Touvron et al. 2021), at 224 pixels and 16 a patch.
SIZES: Mapping[str, ViTSettings] = {
    "tiny": ViTSettings(dim=192, depth=12, heads=3),
    "small": ViTSettings(dim=384, depth=12, heads=6),
    "base": ViTSettings(dim=768, depth=12, heads=12),
    "large": ViTSettings(dim=1024, depth=24, heads=16),
}


def sincos(position: Tensor, dim: int) -> Tensor:
    """Two-dimensional sin-cos embedding f32[...,dim] of positions [...,2] (x, y) in patch units.

    First half x, second half y; each half [sin | cos] with frequencies 10000^(-k/(dim/4)),
    docs/papers/geolink.md#positions. Reckoned in the type of ``position``.
    """
    quarter = dim // 4
    omega = 10000.0 ** (-torch.arange(quarter, device=position.device, dtype=position.dtype) / quarter)
    angle = position[..., None] * omega
    return torch.cat((angle.sin(), angle.cos()), -1).flatten(-2).float()


def grid_positions(side: int, offset: float = 0.0) -> Tensor:
    """Positions f32[side*side,2] (x, y) of a grid's cells, row-major; ``offset`` 0.5 gives their centres."""
    axis = torch.arange(side, dtype=torch.float32) + offset
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x, y), -1).reshape(-1, 2)


class PatchEmbed(nn.Module):
    """Pixels [B,C,S,S] to patch tokens [B,P,D]."""

    def __init__(self, patch: int, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)
        nn.init.xavier_uniform_(self.proj.weight.view(dim, -1))
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]  # Conv2d has a bias here

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)

    def patches(self, pixels: Tensor) -> Tensor:
        """The same of chosen patches alone: [B,V,patch*patch*C], channels innermost, to [B,V,D]."""
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(pixels, weight, self.proj.bias)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, heads: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def init_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases of linear layers (MAE, He et al. 2022)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def run_blocks(blocks: nn.ModuleList, x: Tensor, recompute: bool) -> Tensor:
    """``x`` through all blocks; ``recompute`` keeps only their inputs for the backward pass."""
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
    return x


class ViT(nn.Module):
    """Vision transformer encoder with fixed sin-cos positions.

    Args:
        settings: sizes.
        channels: image bands.
        class_token: whether a learned token stands before the patches.
        eps: of the final norm; timm has 1e-6.
        recompute: whether training trades a second forward pass of the blocks for the memory of their activations.
        block_eps: of the norms in the blocks.
    """

    def __init__(
        self,
        settings: ViTSettings,
        channels: int = 3,
        class_token: bool = True,
        eps: float = 1e-6,
        recompute: bool = False,
        block_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.settings, self.recompute = settings, recompute
        dim = settings.dim
        self.patch_embed = PatchEmbed(settings.patch, channels, dim)
        position = sincos(grid_positions(settings.grid), dim)
        if class_token:
            self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
            position = torch.cat((torch.zeros_like(position[:1]), position))
        self.class_token = class_token
        # A parameter, not a buffer, as in timm; fixed, as in MAE.
        self.pos_embed = nn.Parameter(position[None], requires_grad=False)
        self.blocks = nn.ModuleList(Block(dim, settings.heads, block_eps) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.blocks.apply(init_linear)

    def embed(self, image: Tensor) -> Tensor:
        """Patch tokens [B,P,D] with their positions."""
        return self.patch_embed(image) + self.pos_embed[:, int(self.class_token) :]

    def embed_patches(self, pixels: Tensor, patch: Tensor) -> Tensor:
        """Tokens [B,V,D] of chosen patches: their pixels [B,V,patch*patch*C] and numbers i64[B,V]."""
        return self.patch_embed.patches(pixels) + self.pos_embed[0, int(self.class_token) :][patch]

    def encode(self, tokens: Tensor) -> Tensor:
        """All blocks and the final norm over patch tokens [B,V,D]; the class token is put first."""
        return self.norm(run_blocks(self.blocks, self._with_class_token(tokens), self.recompute and self.training))

    def encode_visible(self, pixels: Tensor, patch: Tensor) -> Tensor:
        """Tokens [B,(1+)V,D] of chosen patches alone; arguments as of :meth:`embed_patches`."""
        return self.encode(self.embed_patches(pixels, patch))

    def levels(self, image: Tensor, blocks: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
        """Patch tokens [B,P,D] after each of ``blocks`` (counted from 0), without a norm, and the normed tokens."""
        x, found = self._with_class_token(self.embed(image)), {}
        for number, block in enumerate(self.blocks):
            x = block(x)
            found[number] = x[:, int(self.class_token) :]
        return [found[number] for number in blocks], self.norm(x)

    def _with_class_token(self, tokens: Tensor) -> Tensor:
        if not self.class_token:
            return tokens
        first = self.cls_token + self.pos_embed[:, :1]
        return torch.cat((first.expand(tokens.shape[0], -1, -1).to(tokens.dtype), tokens), 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.encode(self.embed(image))

    def load(self, path: str, bands: tuple[str, ...], _norm: PixelNorm) -> None:
        """Take weights with timm's names, as ``geoshards export`` writes them; a head of classes is left out.

        ``bands`` are in the order in which the weights take them, and so is the norm.

        Raises:
            ConfigError: the file cannot be read, or does not fit.
        """
        held = {name: value for name, value in read_weights(path).items() if not name.startswith("head.")}
        s = self.settings
        load_strictly(
            self, held, path, f"the model has arch.rs of {s.image_size} pixels, patch {s.patch}, {s.depth} blocks of "
            f"{s.dim}, and {len(bands)} arch.bands",
        )  # fmt: skip


class PatchViT(ViT):
    """The encoder with a class token, as GeoLink trains it, whose output are the patch tokens [B,P,D] alone."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)[:, 1:]


class PatchTokens(nn.Module):
    """The same of an encoder with a class token that is there, and whose weights it shares."""

    class_token = True

    def __init__(self, vit: ViT) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, image: Tensor) -> Tensor:
        return self.vit(image)[:, 1:]

    def encode_visible(self, pixels: Tensor, patch: Tensor) -> Tensor:
        """As of the encoder, the class token first."""
        return self.vit.encode_visible(pixels, patch)

    def load(self, path: str, bands: tuple[str, ...], norm: PixelNorm) -> None:
        """As of the encoder."""
        self.vit.load(path, bands, norm)


class PixelNorm(nn.Module):
    """8-bit pixels u8[B,C,H,W] to normalised f32: (x - mean) / deviation, both in 0..255."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return (image.float() - self.mean) / self.deviation

    def patches(self, pixels: Tensor) -> Tensor:
        """The same of patches u8[B,V,F], channels innermost."""
        repeat = pixels.shape[-1] // self.mean.numel()
        return (pixels.float() - self.mean.flatten().repeat(repeat)) / self.deviation.flatten().repeat(repeat)


def image_norm(bands: Sequence[str]) -> PixelNorm:
    """ImageNet's statistics of red, green and blue, band by band; the middle of the range where there are others."""
    known = [IMAGENET.moments.get(canonical(b)) for b in bands]
    found = [k or (127.5, 64.0) for k in known] if all(known) else [(127.5, 64.0)] * len(known)
    return PixelNorm(tuple(mean for mean, _ in found), tuple(deviation for _, deviation in found))


def unit_norm(bands: Sequence[str]) -> PixelNorm:
    """The range of 8 bits to 0..1, whichever the bands are."""
    return PixelNorm((0.0,) * len(bands), (255.0,) * len(bands))

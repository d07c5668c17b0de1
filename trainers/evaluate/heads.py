"""Downstream heads on features: UperNet, regression, change (docs/papers/geolink.md#downstream-heads)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Cells a side that a level is pooled to (Xiao et al. 2018).
POOLS = (1, 2, 3, 6)


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def to_map(tokens: Tensor) -> Tensor:
    """Patch tokens [B,P,D], row-major, to a map [B,D,g,g]."""
    b, p, d = tokens.shape
    side = round(p**0.5)
    return tokens.transpose(1, 2).reshape(b, d, side, side)


class UperNet(nn.Module):
    """Segmentation from four maps of a ViT: pyramid pooling of the last, a feature pyramid over all.

    Args:
        widths: of the four maps; with the multimodal model the last is the fused one.
        classes: of the pixels.
        channels: of the head.
        dropout: of whole channels before the last layer.
    """

    def __init__(self, widths: Sequence[int], classes: int, channels: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        first, second = widths[:2]
        self.scales = nn.ModuleList([  # to four scales: 4, 2, 1 and a half
            nn.Sequential(
                nn.ConvTranspose2d(first, first, 2, 2), nn.BatchNorm2d(first), nn.GELU(),
                nn.ConvTranspose2d(first, first, 2, 2),
            ),
            nn.ConvTranspose2d(second, second, 2, 2),
            nn.Identity(),
            nn.MaxPool2d(2, 2),
        ])  # fmt: skip
        self.pools = nn.ModuleList(_conv(widths[-1], channels, 1) for _ in POOLS)
        self.bottleneck = _conv(widths[-1] + len(POOLS) * channels, channels, 3)
        self.laterals = nn.ModuleList(_conv(width, channels, 1) for width in widths[:-1])
        self.smooth = nn.ModuleList(_conv(channels, channels, 3) for _ in widths[:-1])
        self.fuse = _conv(len(widths) * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Sequence[Tensor], size: int) -> Tensor:
        """Maps [B,W,g,g] to logits [B,classes,size,size]."""
        levels = [scale(level) for scale, level in zip(self.scales, maps, strict=True)]
        last = levels[-1]
        # Pooled to the cells of the last map at most: a map of less than six cells a side has no finer pool.
        pooled = [
            _resize(layer(F.adaptive_avg_pool2d(last, pool)), last.shape[-1])
            for pool, layer in zip(POOLS, self.pools, strict=True)
        ]
        seen = [layer(level) for layer, level in zip(self.laterals, levels[:-1], strict=True)]
        seen.append(self.bottleneck(torch.cat((last, *pooled), 1)))
        for i in range(len(seen) - 1, 0, -1):
            seen[i - 1] = seen[i - 1] + _resize(seen[i], seen[i - 1].shape[-1])
        out = [layer(level) for layer, level in zip(self.smooth, seen[:-1], strict=True)] + [seen[-1]]
        fused = self.fuse(torch.cat([_resize(level, out[0].shape[-1]) for level in out], 1))
        return _resize(self.classify(self.dropout(fused)), size)


class ChangeHead(nn.Module):
    """What changed between two dates: UperNet on the differences of both dates' maps, as in PANGAEA."""

    def __init__(self, widths: Sequence[int], classes: int = 2, channels: int = 512) -> None:
        super().__init__()
        self.head = UperNet(widths, classes, channels)

    def forward(self, before: Sequence[Tensor], after: Sequence[Tensor], size: int) -> Tensor:
        """Maps of two dates to logits [B,classes,size,size]; the same dates in turn give the same."""
        return self.head([(b - a).abs() for a, b in zip(before, after, strict=True)], size)


class RegressionHead(nn.Module):
    """A number of a tile from its mean patch feature: two layers."""

    def __init__(self, width: int, hidden: int = 256, outputs: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, outputs))

    def forward(self, tokens: Tensor) -> Tensor:
        """Patch tokens [B,P,D] to [B,outputs]."""
        return self.layers(tokens.mean(1))


def _resize(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def confusion(predicted: Tensor, true: Tensor, classes: int, ignore: int = 255) -> Tensor:
    """Counts i64[classes,classes], rows true, of labels of any shape; ``ignore`` is left out."""
    held = true != ignore
    return torch.bincount(true[held] * classes + predicted[held], minlength=classes**2).view(classes, classes)


def scores(counts: Tensor) -> dict[str, float]:
    """Mean IoU and mean F1 over the classes that occur or are named, and overall accuracy."""
    hit = counts.diagonal().double()
    truth, named = counts.sum(1).double(), counts.sum(0).double()
    some = truth + named > 0
    iou = hit[some] / (truth + named - hit)[some]
    f1 = 2 * hit[some] / (truth + named)[some]
    return {
        "miou": float(iou.mean()), "f1": float(f1.mean()), "accuracy": float(hit.sum() / counts.sum().clamp_min(1))
    }  # fmt: skip

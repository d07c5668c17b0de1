"""Segmentation on tiles in the layout of the released UFZ data: ``img/STEM.png`` beside ``label/STEM.png``.

``python -m trainers.evaluate.finetune CKPT ROOT [--epochs N] [--freeze]`` trains UperNet on a checkpoint's ViT and
prints the scores of the held-out tiles as one JSON line. The graphs of that layout are pickles, which are not opened:
the image alone is used. Settings are those of docs/papers/geolink.md#downstream.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from schemas.errors import DatasetError, GeoshardsError
from storage.text import visible
from storage.urls import local_path
from trainers.engine.checkpoint import load_checkpoint
from trainers.evaluate.heads import UperNet, confusion, scores, to_map
from trainers.models.geolink import GeoLink

#: Classes in label order; every other value (9 in some cities, 255 in others) means none.
CLASSES = (
    "water", "green", "farmland", "undeveloped", "residential", "commercial", "institution", "industrial",
    "transportation",
)  # fmt: skip
IGNORE = 255


@dataclass(frozen=True)
class Tiles:
    """Images u8[N,3,S,S] and their labels i64[N,S,S], IGNORE where there is no class."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def split(self, share: float, seed: int = 0) -> tuple[Tiles, Tiles]:
        """A ``share`` of the tiles, at least one, and the others."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        at = min(len(self) - 1, max(1, round(share * len(self))))
        first, rest = order[:at], order[at:]
        return Tiles(self.images[first], self.labels[first]), Tiles(self.images[rest], self.labels[rest])


def read_tiles(root: Path, size: int) -> Tiles:
    """All tiles of ``root``, in the order of their names, resized to ``size`` pixels a side.

    Raises:
        DatasetError: there are fewer than two, or a label is missing.
    """
    images, labels = [], []
    for path in sorted((root / "img").glob("*.png")):
        other = root / "label" / path.name
        if not other.exists():
            raise DatasetError(f"{other} does not exist, but {path} does; give each image its label")
        with Image.open(path) as image, Image.open(other) as label:
            images.append(np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)))
            values = np.asarray(label.resize((size, size), Image.Resampling.NEAREST)).astype(np.int64)
        if values.ndim != 2:
            raise DatasetError(f"{other} has {values.ndim} axes; a label has one value a pixel")
        labels.append(np.where(values < len(CLASSES), values, IGNORE))
    if len(images) < 2:
        raise DatasetError(
            f"{root}/img holds {len(images)} tiles; two at least are needed, one to train and one to test"
        )
    return Tiles(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(labels)))


class Segmenter(nn.Module):
    """UperNet on the maps of a ViT."""

    def __init__(self, encoder: GeoLink, freeze: bool, channels: int = 512) -> None:
        super().__init__()
        vit = encoder.settings.vit
        self.norm, self.vit, self.freeze = encoder.norm, encoder.vit, freeze
        self.head = UperNet((vit.dim,) * 4, len(CLASSES), channels)

    def forward(self, image: Tensor) -> Tensor:
        """u8[B,3,S,S] to logits [B,classes,S,S]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            levels, tokens = self.vit.levels(self.norm(image), self.vit.settings.hybrid_blocks)
        return self.head([to_map(t) for t in (*levels, tokens[:, 1:])], image.shape[-1])


def fine_tune(
    model: Segmenter, train: Tiles, epochs: int, lr: float = 1e-4, batch: int = 32, seed: int = 0
) -> list[float]:
    """Train in place; returns the mean loss of each epoch. The encoder learns at a hundredth of the head's rate."""
    groups = [{"params": list(model.head.parameters()), "lr": lr}]
    if not model.freeze:
        groups.append({"params": [p for p in model.vit.parameters() if p.requires_grad], "lr": lr / 100})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = torch.Generator().manual_seed(seed)
    history = []
    model.train()
    for _ in range(epochs):
        losses = []
        for rows in torch.randperm(len(train), generator=generator).split(batch):
            # Batch norm needs two values a channel at the coarsest pool.
            rows = rows if len(rows) > 1 else rows.repeat(2)
            loss = F.cross_entropy(model(train.images[rows]), train.labels[rows], ignore_index=IGNORE)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        schedule.step()
        history.append(float(np.mean(losses)))
    return history


@torch.no_grad()
def held_out_scores(model: Segmenter, tiles: Tiles, batch: int = 32) -> dict[str, float]:
    """Mean IoU, F1 and accuracy on ``tiles``."""
    model.eval()
    counts = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.long)
    for image, label in zip(tiles.images.split(batch), tiles.labels.split(batch), strict=True):
        counts += confusion(model(image).argmax(1), label, len(CLASSES), IGNORE)
    return scores(counts)


def main(arguments: list[str] | None = None) -> int:
    """Fine-tune and print the scores; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="path or URL")
    parser.add_argument("root", help="folder of the tiles")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--share", type=float, default=0.5, help="of the tiles to train on")
    parser.add_argument("--channels", type=int, default=512, help="of the head")
    parser.add_argument("--freeze", action="store_true", help="train the head alone")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    try:
        root = local_path(options.root)
        encoder = GeoLink.trained(load_checkpoint(options.checkpoint), options.checkpoint)
        tiles = read_tiles(root, encoder.settings.vit.image_size)
    except GeoshardsError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 1
    train, test = tiles.split(options.share, options.seed)
    model = Segmenter(encoder, options.freeze, options.channels)
    history = fine_tune(model, train, options.epochs, options.lr, options.batch, options.seed)
    print(json.dumps({"train": len(train), "test": len(test), "loss": history[-1], **held_out_scores(model, test)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Pictures as Pillow opens them, as the 8 bits a channel that everything behind them has."""

from __future__ import annotations

import numpy as np
from PIL import Image


def in_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its upper 8, as colours of 16 bits are read; Pillow itself would cut it off at 255."""
    if not image.mode.startswith("I"):
        return image
    grey = np.asarray(image).astype(np.int64)
    return Image.fromarray((np.clip(grey, 0, 65535) >> 8).astype(np.uint8))

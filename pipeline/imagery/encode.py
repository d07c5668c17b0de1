"""From pixels to the bytes of a member."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.words import as_fours
from schemas.errors import InputError


def encode(
    pixels: NDArray[Any], config: ImageryConfig, number: int | None = None, original: bytes | None = None
) -> tuple[str, bytes]:
    """Member name and bytes of one image [bands,height,width].

    ``number`` is its place among several dates; ``original`` a JPEG file of these pixels, kept where it will do.

    Raises:
        InputError: jpg or png was asked for something else than three 8-bit bands.
    """
    rgb = pixels.dtype == np.uint8 and len(pixels) == 3
    form = config.format
    if form == "auto":
        form = "jpg" if rgb else "npy"
    name = f"rs.{form}" if number is None else f"rs.{number}.{form}"
    if form == "npy":
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(pixels), allow_pickle=False)
        return name, buffer.getvalue()
    if not rgb:
        raise InputError(
            f"rs.format={form} needs three 8-bit bands, the imagery has {len(pixels)} of {pixels.dtype}; "
            "choose three with rs.bands and a stretch with rs.stretch, or use rs.format=npy"
        )
    if form == "jpg":
        return name, original or _jpeg(pixels, config)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, "PNG", compress_level=3)
    return name, buffer.getvalue()


def encode_valid(valid: NDArray[np.bool_]) -> bytes:
    """Which pixels [height,width] are data, as a PNG of 1 bit: 1 is data."""
    buffer = io.BytesIO()
    Image.fromarray(valid).save(buffer, "PNG")
    return buffer.getvalue()


def _jpeg(pixels: NDArray[np.uint8], config: ImageryConfig) -> bytes:
    image, space = as_fours(pixels), "RGBX"  # as the resampler leaves it: no need to copy
    if image is None:
        image, space = np.ascontiguousarray(pixels.transpose(1, 2, 0)), "RGB"
    data: bytes = simplejpeg.encode_jpeg(
        image, quality=config.quality, colorspace=space, colorsubsampling=config.subsampling
    )
    return data

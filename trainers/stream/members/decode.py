"""Member bytes to arrays. Nothing is unpickled; whatever cannot be decoded is a CorruptSampleError."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import warnings
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geometry.crop import Window
from schemas.errors import CorruptSampleError

try:
    import simplejpeg
except ImportError:  # optional: Pillow decodes the same files, more slowly
    simplejpeg = None

Pixels = NDArray[np.uint8]
Buffer = bytes | memoryview
#: Pixels of the largest image that is decoded: 8192 squared, so that a damaged header cannot fill the memory.
MAX_PIXELS = 1 << 26
#: What the decoders raise on damaged bytes; all of it means the same here.
DECODE_ERRORS = (
    OSError, ValueError, TypeError, IndexError, SyntaxError, EOFError, RuntimeError, struct.error, zlib.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


def decode_rgb(data: Buffer, name: str, at_least: int = 0, exact: bool = False) -> Pixels:
    """A JPEG or PNG as u8[3,H,W], a view of u8[H,W,3]: the batch makes the one copy.

    ``at_least`` > 0 lets a JPEG decode at 1/2, 1/4 or 1/8 scale while both sides stay at least so long: a photo of
    2048 px that ends at 224 costs a fraction. ``exact`` keeps the full scale where the smaller one would round the
    sides, so that positions in the image stay the same fractions of it.

    Raises:
        CorruptSampleError: truncated, no image, or over ``MAX_PIXELS``.
    """
    try:
        if name.endswith(".jpg") and simplejpeg is not None:
            height, width = simplejpeg.decode_jpeg_header(data)[:2]
            _check_size(height, width, name)
            scaled = at_least and not (exact and (height % 8 or width % 8))
            small = {"min_height": at_least, "min_width": at_least} if scaled else {}
            array = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=False, **small)
        else:
            array = _pillow(data, name, at_least, exact)
    except CorruptSampleError:
        raise
    except DECODE_ERRORS as error:
        raise CorruptSampleError(f"{name} cannot be decoded ({error}); build the sample again") from None
    return array.transpose(2, 0, 1)


def decode_valid(data: Buffer, name: str, height: int, width: int) -> Pixels:
    """Which pixels of an image of that size are data, u8[height,width]: 255, or less where a part of one is not.

    Raises:
        CorruptSampleError: no PNG, or over ``MAX_PIXELS``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                _check_size(image.height, image.width, name)
                plane = image.convert("L")
                # a JPEG may have been decoded at a part of its scale
                return np.asarray(plane.resize((width, height), Image.Resampling.BOX))
    except DECODE_ERRORS as error:
        raise CorruptSampleError(f"{name} cannot be decoded ({error}); build the sample again") from None


def _pillow(data: Buffer, name: str, at_least: int, exact: bool) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            _check_size(image.height, image.width, name)
            if at_least and not (exact and (image.height % 8 or image.width % 8)):
                image.draft("RGB", (at_least, at_least))
            return np.asarray(image.convert("RGB"))


def _check_size(height: int, width: int, name: str) -> None:
    if height * width > MAX_PIXELS:
        raise CorruptSampleError(f"{name} has {width}×{height} pixels, over {MAX_PIXELS}; store a smaller image")


def decode_npy(data: Buffer, name: str) -> NDArray[Any]:
    """A raster u8|u16|i16|f32[C,H,W] from ``.npy`` bytes.

    Raises:
        CorruptSampleError: truncated, of another type, or not three-dimensional.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (*DECODE_ERRORS, tokenize.TokenError) as error:
        raise CorruptSampleError(f"{name} cannot be decoded ({error}); build the sample again") from None
    if len(shape) != 3 or min(shape) < 1 or dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        raise CorruptSampleError(f"{name} is {dtype}{list(shape)}; it should be bands, rows, columns")
    # The header is compared with what is there before anything is allocated from it.
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise CorruptSampleError(f"{name} does not hold {list(shape)} values, as it claims; build the sample again")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")


def resize(image: Pixels, size: int, window: Window | None = None) -> Pixels:
    """u8[C,H,W] to u8[C,size,size]: bicubic with antialiasing, in 8 bits; the aspect ratio is not kept.

    ``window`` (left, top, right, bottom, normalised image coordinates) is what of the image is shown, to a fraction of
    a pixel.
    """
    if image.shape[1:] == (size, size) and window is None:
        return image
    height, width = image.shape[1:]
    left, top, right, bottom = window or (0.0, 0.0, 1.0, 1.0)
    left, right, top, bottom = left * width, min(right * width, width), top * height, min(bottom * height, height)
    reach = 2 * max(1.0, (bottom - top) / size)
    first, last = max(0, math.floor(top - reach)), min(height, math.ceil(bottom + reach))

    def scaled(picture: Image.Image) -> NDArray[np.uint8]:
        # Along x, then along y, as two calls: in one, Pillow's version decides the order, and 8 bits keep its trace.
        across = picture.resize((size, last - first), Image.Resampling.BICUBIC, box=(left, 0, right, last - first))
        box = 0, top - first, size, bottom - first
        return np.asarray(across.resize((size, size), Image.Resampling.BICUBIC, box=box))

    if image.shape[0] == 3:
        rows = np.ascontiguousarray(image[:, first:last].transpose(1, 2, 0))
        return scaled(Image.fromarray(rows)).transpose(2, 0, 1)
    return np.stack([scaled(Image.fromarray(band)) for band in image[:, first:last]])

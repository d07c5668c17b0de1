"""Images of a dataset's samples, which may be anybody's: decoded by what they are, within a bound."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from schemas.errors import DatasetError, at_the_door

#: Pixels of the largest picture that is decoded.
MAX_PIXELS = 1 << 26
_AGAIN = "build the sample again"


def decode_picture(data: bytes, where: str, mode: str = "") -> Image.Image:
    """A JPEG or PNG, decoded whole, as Pillow's ``mode`` where one is given.

    Raises:
        DatasetError: it is none, damaged, or over `MAX_PIXELS`; ``where`` stands in the message.
    """
    with at_the_door(f"{where} cannot be decoded", _AGAIN, DatasetError):
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"it has {image.width}×{image.height} pixels, over {MAX_PIXELS:,}")
        return image.convert(mode or image.mode)


def array_dtype(data: bytes, where: str) -> str:
    """Type of the values of ``.npy`` bytes, or of their beginning, as numpy calls it.

    Raises:
        DatasetError: they are damaged; ``where`` stands in the message.
    """
    with at_the_door(f"{where} cannot be decoded", _AGAIN, DatasetError):
        return str(_array_header(io.BytesIO(data))[2])


def _array_header(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def decode_array(data: bytes, where: str) -> NDArray[Any]:
    """The numbers of ``.npy`` bytes [bands,height,width].

    Raises:
        DatasetError: they are damaged, no numbers, or of other axes; ``where`` stands in the message.
    """
    with at_the_door(f"{where} cannot be decoded", _AGAIN, DatasetError):
        stream = io.BytesIO(data)
        shape, fortran, dtype = _array_header(stream)
        if len(shape) != 3 or min(shape) < 1 or dtype.kind not in "uif":
            raise ValueError(f"it is {dtype}{list(shape)}, not numbers of bands, rows and columns")
        # Compared with what is there before anything is allocated from it.
        if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise ValueError(f"it does not hold {list(shape)} values, as it claims")
        return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")

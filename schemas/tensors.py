"""Tensors of a safetensors buffer by name, as views of it: what is not asked for is not decoded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Types in a safetensors header, by numpy's.
_CODES = {
    np.dtype(f"<{name}"): code
    for name, code in {
        "u1": "U8", "u2": "U16", "f2": "F16", "i4": "I32", "f4": "F32", "u8": "U64", "i8": "I64", "f8": "F64",
    }.items()
}  # fmt: skip


def read_tensors(data: Any, dtypes: Mapping[str, np.dtype[Any]]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Those of the named tensors that ``data`` holds, bytes or mapped memory, and its metadata.

    Raises:
        ValueError: the buffer is none or cut short, or a tensor has another type.
    """
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8:start]))
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(said, str) for said in metadata.values()):
            raise ValueError("its metadata are no texts")
        end = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end != len(data):
            raise ValueError(f"it has {len(data)} bytes, not {end}")
        arrays: dict[str, NDArray[Any]] = {}
        for name, dtype in dtypes.items():
            if name in header:
                entry = header[name]
                kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
                size = math.prod(shape)
                if (
                    kind != _CODES[dtype] or min(first, *shape) < 0
                    or last - first != size * dtype.itemsize
                ):  # fmt: skip
                    raise ValueError(f"{name} is {kind!r} {shape!r} in {last - first} bytes")
                arrays[name] = np.frombuffer(data, dtype, size, start + first).reshape(shape)
        return arrays, metadata
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(repr(error)) from None

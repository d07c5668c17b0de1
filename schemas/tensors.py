"""Tensors of a safetensors buffer by name, as views of it: what is not asked for is not decoded.

A buffer that is mapped, and read for weeks, holds sums of its own: CRC-32 of the header and of each page of each
tensor, in one more tensor. Any reader of safetensors reads it; ours checks a page when it first reads from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DatasetError

#: Types in a safetensors header, by numpy's.
_CODES = {
    np.dtype(f"<{name}"): code
    for name, code in {
        "u1": "U8", "u2": "U16", "f2": "F16", "i4": "I32", "u4": "U32", "f4": "F32", "u8": "U64", "i8": "I64",
        "f8": "F64",
    }.items()
}  # fmt: skip
#: Bytes of a page; the last of a tensor may be shorter.
PAGE = 1 << 12
#: u32: CRC-32 of the header, its length before it included, then of the pages of the other tensors, as they lie.
PAGE_SUMS = "page_sums"
_SUM = np.dtype("<u4")


def read_tensors(data: Any, dtypes: Mapping[str, np.dtype[Any]]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Those of the named tensors that ``data`` holds, bytes or mapped memory, and its metadata.

    Raises:
        ValueError: the buffer is none or cut short, or a tensor has another type.
    """
    try:
        start = _start(data)
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


def paged(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> list[Any]:
    """A safetensors buffer with sums of its pages, as parts to write one after another. Equal arrays give equal bytes.

    Args:
        arrays: [n, ...] each; rows of those that `PagedTensors.take` reads have a length that divides `PAGE`.
        metadata: texts.
    """
    held = {name: np.ascontiguousarray(arrays[name]) for name in _laid_out(arrays)}
    pages: list[Any] = [part for array in held.values() for part in _pages(array)]
    sums = np.zeros(1 + len(pages), _SUM)
    whole = {**held, PAGE_SUMS: sums}
    ends = list(accumulate(a.nbytes for a in whole.values()))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    for (name, array), end in zip(whole.items(), ends, strict=True):
        header[name] = {
            "dtype": _CODES[array.dtype], "shape": list(array.shape), "data_offsets": [end - array.nbytes, end]
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    sums[:] = [crc32(part) for part in (head, *pages)]
    return [head, *map(_bytes, whole.values())]


class PagedTensors:
    """Tensors of a buffer that `paged` made; their pages are checked when they are first read.

    Args:
        data: bytes or mapped memory.
        dtypes: tensors, and their types.
        where: names the buffer in messages.
        remedy: what to do if it is damaged.

    Attributes: ``arrays``, by name, unchecked, ``metadata``, and ``sums``, u32[1 + pages], which tell one content from
    another.

    Raises:
        ValueError: it is none, or its header is damaged.
    """

    def __init__(self, data: Any, dtypes: Mapping[str, np.dtype[Any]], where: str, remedy: str) -> None:
        self.arrays, self.metadata = read_tensors(data, {**dtypes, PAGE_SUMS: _SUM})
        self.sums = self.arrays.pop(PAGE_SUMS, np.zeros(0, _SUM))
        missing = dtypes.keys() - self.arrays.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        self._where, self._remedy = where, remedy
        self._views = {name: _bytes(array) for name, array in self.arrays.items()}
        counts = [-(-len(self._views[n]) // PAGE) for n in _laid_out(self.arrays)]
        self._first = dict(zip(_laid_out(self.arrays), accumulate([1, *counts]), strict=False))
        self._unread = {n: np.ones(c, bool) for n, c in zip(_laid_out(self.arrays), counts, strict=True)}
        self._left = sum(counts)
        if len(self.sums) != 1 + self._left or crc32(data[: _start(data)]) != self.sums[0]:
            raise ValueError("its header is not what was written")

    def take(self, name: str, rows: Any = None) -> NDArray[Any]:
        """Rows of a tensor, i64[K], or all of it.

        Raises:
            DatasetError: a page that holds one of them is not what was written.
        """
        self.check(name, rows)
        return self.arrays[name] if rows is None else self.arrays[name][rows]

    def check(self, name: str, rows: Any = None) -> None:
        """See to it that pages which hold ``rows`` of a tensor, i64[K], or all of its pages, have been checked.

        Raises:
            DatasetError: one of them is not what was written.
        """
        if not self._left:
            return
        unread = self._unread[name]
        if rows is None:
            pages = np.flatnonzero(unread)
        else:
            array = self.arrays[name]
            held = rows * (array.itemsize * math.prod(array.shape[1:])) // PAGE
            pages = np.unique(held[unread[held]])
        view, first = self._views[name], self._first[name]
        for page, wanted in zip(pages.tolist(), self.sums[first + pages].tolist(), strict=True):
            if crc32(view[page * PAGE : (page + 1) * PAGE]) != wanted:
                raise DatasetError(f"{self._where} is damaged: {name} is not what was written; {self._remedy}")
        unread[pages] = False
        self._left -= len(pages)


def _start(data: Any) -> int:
    """Where the tensors begin."""
    start = 8 + int.from_bytes(data[:8], "little")
    if not 8 < start <= len(data):
        raise ValueError(f"it has {len(data)} bytes, and a header up to {start}")
    return start


def _laid_out(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Names in the order in which `paged` lays tensors out: wide values first, so that each begins at a multiple of its
    width."""
    return sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _pages(array: NDArray[Any]) -> list[memoryview]:
    view = _bytes(array)
    return [view[i : i + PAGE] for i in range(0, len(view), PAGE)]

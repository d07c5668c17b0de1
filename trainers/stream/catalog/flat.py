"""Arrays in a folder, one raw ``.npy`` file each: written once under a lock, mapped by every process of the node.

A folder is whole or absent: it is written beside its place and renamed, its description last. Nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DatasetError
from storage.files import atomic_folder
from storage.locks import LOCK, locked

Arrays = dict[str, NDArray[Any]]
_META = "meta.json"


class Mapped(dict[str, NDArray[Any]]):
    """Arrays of a folder as mapped memory. Safe to pickle: another process maps the same files."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        super().__init__()
        self.folder = folder
        self._maps = []
        for name in names:
            with (folder / f"{name}.npy").open("rb") as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError(f"{name}.npy is of another version")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                blob = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self[name] = np.frombuffer(blob, dtype, math.prod(shape), file.tell()).reshape(shape)
                self._maps.append(blob)

    def __reduce__(self) -> tuple[Any, ...]:
        return _mapped, (self.folder,)

    def release(self) -> None:
        """Give back the pages that were touched: they stay in the page cache, which the processes share, and no longer
        count as this one's."""
        for blob in self._maps:
            blob.madvise(mmap.MADV_DONTNEED)


def open_folder(folder: Path) -> tuple[Mapped, dict[str, Any]]:
    """The arrays of a folder, mapped read-only, and its description.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        meta = json.loads((folder / _META).read_text())
        arrays = Mapped(folder, meta["lengths"])
        wrong = [name for name, length in meta["lengths"].items() if len(arrays[name]) != length]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{folder} is damaged ({error}); delete it, it is made again") from None
    if wrong:
        raise DatasetError(f"{folder}/{wrong[0]}.npy is damaged; delete the folder, it is made again")
    return arrays, meta


def _mapped(folder: Path) -> Mapped:
    return open_folder(folder)[0]


def make_folder(folder: Path, build: Callable[[Path], Mapping[str, Any]]) -> None:
    """Let ``build`` fill a new folder with arrays and return their description, unless ``folder`` exists.

    Of several processes one builds and the others wait for it.
    """
    if (folder / _META).exists():
        return
    with locked(folder.with_name(f".{folder.name}{LOCK}")):
        if (folder / _META).exists():
            return
        with atomic_folder(folder) as fresh:
            meta = dict(build(fresh))
            files = sorted(fresh.glob("*.npy"))
            meta["lengths"] = {name: len(a) for name, a in Mapped(fresh, [f.stem for f in files]).items()}
            (fresh / _META).write_text(json.dumps(meta))

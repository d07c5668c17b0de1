"""The file of a tag embedding table: safetensors with ``tag_ids`` i64[T], sorted, and ``vectors`` f16[T,D].

Written front to back and renamed when whole; read as mapped memory, so that all processes share its pages.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DatasetError
from schemas.tensors import read_tensors
from storage.files import put
from storage.retry import patiently
from storage.store import place_of
from storage.urls import cache_folder, file_system

#: Name of the table inside a dataset directory. It is derived: no hash of the dataset covers it.
FILE_NAME = "tags.safetensors"
#: Layout of the file; a reader refuses another.
FORMAT = "geoshards-tags-1"
_AGAIN = "make it again with: geoshards embed DIR --encoder … --force"
_TENSORS: dict[str, np.dtype[Any]] = {"tag_ids": np.dtype("<i8"), "vectors": np.dtype("<f2")}


@dataclass(frozen=True)
class EncoderInfo:
    """Which text encoder made a table, and how."""

    kind: str  # hash | minilm | clip | hf
    name: str  # of the model, no path
    weights: str  # sha256 of its parameters and its tokens; empty for hash
    pooling: str  # how token states become one vector
    unit_length: bool  # whether every vector has length 1
    width: int  # D
    max_tokens: int  # longer texts are cut
    library: str  # that computed it, with version

    @property
    def label(self) -> str:
        """As on the command line; the name of a folder stands for its path."""
        return self.kind if self.kind in ("hash", "minilm") else f"{self.kind}:{self.name}"

    @property
    def identity(self) -> str:
        """Hash of all that decides the vectors: two tables that share it can be used together."""
        parts = [self.kind, self.weights, self.pooling, self.unit_length, self.width, self.max_tokens]
        return blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


class TagVectors:
    """A table on disk, opened as mapped memory. Safe to pickle: another process maps the same file.

    Attributes: ``path``, ``encoder``, ``vocabulary`` (digest of the ids), ``content_hash`` of the dataset it was made
    for, ``tag_ids`` i64[T] and ``vectors`` f16[T,D], both read-only maps.

    Raises:
        DatasetError: the file is damaged, or no table of this version.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                blob = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            arrays, said = read_tensors(blob, _TENSORS)
            self._header = blob[: len(blob) - sum(a.nbytes for a in arrays.values())]
            if said.get("format") != FORMAT:
                raise ValueError(f"its format is {said.get('format')!r}, not {FORMAT!r}")
            self.encoder = EncoderInfo(
                kind=said["kind"], name=said["name"], weights=said["weights"], pooling=said["pooling"],
                unit_length=said["unit_length"] == "true", width=int(said["width"]),
                max_tokens=int(said["max_tokens"]), library=said["library"],
            )  # fmt: skip
            self.vocabulary, self.content_hash = said["vocabulary"], said["content_hash"]
            self.tag_ids: NDArray[np.int64] = arrays["tag_ids"]
            self.vectors: NDArray[np.float16] = arrays["vectors"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DatasetError(f"{path} is no tag table or is damaged ({error}); {_AGAIN}") from None
        ids = self.tag_ids
        line = ids.ndim == 1 and ids.dtype == np.int64 and bool((ids[1:] > ids[:-1]).all())
        if not line or self.vectors.shape != (len(ids), self.encoder.width):
            raise DatasetError(f"{path}: its ids and its vectors do not fit; {_AGAIN}")

    def __len__(self) -> int:
        return len(self.tag_ids)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "header": self._header}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]  # the maps are made anew
        if self._header != state["header"]:
            raise DatasetError(f"{self.path} was replaced while the run read it; start the run again with resume=auto")

    def rows(self, tag_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """i64[K]: the row of each tag id, -1 where the table lacks it."""
        if not len(self.tag_ids):
            return np.full(len(tag_ids), -1)
        at = np.minimum(np.searchsorted(self.tag_ids, tag_ids), len(self.tag_ids) - 1)
        return np.where(self.tag_ids[at] == tag_ids, at, -1)

    def chunks(self, size: int) -> Iterator[NDArray[np.float16]]:
        """The vectors, ``size`` rows at a time."""
        return (self.vectors[i : i + size] for i in range(0, len(self), size))

    def describe(self) -> dict[str, Any]:
        """What the file says of itself, as plain JSON values."""
        return {**asdict(self.encoder), "vocabulary": self.vocabulary, "content_hash": self.content_hash,
                "rows": len(self)}  # fmt: skip


def table_path(root: str) -> str:
    """Where the table of a dataset lies."""
    return f"{root.rstrip('/')}/{FILE_NAME}"


def open_table(path: str) -> TagVectors | None:
    """The table at a path or URL, or None where there is none.

    A table behind a URL is copied to the cache once and mapped there.

    Raises:
        DatasetError: it is damaged, or its store does not answer.
    """
    store, name = place_of(path)
    if not store.exists(name):
        return None
    if not store.remote:
        return TagVectors(store.path(name))
    fs, place = file_system(path)
    version = patiently(path, lambda: fs.ukey(place))
    copy = cache_folder() / "tags" / f"{blake2b(f'{path} {version}'.encode(), digest_size=16).hexdigest()}.safetensors"
    if not copy.exists():
        put(copy, store.read(name))
    return TagVectors(str(copy))


def write_table(
    path: str,
    tag_ids: NDArray[np.int64],
    encoder: EncoderInfo,
    facts: Mapping[str, str],
    chunks: Iterable[NDArray[np.float16]],
) -> None:
    """Write a table to a path or URL; equal contents give equal bytes.

    Args:
        tag_ids: i64[T], sorted, each once.
        facts: further metadata: ``vocabulary`` and ``content_hash``.
        chunks: f16[k,D] row after row, T rows in all; one is held at a time.
    """
    store, name = place_of(path)
    with store.fresh(name) as temporary:
        _write(temporary, tag_ids, encoder, facts, chunks)


def _write(
    path: Path,
    tag_ids: NDArray[np.int64],
    encoder: EncoderInfo,
    facts: Mapping[str, str],
    chunks: Iterable[NDArray[np.float16]],
) -> None:
    said = {k: v if isinstance(v, str) else json.dumps(v) for k, v in asdict(encoder).items()}
    middle, end = 8 * len(tag_ids), (8 + 2 * encoder.width) * len(tag_ids)
    document = {
        "__metadata__": {"format": FORMAT, **said, **facts},
        "tag_ids": {"dtype": "I64", "shape": [len(tag_ids)], "data_offsets": [0, middle]},
        "vectors": {"dtype": "F16", "shape": [len(tag_ids), encoder.width], "data_offsets": [middle, end]},
    }
    header = json.dumps(document, sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # so that the numbers lie on their own multiples
    rows = 0
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(np.ascontiguousarray(tag_ids, "<i8").tobytes())
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, "<f2").tobytes())
            rows += len(chunk)
    if rows != len(tag_ids):
        raise ValueError(f"{rows} vectors for {len(tag_ids)} tags")

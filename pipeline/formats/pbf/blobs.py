"""A file as a row of blobs, and what is packed in them: raw, zlib and lz4. Sizes count up to what the format allows."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from pipeline.formats.messages import parse
from pipeline.formats.pbf.schema import PBF
from schemas.errors import InputError

#: Largest blob, packed and unpacked, and blob header that the format allows, in bytes.
MAX_BLOB, _MAX_HEADER = 32 << 20, 64 << 10
#: Compressions that are not read, and what to do.
_ANEW = "write it anew with zlib, from what it was made of: osmium cat SOURCE -o NEW.osm.pbf"
_REFUSED = {
    "lzma_data": f"lzma, which no common tool reads; {_ANEW}",
    "bzip2_data": f"bzip2, which the format gave up in 2010; {_ANEW}",
    "zstd_data": "zstd, which osmium does not read; convert it: pbfhogg cat --compression zlib -o NEW.osm.pbf {}",
}


@dataclass(frozen=True, slots=True)
class Blob:
    """Where one blob lies in its file."""

    offset: int  # of the Blob message
    size: int  # bytes


def walk(file: BinaryIO, where: str) -> Iterator[tuple[str, Blob]]:
    """Kind and place of each blob, by the blobs' headers alone; between two of them ``file`` may be read elsewhere.

    Raises:
        InputError: the file is no PBF, or is truncated; ``where`` begins the message.
    """
    offset, size = 0, os.fstat(file.fileno()).st_size
    while offset < size:
        file.seek(offset)
        length = int.from_bytes(file.read(4), "big")
        try:
            header = parse(PBF.BlobHeader, file.read(length) if 0 < length <= _MAX_HEADER else b"")
        except ValueError:
            header = PBF.BlobHeader()
        if not 0 < header.datasize <= MAX_BLOB:
            raise InputError(f"{where} is no OSM PBF file, or is damaged at byte {offset}; download it again")
        blob = Blob(file.tell(), header.datasize)
        offset = blob.offset + blob.size
        if offset > size:
            raise InputError(f"{where} is truncated: its blob at byte {blob.offset} ends beyond it; download it again")
        yield header.type, blob


class TooMuch(ValueError):
    """What the format allows, but no map has, and would take too much time or memory; the text says what."""


@contextmanager
def reading(file: BinaryIO, blob: Blob, path: Path | str) -> Iterator[bytes]:
    """The content of a blob; what is found wrong with it is told of the file.

    Raises:
        InputError: it is damaged, or compressed as is not read here, or a ValueError came of it.
    """
    file.seek(blob.offset)
    try:
        yield unpack(file.read(blob.size), path)
    except TooMuch as error:
        raise InputError(
            f"OSM extract {path} is not read: its blob at byte {blob.offset} has {error}; write it anew without it, or "
            f"in usual blocks: osmium cat {path} -o NEW.osm.pbf"
        ) from None
    except (ValueError, zlib.error) as error:
        raise InputError(
            f"OSM extract {path} is damaged in the blob at byte {blob.offset} ({error}); download it again"
        ) from None


def unpack(blob: bytes, path: Path | str) -> bytes:
    """Content of a Blob message.

    Raises:
        InputError: its compression is not read here.
        ValueError: it is damaged, or larger than the format allows.
        zlib.error: it is damaged.
    """
    found = parse(PBF.Blob, blob)
    size = found.raw_size if found.HasField("raw_size") else MAX_BLOB
    if not 0 <= size <= MAX_BLOB:
        raise ValueError(f"it is to unpack to {size} bytes, of {MAX_BLOB} that the format allows")
    if found.HasField("raw"):
        return bytes(found.raw)
    if found.HasField("zlib_data"):
        stream = zlib.decompressobj()
        data = stream.decompress(found.zlib_data, size + 1)
        if len(data) > size or (found.HasField("raw_size") and len(data) < size):
            raise ValueError(f"it does not unpack to the {size} bytes that it says or the format allows")
        if not stream.eof:
            raise ValueError("its zlib data are cut")
        return data
    if found.HasField("lz4_data"):
        if not found.HasField("raw_size"):
            raise ValueError("it is lz4 without its size")
        whole = _unpack_lz4(found.lz4_data, size)
        # Arrow does not tell how much it wrote: what is shorter would end in whatever the memory held before.
        if whole is None or (size and _unpack_lz4(found.lz4_data, size - 1) is not None):
            raise ValueError(f"its lz4 data are damaged, or do not unpack to the {size} bytes that it says")
        return whole
    for name, way_out in _REFUSED.items():
        if found.HasField(name):
            raise InputError(f"OSM extract {path} is compressed by {way_out.format(path)}")
    raise ValueError("it holds no data that are known here")


def _unpack_lz4(packed: bytes, size: int) -> bytes | None:
    """What unpacks to at most so many bytes; None where it does not."""
    try:
        return bytes(pa.Codec("lz4_raw").decompress(packed, size, asbytes=True))
    except OSError:
        return None

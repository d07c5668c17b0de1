"""EXIF and XMP of any form, byte by byte, in a small JPEG."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

#: Types of EXIF values: number and struct code; a rational is two of them.
TYPES = {
    "byte": (1, "B"), "ascii": (2, ""), "short": (3, "H"), "long": (4, "I"), "rational": (5, "II"),
    "undefined": (7, ""), "srational": (10, "ii"), "float": (11, "f"), "double": (12, "d"),
}  # fmt: skip
Entry = tuple[int, str, Any]  # tag, type, values: bytes for ascii and undefined, pairs for rationals
GPANO = 'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"'
RDF = 'xmlns:x="adobe:ns:meta/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'


def exif_block(gps: Sequence[Entry] = (), exif: Sequence[Entry] = (), main: Sequence[Entry] = (), order: str = ">",
               ) -> bytes:  # fmt: skip
    """A TIFF structure with IFD0, the EXIF and the GPS IFD."""
    start = 8
    sizes = [_size(order, e) for e in ([*main, (0x8769, "long", [0]), (0x8825, "long", [0])], exif, gps)]
    places = [start, start + sizes[0], start + sizes[0] + sizes[1]]
    ifds = [[*main, (0x8769, "long", [places[1]]), (0x8825, "long", [places[2]])], exif, gps]
    head = (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HI", 42, start)
    return head + b"".join(_ifd(order, entries, at) for entries, at in zip(ifds, places, strict=True))


def with_segments(path: Path, *segments: bytes, size: tuple[int, int] = (64, 32)) -> Path:
    """A JPEG whose APP1 segments are these."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (90, 120, 60)).save(buffer, "JPEG")
    data = buffer.getvalue()
    inserted = b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data[:2] + inserted + data[2:])
    return path


def exif_photo(path: Path, gps: Sequence[Entry] = (), exif: Sequence[Entry] = (), main: Sequence[Entry] = (),
               order: str = ">") -> Path:  # fmt: skip
    """A JPEG with EXIF."""
    return with_segments(path, b"Exif\0\0" + exif_block(gps, exif, main, order))


def xmp_segment(text: str | bytes) -> bytes:
    """A packet as an APP1 segment."""
    return b"http://ns.adobe.com/xap/1.0/\0" + (text.encode() if isinstance(text, str) else text)


def extended_segments(data: bytes, digest: bytes, piece: int) -> list[bytes]:
    """Extended XMP, cut into segments."""
    return [
        b"http://ns.adobe.com/xmp/extension/\0" + digest + struct.pack(">II", len(data), at) + data[at : at + piece]
        for at in range(0, len(data), piece)
    ]


def xmp_packet(inner: str) -> str:
    """RDF in its wrappers, as most writers make it."""
    return (
        f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta {RDF}>'
        f'<rdf:RDF>{inner}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def _value(order: str, entry: Entry) -> tuple[int, bytes]:
    _, kind, values = entry
    if kind in ("ascii", "undefined"):
        return len(values), values
    code = TYPES[kind][1]
    flat = [n for v in values for n in v] if len(code) == 2 else list(values)
    return len(values), struct.pack(f"{order}{len(flat)}{code[0]}", *flat)


def _size(order: str, entries: Sequence[Entry]) -> int:
    return (
        6 + 12 * len(entries) + sum(len(d) + len(d) % 2 for _, d in (_value(order, e) for e in entries) if len(d) > 4)
    )


def _ifd(order: str, entries: Sequence[Entry], at: int) -> bytes:
    body, after = struct.pack(f"{order}H", len(entries)), b""
    data_at = at + 6 + 12 * len(entries)
    for entry in sorted(entries, key=lambda e: e[0]):
        count, data = _value(order, entry)
        field = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(f"{order}I", data_at + len(after))
        after += b"" if len(data) <= 4 else data + b"\0" * (len(data) % 2)
        body += struct.pack(f"{order}HHI", entry[0], TYPES[entry[1]][0], count) + field
    return body + b"\0\0\0\0" + after

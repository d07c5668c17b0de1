"""XMP of photos: the simple properties of one namespace, from attributes and elements of all packets a file holds.

Each packet is parsed as the content of an element, where XML allows no document type: it can declare no entities, and
nothing it names is opened or expanded. One that breaks off gives what stood before the break.
"""

from __future__ import annotations

import codecs
import re
from collections import defaultdict
from collections.abc import Iterator
from xml.parsers import expat

from PIL import Image

_PACKET = b"http://ns.adobe.com/xap/1.0/\0"
#: Before pieces of one too long for a JPEG segment: 32 characters of a digest, total length and offset, 4 bytes each.
_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
#: Characters of a value: more is data, and no property of a photo.
_LONGEST = 1 << 12
#: Prefixes that some writers use without declaring them.
_USUAL = {"x": "adobe:ns:meta/", "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#"}


def properties(image: Image.Image, prefix: str, namespace: str) -> dict[str, str]:
    """Values by local name of the properties of a namespace, spaces around them cut; of repeated ones the first.

    ``prefix`` stands for it where a packet declares none; otherwise any will do.
    """
    found: dict[str, str] = {}
    for packet in packets(image):
        for name, value in read_packet(packet, prefix, namespace).items():
            found.setdefault(name, value)
    return found


def packets(image: Image.Image) -> Iterator[bytes]:
    """The XMP packets of an opened photo, those of extended XMP last and put together."""
    segments = [data for name, data in getattr(image, "applist", ()) if name == "APP1"]
    standard = [data[len(_PACKET) :] for data in segments if data.startswith(_PACKET)]
    whole = image.info.get("xmp")
    yield from standard or ([whole] if isinstance(whole, bytes) else [])
    pieces: defaultdict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
    for data in segments:
        if data.startswith(_EXTENSION):
            digest, offset = data[len(_EXTENSION) :][:32], data[len(_EXTENSION) + 36 :][:4]
            pieces[digest].append((int.from_bytes(offset, "big"), data[len(_EXTENSION) + 40 :]))
    for own in pieces.values():
        yield b"".join(data for _, data in sorted(own))


def read_packet(packet: bytes, prefix: str, namespace: str) -> dict[str, str]:
    """As `properties`, of one packet."""
    found: dict[str, str] = {}
    depth, inside = 0, 0  # of the open elements, and of the property among them; 0: none
    value = ""
    mark = f"{namespace} "

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, inside, value
        for key, given in attributes.items():
            if key.startswith(mark):
                found.setdefault(key[len(mark) :], given[:_LONGEST].strip())
        depth += 1
        if not inside and name.startswith(mark):
            inside, value = depth, ""

    def characters(data: str) -> None:
        nonlocal value
        if inside and len(value) < _LONGEST:
            value += data[:_LONGEST]

    def end(name: str) -> None:
        nonlocal depth, inside
        if inside == depth:
            inside = 0
            if value.strip():
                found.setdefault(name[len(mark) :], value.strip())
        depth -= 1

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, characters
    declared = " ".join(f'xmlns:{k}="{v}"' for k, v in (_USUAL | {prefix: namespace}).items())
    try:
        parser.Parse(f"<packet {declared}>")
        parser.Parse(_text(packet))
    except (expat.ExpatError, ValueError):
        pass  # what stood before it counts
    return found


def _text(packet: bytes) -> str:
    """A packet's characters, without the declaration and the zeros that some end in."""
    if packet.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        coding = "utf-16"
    elif packet[:4].count(0) == 2:
        coding = "utf-16-be" if packet[0] == 0 else "utf-16-le"
    else:
        coding = "utf-8-sig"
    return re.sub(r"^\s*<\?xml\s[^>]*\?>", "", packet.decode(coding, "replace").strip("\0"))

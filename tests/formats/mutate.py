#!/usr/bin/env python3
"""Mutated PBF files end in features, named drops or one clear error, each within 5 s and 1 GB.

Usage: python tests/formats/mutate.py --files 1000000 [--first 0] [--workers 2]

A file is made from its number alone, so that `--first N --files 1` does one again.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from pipeline.osm.extracts.read import read_extract
from schemas.errors import GeoshardsError
from tests.formats.grammar import Block, File, Group, Object, Odd, Part, Plain, framed, header, some_file, written
from tests.osm.opl import RULES
from tests.osm.tables import table_of
from tests.watched import command

#: What is more likely to be taken wrong than any byte: ends of ranges as varints, signs, tags of each wire type.
_TRICKY = (
    b"\xff" * 9 + b"\x01", b"\xff" * 9 + b"\x7f", b"\x80" * 10, b"\x80" * 9 + b"\x01", b"\xff\xff\xff\xff\x07",
    b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x10", b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\x03", b"\x04",
    b"\x0a", b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x08", b"\x0d", b"\x09", b"\x88\x01", b"\x90\x01\x00",
)  # fmt: skip


def village(rng: random.Random) -> File:
    """Points, lines, areas and a multipolygon, with and without their nodes' places on ways."""
    xy = {1 + i + 4 * j: (90_000_000 + i * 10_000, 470_000_000 + j * 10_000) for j in range(4) for i in range(4)}
    rings = {1: [1, 4, 16, 13, 1], 2: [6, 7, 11, 10, 6], 3: [1, 2, 3], 4: [3, 4, 16], 5: [16, 13, 1]}
    tags = [[], [("building", "yes")], [("highway", "path")], [("natural", "water"), ("name", "")]]
    located = rng.random() < 0.3
    nodes = [Object(i, rng.choice(tags), 1, 1000 * i, rng.random() < 0.98, *place) for i, place in xy.items()]
    ways = [
        Object(i, rng.choice(tags), 2, 9, True, refs=refs, places=[xy[r] for r in refs] if located else None)
        for i, refs in rings.items()
    ]
    area = [("type", "multipolygon"), ("natural", "water")]
    members = [[(1, 1, "outer"), (1, 2, "inner")], [(1, 3, ""), (1, 4, ""), (1, 5, "outer")]]
    relations = [Object(i, area, 3, 9, True, members=m) for i, m in enumerate(members, 1)]
    group = Group([], [nodes], ways, relations, True)
    return File((-(10**9), 10**9, 10**9, -(10**9)), 1_600_000_000, [Block(100, 0, 0, 1000, [group])])


class Wild(Odd):
    """Sound messages of unsound numbers: any of any field, and lists that are too long or too short."""

    def scalar(self, number: int, value: int) -> list[Part]:
        return super().scalar(number, self._wild(value))

    def list(self, number: int, values: Sequence[int]) -> list[Part]:
        changed = [self._wild(v) for v in values]
        if self.odd():
            changed = changed[self.rng.randint(0, 2) :] + changed[: self.rng.randint(0, 2)]
        return super().list(number, changed)

    def _wild(self, value: int) -> int:
        if not self.odd():
            return value
        end = 1 << self.rng.choice([7, 8, 15, 16, 30, 31, 32, 33, 53, 61, 62, 63, 64])
        near = [0, 1, 2, -value, value + 1, value - 1]
        return self.rng.choice([*near, end, end - 1, end + 1, -end, self.rng.getrandbits(64)])


def mutated(number: int) -> bytes:
    """One file."""
    rng = random.Random(number)
    file = village(rng) if rng.random() < 0.8 else some_file(rng)
    form = rng.choice([Plain(), Odd(rng, 0.05), Wild(rng, 0.003), Wild(rng, 0.03)])
    contents = [header(file, form), *(written(block, form) for block in file.blocks)]
    at = rng.randrange(len(contents)) if rng.random() < 0.1 else len(contents) - 1
    if not isinstance(form, Wild) or rng.random() < 0.2:
        # Lengths and checksums of blobs hold, so that what is within is read.
        contents[at] = _changed(contents[at], rng)
    frame = form if rng.random() < 0.2 else Plain()
    data = b"".join(framed(frame, "OSMData" if i else "OSMHeader", content) for i, content in enumerate(contents))
    return _changed(data, rng) if rng.random() < 0.2 else data


def _changed(data: bytes, rng: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        at = rng.randrange(len(raw) + 1)
        to = min(len(raw), at + rng.choice([1, 1, 2, 4, 8, 30]))
        match rng.randrange(8):
            case 0:
                raw[at:to] = rng.randbytes(to - at)
            case 1 if at < len(raw):
                raw[at] ^= 1 << rng.randrange(8)
            case 2 if at < len(raw):
                raw[at] = (raw[at] + rng.choice([1, -1, 2, -2])) % 256
            case 3:
                raw[at:at] = rng.choice(_TRICKY)
            case 4:
                raw[at : at + 1] = rng.choice(_TRICKY)
            case 5:
                del raw[at:to]
            case 6:
                raw[at:at] = raw[at:to] * rng.choice([1, 2, 50])
            case 7 if rng.random() < 0.3:
                del raw[at:]
            case _:
                raw[at:to] = bytes(rng.choice(_TRICKY)[:1] * (to - at))
    return bytes(raw)


def outcome(number: int, folder: Path) -> str:
    """How one file ends: ``features``, ``refused``, or what is wrong."""
    path = folder / "x.osm.pbf"
    path.write_bytes(mutated(number))
    try:
        extract = read_extract(path, RULES, folder / "parts")
        found = table_of(extract)
        named = sum(extract.drops["count"].to_pylist())
        if found.num_rows + named != extract.objects:
            return f"{extract.objects} objects, {found.num_rows} features and {named} drops"
        return "features" if found.num_rows else "nothing but drops"
    except GeoshardsError as error:
        return "refused" if str(path) in str(error) and "\n" not in str(error) else f"unclear: {error}"
    except BaseException as error:  # noqa: BLE001  # any is a finding
        return f"{type(error).__name__}: {error}"


#: Outcomes that are right.
GOOD = frozenset({"features", "nothing but drops", "refused"})


if __name__ == "__main__":
    sys.exit(command(str(__doc__), outcome, GOOD, 1_000_000, sys.argv[1:]))

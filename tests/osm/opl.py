"""OSM as a few lines of OPL text inside a test."""

from __future__ import annotations

from pathlib import Path

from pipeline.osm.extracts.read import Extract, read_extract
from pipeline.rules import load_rules

RULES = load_rules()

#: Nodes 1 to 9 on a grid of 0.001°: n1 n2 n3 in the southern row, n7 n8 n9 in the northern one.
GRID = "\n".join(f"n{1 + i + 3 * j} v1 x{9 + i / 1000} y{47 + j / 1000}" for j in range(3) for i in range(3))


def opl(text: str) -> str:
    """Lines without their indent, in the order that OSM files keep: nodes, ways, relations, each by id."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(sorted(lines, key=lambda line: ("nwr".index(line[0]), int(line.split()[0][1:])))) + "\n"


def read(folder: Path, text: str, name: str = "x.opl") -> Extract:
    """What the reader makes of OPL text."""
    path = folder / name
    path.write_text(opl(text), encoding="utf-8")
    return read_extract(path, RULES, folder / f"{name}.parts")


def encoded(text: str) -> str:
    """Text as an OPL tag key or value."""
    return "".join(c if (c.isalnum() and c.isascii()) or c == "_" else f"%{ord(c):x}%" for c in text)

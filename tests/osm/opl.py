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


def write_opl(path: Path, nodes: list[tuple[int, float, float, str]], ways: list[tuple[int, list[int], str]]) -> Path:
    """Nodes (id, lon, lat, tags) and ways (id, node ids, tags) as OPL text; tags as in OPL: k=v,k=v."""
    lines = [
        f"n{i} v1 dV c1 t2024-06-01T00:00:00Z i1 utest T{tags} x{lon:.7f} y{lat:.7f}" for i, lon, lat, tags in nodes
    ]
    lines += [
        f"w{i} v1 dV c1 t2024-06-01T00:00:00Z i1 utest T{tags} N{','.join(f'n{r}' for r in refs)}"
        for i, refs, tags in ways
    ]
    path.write_text("\n".join(lines) + "\n")
    return path

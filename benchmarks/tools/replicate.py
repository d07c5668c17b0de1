#!/usr/bin/env python3
"""Not a race: writes N copies of an extract into one, with shifted ids and longitudes, as input for the races.

Usage: python benchmarks/tools/replicate.py IN.osm.pbf OUT.osm.pbf --copies 20

Nodes, then ways, then relations, each rising by id, as OSM files are sorted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import osmium

_ID_STEP = 20_000_000_000  # above every id in use
_DEGREES = 0.2


def replicate(source: Path, target: Path, copies: int) -> None:
    """Write the copies."""
    target.unlink(missing_ok=True)
    kinds = (osmium.osm.NODE, osmium.osm.WAY, osmium.osm.RELATION)
    out = osmium.io.File(str(target), "osm.pbf,pbf_compression=zlib")
    with osmium.SimpleWriter(out) as writer:
        for kind in kinds:
            for copy in range(copies):
                shift = copy * _ID_STEP
                for o in osmium.FileProcessor(str(source), kind):
                    if kind == osmium.osm.NODE:
                        place = (o.location.lon + copy * _DEGREES, o.location.lat)
                        writer.add(o.replace(id=o.id + shift, location=place))
                    elif kind == osmium.osm.WAY:
                        writer.add(o.replace(id=o.id + shift, nodes=[n.ref + shift for n in o.nodes]))
                    else:
                        members = [(m.type, m.ref + shift, m.role) for m in o.members]
                        writer.add(o.replace(id=o.id + shift, members=members))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--copies", type=int, default=20)
    args = parser.parse_args()
    replicate(args.source, args.target, args.copies)


if __name__ == "__main__":
    main()

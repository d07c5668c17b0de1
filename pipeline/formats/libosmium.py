"""OSM files of any format as libosmium reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import osmium

_OBJECTS = osmium.osm.NODE | osmium.osm.WAY | osmium.osm.RELATION


def objects_of(path: Path) -> Any:
    """Nodes, ways and relations, with the file's ``header``; changesets are skipped."""
    return osmium.FileProcessor(str(path), _OBJECTS)

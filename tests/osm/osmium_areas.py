"""Areas as libosmium builds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import osmium
import shapely

Key = tuple[str, int]


def areas_by_osmium(path: Path) -> dict[Key, Any]:
    """Shapely geometry of each closed way (whatever its tags) and area relation; None where libosmium refuses it."""
    factory = osmium.geom.WKBFactory()
    found: dict[Key, Any] = {}
    for o in osmium.FileProcessor(str(path)).with_areas():
        if o.type_str() == "a":
            whole = shapely.from_wkb(factory.create_multipolygon(o)) if o.num_rings()[0] else None
            found["way" if o.from_way() else "relation", o.orig_id()] = whole
    return found

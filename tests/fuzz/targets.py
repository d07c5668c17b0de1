"""Every door through which bytes of others come, by name."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from tests.fuzz.damage import Target

#: Doors of each module here, which is imported when one of them is asked for.
_DOORS = {
    "osm": ("pbf", "osc", "states", "xml", "mvt"), "imagery": ("geotiff", "stac"),
    "vectors": ("geojson", "geopackage", "shapefile"), "photos": ("photos", "tables"), "services": ("services",),
    "chips": ("chips",), "notes": ("notes",), "settings": ("settings", "training", "rules"),
    "texts": ("times", "keys", "addresses", "answers", "regions"),
    "dataset": ("dataset", "commands", "members", "tokens", "index", "tags", "checkpoint"),
}  # fmt: skip
NAMES = tuple(name for names in _DOORS.values() for name in names)


@cache
def target_of(name: str) -> Target:
    """One door."""
    module = next(module for module, names in _DOORS.items() if name in names)
    doors: dict[str, Target] = import_module(f"tests.fuzz.{module}").TARGETS
    assert tuple(doors) == _DOORS[module]
    return doors[name]

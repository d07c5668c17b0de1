"""The index of extracts: a tree of regions with names, ISO codes, URLs and outlines (Geofabrik's ``index-v1.json``)."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urljoin

import numpy as np
import shapely

from pipeline.net.config import DEFAULT_BASES
from pipeline.regions.area import to_polygons
from schemas.errors import InputError, at_the_door

#: Extracts that are put together from others with the same parent, under Geofabrik's heading "special sub regions"
#: (listed in the documentation of osmextract's geofabrik_zones). Taken where they are named, not as parts of a parent.
COMBINED = frozenset(
    {"alps", "britain-and-ireland", "dach", "us-midwest", "us-northeast", "us-pacific", "us-south", "us-west"}
)
#: Share of a region's area from which on others are taken to make it up: their outlines differ off the coast.
_SAME = 0.95


@dataclass(frozen=True, eq=False)
class Entry:
    """One entry of the index."""

    id: str
    name: str
    parent: str | None
    iso: tuple[str, ...]  # ISO 3166-1 alpha-2 and 3166-2 codes, upper case
    url: str | None  # of the extract; None: only its children have one
    geometry: Any  # shapely (multi)polygon in lon/lat; None: unknown

    def __str__(self) -> str:
        codes = f" [{', '.join(self.iso)}]" if self.iso else ""
        return f"{self.id} ({self.name}){codes}"


class Index:
    """Regions by id, and what lies in what."""

    def __init__(self, regions: Iterable[Entry], where: str) -> None:
        """``where`` stands in messages.

        Raises:
            InputError: an id is there twice, or a region is its own ancestor.
        """
        self.where = where
        self.regions: dict[str, Entry] = {}
        for region in regions:
            if region.id in self.regions:
                raise InputError(f"index {where} has two regions {region.id!r}; it is damaged")
            self.regions[region.id] = region
        self.children: dict[str, list[Entry]] = {}
        for region in sorted(self.regions.values(), key=lambda r: r.id):
            self.children.setdefault(region.parent or "", []).append(region)
            if region.id in self.ancestors(region):
                raise InputError(f"index {where}: region {region.id!r} lies in itself; it is damaged")

    @property
    def roots(self) -> list[Entry]:
        """Regions that lie in no other."""
        return self.children.get("", [])

    def ancestors(self, region: Entry) -> list[str]:
        """Ids of the regions that it lies in, the nearest first; ends at the first repeat."""
        found: list[str] = []
        while region.parent is not None and region.parent not in found:
            found.append(region.parent)
            region = self.regions[region.parent]
        return found

    def find(self, text: str) -> list[Entry]:
        """Regions meant by an id, an ISO code or a name; several where several together are that country.

        Raises:
            InputError: nothing fits, or things that do not belong together; the message lists what comes near.
        """
        word = _plain(text)
        if text.lower() in self.regions:
            return [self.regions[text.lower()]]
        if re.fullmatch(r"[A-Za-z]{2}(-[A-Za-z0-9]{1,3})?", text) and (found := self._by_code(text.upper())):
            return found
        named = [r for r in self.regions.values() if word in _words(r)]
        if len(named) == 1:
            return named
        if named:
            raise InputError(f"region {text!r} can be {_listed(named)}; give its id")
        raise InputError(
            f"region {text!r} is neither 'demo' nor a file, and not in {self.where}; nearest: "
            f"{_listed(self._near(word)) or 'none'}; `geoshards regions` lists all"
        )

    def _by_code(self, code: str) -> list[Entry]:
        """Regions of this code alone, the outermost ones; else the one that has it among others."""
        alone = [r for r in self.regions.values() if r.iso == (code,)]
        if alone:
            ids = {r.id for r in alone}
            return [r for r in alone if not ids.intersection(self.ancestors(r))]
        among = [r for r in self.regions.values() if code in r.iso]
        if len(among) > 1:
            raise InputError(f"region {code!r} is part of {_listed(among)}; give an id")
        return among

    def _near(self, word: str) -> list[Entry]:
        words = {w: r for r in self.regions.values() for w in _words(r)}
        near = [w for w in words if len(word) > 2 and word in w] + difflib.get_close_matches(word, list(words), 6, 0.6)
        return list({words[w].id: words[w] for w in near}.values())[:8]

    def leaves(self, regions: Sequence[Entry]) -> list[Entry]:
        """The extracts that make up ``regions``, sorted by id: the smallest ones, none beside a part of itself.

        Children stand for their parent where they make it up (some are single towns of it, and then do not); at the top
        of the tree they always do, since continents reach far out to sea. Extracts put together from others of the list
        are left out.
        """
        found = {leaf.id: leaf for region in regions for leaf in self._expand(region)}
        named = {r.id for r in regions}
        chosen = [r for r in found.values() if not found.keys() & set(self.ancestors(r))]
        chosen.sort(key=lambda r: (_area(r), r.id))
        kept: list[Entry] = []
        for region in chosen:
            smaller = [k for k in kept if k.geometry is not None]
            if region.id in named or not smaller or not self._made_up(region, smaller):
                kept.append(region)
        return sorted(kept, key=lambda r: r.id)

    def _expand(self, region: Entry) -> list[Entry]:
        children = [c for c in self.children.get(region.id, []) if c.id not in COMBINED]
        if region.url is not None and (
            not children or (region.parent is not None and not self._made_up(region, children))
        ):
            return [region]
        leaves = [leaf for child in children for leaf in self._expand(child)]
        return leaves or ([region] if region.url is not None else [])

    def _made_up(self, region: Entry, parts: Sequence[Entry]) -> bool:
        """Whether ``parts`` cover nearly all of a region. Where outlines are unknown, only children do."""
        if region.geometry is None or any(p.geometry is None for p in parts):
            return all(p.parent == region.id for p in parts)
        shapes = np.array([p.geometry for p in parts], dtype=object)
        near = shapes[shapely.intersects(shapes, region.geometry)]
        common = shapely.intersection(shapely.union_all(near), region.geometry)
        return _measure(common) >= _SAME * _measure(region.geometry)

    def covering(self, area: Any) -> list[Entry]:
        """Leaf extracts that together hold as much of a lon/lat polygon as all of them do, sorted by id.

        Where several hold the same part, the larger ones are left out first; of the result none can be left out.

        Raises:
            InputError: none meets the area.
        """
        leaves = [leaf for root in self.roots for leaf in self._expand(root) if leaf.geometry is not None]
        shapely.prepare(area)
        met = [r for r in leaves if shapely.intersects(area, r.geometry)]
        met = [r for r in met if shapely.intersection(area, r.geometry).area > 0]
        if not met:
            raise InputError(f"no extract of {self.where} meets {_box_text(area)}; is it longitude before latitude?")
        wanted = shapely.intersection(area, shapely.union_all([r.geometry for r in met]))
        for region in sorted(met, key=lambda r: (-_area(r), r.id)):
            others = [r.geometry for r in met if r is not region]
            if shapely.difference(wanted, shapely.union_all(others)).area <= 1e-9 * wanted.area:
                met.remove(region)
        return sorted(met, key=lambda r: r.id)


#: What `parse_index` needs of a document.
NEEDS = {
    "features[].properties.id": "text", "features[].properties.name": "text", "features[].properties.parent": "text",
    "features[].properties.urls.pbf": "text", "features[].properties.iso3166-1:alpha2": "list",
    "features[].geometry.coordinates": "list",
}  # fmt: skip


def parse_index(document: Any, base: str, where: str) -> Index:
    """An index document. URLs in it are relative to ``base``, and those of the original server are taken for such.

    Raises:
        InputError: it is no index; the message names the entry.
    """
    features = document.get("features") if isinstance(document, dict) else None
    if not isinstance(features, list):
        raise InputError(f"{where} is no index of extracts: it has no features")
    rows: dict[str, dict[str, Any]] = {}
    regions = []
    for number, feature in enumerate(features):
        with at_the_door(f"{where}: entry {number} cannot be read", "the index is damaged"):
            own = feature["properties"]
            rows[str(own["id"])] = own
            regions.append(_region(own, feature.get("geometry"), base))
    ids = {r.id for r in regions}
    return Index((_placed(r, ids) for r in regions), where)


def _region(own: dict[str, Any], geometry: Any, base: str) -> Entry:
    codes = [*(own.get("iso3166-1:alpha2") or []), *(own.get("iso3166-2") or [])]
    url = (own.get("urls") or {}).get("pbf")
    parent = own.get("parent") or None
    return Entry(
        str(own["id"]),
        str(own.get("name") or own["id"]),
        None if parent is None else str(parent),
        tuple(sorted({str(c).upper() for c in codes})),
        None if url is None else urljoin(f"{base}/", str(url).removeprefix(f"{DEFAULT_BASES['geofabrik']}/")),
        None if geometry is None else to_polygons([geometry]),
    )


def _placed(region: Entry, ids: set[str]) -> Entry:
    """A region under the nearest parent that exists: `us/georgia` lies in `us`, although it names `north-america`."""
    above = region.id.rpartition("/")[0]
    parent = above if above in ids else region.parent if region.parent in ids else None
    return replace(region, parent=parent)


def _plain(text: str) -> str:
    """Lower case, without accents, words joined by hyphens."""
    text = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def _words(region: Entry) -> set[str]:
    """What a region may be called."""
    return {_plain(t) for t in (region.id, region.id.rpartition("/")[2], region.name, region.name.rpartition("/")[2])}


def _listed(regions: Sequence[Entry]) -> str:
    return ", ".join(str(r) for r in sorted(regions, key=lambda r: r.id)[:12])


def _measure(geometry: Any) -> float:
    """Area on the sphere, in units of its own (a cylinder of equal area)."""
    equal = shapely.transform(geometry, lambda c: np.stack((c[:, 0], np.sin(np.radians(c[:, 1]))), axis=1))
    return float(equal.area)


def _area(region: Entry) -> float:
    return 0.0 if region.geometry is None else _measure(region.geometry)


def _box_text(area: Any) -> str:
    return ",".join(f"{v:g}" for v in area.bounds)

"""One extract (.osm.pbf, .osm.bz2, .osm, .opl …) to its feature table and its drops.

Each object with a kept key comes out once, whole, as a point, line or polygon, or as one row of drops; the others are
counted by type and reason. Reads the file; writes nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import osmium
import pyarrow as pa
import shapely
from osmium.osm import RelationMemberList, TagList

from pipeline.rules import Rules
from schemas.errors import InputError
from schemas.features import DROPS, FEATURES, drop_row

_CHUNK = 50_000  # objects turned into Arrow at once


@dataclass
class Extract:
    """What one extract holds."""

    features: pa.Table  # schemas.features.FEATURES, in file order
    drops: pa.Table  # schemas.features.DROPS
    extent: tuple[float, float, float, float] | None  # west, south, east, north; None without nodes
    snapshot: str | None  # ISO 8601: replication time of the header, else the newest object
    objects: int  # nodes, ways and relations read


@dataclass
class _Collector:
    """Rows on their way to Arrow."""

    source: str
    chunks: list[pa.Table] = field(default_factory=list)
    drops: list[dict[str, object]] = field(default_factory=list)
    uncounted: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    rows: list[tuple[str, int, str, dict[str, str], Any, int, Any]] = field(default_factory=list)

    def add(self, osm_type: str, osm_id: int, kind: str, tags: dict[str, str], wkb: Any, o: Any) -> None:
        stamp = o.timestamp
        self.rows.append((osm_type, osm_id, kind, tags, wkb, o.version, stamp if stamp.year > 1970 else None))
        if len(self.rows) >= _CHUNK:
            self.flush()

    def drop(self, osm_type: str, osm_id: int, reason: str, detail: str = "") -> None:
        self.drops.append(drop_row("features", self.source, reason, osm_type=osm_type, osm_id=osm_id, detail=detail))

    def flush(self) -> None:
        if not self.rows:
            return
        osm_type, osm_id, kind, tags, wkb, version, stamp = zip(*self.rows, strict=True)
        self.rows.clear()
        points = np.array([w if isinstance(w, tuple) else (np.nan, np.nan) for w in wkb])
        at = np.flatnonzero(~np.isnan(points[:, 0]))
        geometry = shapely.from_wkb(np.array([None if isinstance(w, tuple) else w for w in wkb], object))
        geometry[at] = shapely.points(points[at])
        self.chunks.append(feature_table(osm_type, osm_id, kind, tags, geometry, version, stamp))


def feature_table(
    osm_type: Any, osm_id: Any, kind: Any, tags: Any, geometry: Any, version: Any, stamp: Any
) -> pa.Table:
    """Columns (any sequences; geometry of shapely objects in lon/lat) to a FEATURES table."""
    bounds = shapely.bounds(geometry).reshape(-1, 4)
    bbox = pa.StructArray.from_arrays(
        [pa.array(bounds[:, i]) for i in range(4)], fields=list(FEATURES.field("bbox").type)
    )
    columns = [
        pa.array(osm_type, pa.string()),
        pa.array(osm_id, pa.int64()),
        pa.array(kind, pa.string()),
        pa.array([list(t.items()) for t in tags], FEATURES.field("tags").type),
        pa.array(shapely.to_wkb(geometry), pa.binary()),
        bbox,
        pa.array(version, pa.int32()),
        pa.array(stamp, FEATURES.field("timestamp").type),
    ]
    return pa.Table.from_arrays(columns, schema=FEATURES)


def read_extract(path: Path, rules: Rules) -> Extract:
    """Read one extract.

    Raises:
        InputError: the file is missing, truncated or no OSM file.
    """
    if not path.is_file():
        raise InputError(f"OSM extract {path} does not exist; give the path of an .osm.pbf file")
    out = _Collector(path.name)
    try:
        reader = _Reader(out, rules)
        processor = osmium.FileProcessor(str(path)).with_areas()
        for o in processor:
            reader.object(o)
        header = processor.header
    except (RuntimeError, OSError) as error:
        way_out = "sort it with `osmium sort`" if "order" in str(error).lower() else "download it again"
        raise InputError(f"OSM extract {path} cannot be read: {error}; {way_out}") from None
    reader.finish()
    out.flush()
    tables = out.chunks or [FEATURES.empty_table()]
    snapshot = header.get("osmosis_replication_timestamp") or reader.newest
    drops = out.drops + [
        drop_row("features", out.source, reason, osm_type=osm_type, detail=detail, count=count)
        for (osm_type, reason, detail), count in sorted(out.uncounted.items())
    ]
    return Extract(
        pa.concat_tables(tables),
        pa.Table.from_pylist(drops, schema=DROPS),
        _extent(header.box(), reader.bounds),
        snapshot or None,
        reader.objects,
    )


class _Reader:
    """Routes each object of a file to the collector; remembers which areas are still owed."""

    def __init__(self, out: _Collector, rules: Rules) -> None:
        self.out, self.rules = out, rules
        self.owed: dict[tuple[str, int], str] = {}  # areas that osmium has yet to deliver -> detail for the drop
        self.pending: dict[int, dict[str, str]] = {}  # tags of closed ways that become areas
        self.bounds = [np.inf, np.inf, -np.inf, -np.inf]
        self.newest = ""
        self.objects = 0
        self.wkb = osmium.geom.WKBFactory()

    def object(self, o: Any) -> None:
        kind = o.type_str()
        if kind == "a":
            self.area(o)
            return
        self.objects += 1
        if kind == "n":
            self.node(o)
        elif kind == "w":
            self.way(o)
        else:
            self.relation(o)

    def kept(self, osm_type: str, o: Any) -> dict[str, str] | None:
        """The object's tags if one of its keys is kept; else it is counted."""
        tags: TagList = o.tags
        if not len(tags):
            self.out.uncounted[osm_type, "no_tags", ""] += 1
            return None
        found = dict(tags)
        if not any(self.rules.tags.keeps(key) for key in found):
            self.out.uncounted[osm_type, "no_kept_key", ""] += 1
            return None
        stamp = o.timestamp
        if stamp.year > 1970:
            self.newest = max(self.newest, stamp.strftime("%Y-%m-%dT%H:%M:%SZ"))
        return found

    def node(self, o: Any) -> None:
        location = o.location
        valid = location.valid()
        if valid:
            lon, lat, b = location.lon, location.lat, self.bounds
            if lon < b[0]:
                b[0] = lon
            if lat < b[1]:
                b[1] = lat
            if lon > b[2]:
                b[2] = lon
            if lat > b[3]:
                b[3] = lat
        tags = self.kept("node", o)
        if tags is None:
            return
        if not valid:
            self.out.drop("node", o.id, "coordinate_out_of_range")
            return
        self.out.add("node", o.id, "point", tags, (lon, lat), o)

    def way(self, o: Any) -> None:
        tags = self.kept("way", o)
        if tags is None:
            return
        nodes = o.nodes
        closed = len(nodes) >= 4 and nodes[0].ref == nodes[-1].ref
        if closed and self.rules.areas.is_area(tags):
            self.owed["way", o.id] = "ring crosses itself or lacks nodes"
            self.pending[o.id] = tags
            return
        try:
            wkb = self.wkb.create_linestring(o)
        except (osmium.InvalidLocationError, RuntimeError):
            missing = sum(not n.location.valid() for n in nodes)
            reason = "missing_nodes" if missing else "too_few_nodes"
            self.out.drop(
                "way", o.id, reason, f"{missing} of {len(nodes)} nodes missing" if missing else f"{len(nodes)} nodes"
            )
            return
        self.out.add("way", o.id, "line", tags, wkb, o)

    def relation(self, o: Any) -> None:
        tags = self.kept("relation", o)
        if tags is None:
            return
        relation_type = tags.get("type", "")
        if relation_type not in self.rules.areas.relation_types:
            self.out.uncounted["relation", "type_out_of_scope", relation_type] += 1
            return
        members: RelationMemberList = o.members
        ways = sum(m.type == "w" for m in members)
        # osmium hands over an area before or after its relation: an area that came first is already settled.
        if self.owed.pop(("relation", o.id), None) is None:
            self.owed["relation", o.id] = f"rings do not close or cross, or members are missing ({ways} ways)"

    def area(self, o: Any) -> None:
        osm_id = o.orig_id()
        if o.num_rings()[0] == 0:
            return  # what osmium could not assemble stays owed
        if o.from_way():
            tags = self.pending.pop(osm_id, None)
            if tags is None:
                return  # a closed way that is a line by the area rule, or has no kept key
            del self.owed["way", osm_id]
            self.out.add("way", osm_id, "polygon", tags, self.wkb.create_multipolygon(o), o)
            return
        tags = dict(o.tags)
        if not any(self.rules.tags.keeps(key) for key in tags):
            return  # counted with its relation
        if self.owed.pop(("relation", osm_id), None) is None:
            self.owed["relation", osm_id] = ""
        self.out.add("relation", osm_id, "polygon", tags, self.wkb.create_multipolygon(o), o)

    def finish(self) -> None:
        """Whatever area is still owed could not be assembled."""
        for (osm_type, osm_id), detail in sorted(self.owed.items()):
            self.out.drop(osm_type, osm_id, "invalid_area", detail)


def _extent(box: Any, data: list[float]) -> tuple[float, float, float, float] | None:
    """The header's box cut to the data: complete ways reach out of a clip's box, and some headers are wrong."""
    if not np.isfinite(data).all():
        return None
    west, south, east, north = data
    if box.valid():
        low, high = box.bottom_left, box.top_right
        cut = max(west, low.lon), max(south, low.lat), min(east, high.lon), min(north, high.lat)
        if cut[0] < cut[2] and cut[1] < cut[3]:
            return cut
    return west, south, east, north

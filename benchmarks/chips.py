#!/usr/bin/env python3
"""Race: the graph of image chips from parsed features, against a loop over all pairs of objects, one core.

Usage: python benchmarks/chips.py [FOLDER] [--runs 7] [--copies 20]

The default folder holds GeoLink's released examples (tests/real/README.md says where to get them): three chips, each
of its own CRS and size. The loop does chip by chip and pair by pair what the released graph builder does
(docs/papers/geolink.md#tags to #relations), with its text encoder stubbed: linear lon/lat map, key points, DE-9IM of
every pair in Python, Delaunay among points. geoshards also clips, snaps and covers the 14 × 14 patches. Three sides:
``geoshards`` the chips of the folder in one call, ``geoshards_sheet`` ``--copies`` of every chip in one call (a folder
of chips of few sizes), ``loop``. Prints one JSON line of median CPU milliseconds a chip, so that what
else runs on the machine weighs less.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from pipeline.alignment import Placement, place
from pipeline.footprints.chips.plan import DescribeJob, columns_of, describe_chips
from pipeline.footprints.chips.scan import find_chips
from pipeline.osm.features import FeatureBatch
from pipeline.osm.vectors.objects import ChipObjects, read_objects
from pipeline.rules import load_rules
from pipeline.tokens.config import TokensConfig
from pipeline.tokens.sheet import TokenMaker, vector_tokens
from schemas.features import FEATURES
from schemas.footprint import Footprint

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

from tests.osm.tables import tag_features  # noqa: E402

_DATA = Path(os.environ.get("GEOSHARDS_TEST_DATA") or _ROOT / "../shared/data")
_DIMENSIONS = 512  # of a text feature
_PATTERNS = {
    "disjoint": "FF.FF....",
    "touches": "F(T.......|..T.....|...T....)",
    "covers": "(T.....FF.|.T....FF.|...T..FF.|....T.FF.)",
    "covered_by": "(T.F..F...|.TF..F...|..FT.F...|..F.TF...)",
    "overlaps": "T.T...T..",
    "equals": "T.F..FFF.",
}
_SAME = {name: re.compile(pattern) for name, pattern in _PATTERNS.items()}


@dataclass(frozen=True, eq=False)
class Chip:
    """One parsed chip."""

    footprint: Footprint
    objects: ChipObjects
    features: FeatureBatch


def load(folder: Path) -> list[Chip]:
    """Every chip of a folder, parsed."""
    files, _ = find_chips(folder)
    rows = describe_chips(DescribeJob(folder, files))[0].to_pylist()
    chips = []
    for row in rows:
        objects = read_objects(folder, row["vectors"])
        column = pa.array([list(t.items()) for t in objects.tags], FEATURES.field("tags").type)
        tagged = tag_features(column, load_rules(), 1)
        features = FeatureBatch(
            objects.osm_type, objects.osm_id, objects.kind, tagged.offsets, tagged.ids, tagged.paint, objects.geometry
        )
        chips.append(Chip(columns_of([row])[0], objects, features))
    return chips


def ours(chips: list[Chip], maker: TokenMaker, placement: Placement) -> None:
    """Tokens of some chips in one call."""
    lengths = np.concatenate([np.diff(c.features.tag_offsets) for c in chips])
    names = ("osm_type", "osm_id", "kind", "tag_ids", "paint", "geometry")
    columns: dict[str, Any] = {n: np.concatenate([getattr(c.features, n) for c in chips]) for n in names}
    features = FeatureBatch(tag_offsets=np.concatenate(([0], np.cumsum(lengths))), **columns)
    owner = np.repeat(np.arange(len(chips)), [len(c.features) for c in chips])
    vector_tokens(maker, [c.footprint for c in chips], placement, owner, features)


def same_kind(matrix: str) -> str:
    """Class of a pair of one kind, in the order in which the released code tests."""
    general = re.sub("[012]", "T", matrix)
    return next((name for name, pattern in _SAME.items() if pattern.fullmatch(general)), "other")


def other_kinds(matrix: str) -> str:
    """Class of a pair of two kinds."""
    general = re.sub("[012]", "T", matrix)
    for name in ("disjoint", "touches", "covered_by"):
        if _SAME[name].fullmatch(general):
            return name
    return "crosses"


def key_points(geometry: Any, draw: random.Random) -> list[tuple[float, float]]:
    """A point itself; a line's centroid and ends; a polygon's three interior samples and centroid."""
    if geometry.geom_type == "Point":
        return [(geometry.x, geometry.y)]
    centre = geometry.centroid
    if geometry.geom_type == "LineString":
        return [(centre.x, centre.y), geometry.coords[0], geometry.coords[-1]]
    points = []
    distances = [math.dist((centre.x, centre.y), p) for p in geometry.exterior.coords]
    for angle in (0.0, 2 * math.pi / 3, 4 * math.pi / 3):
        radius = draw.uniform(min(distances) / 2, max(distances) / 2)
        for step in range(10, -1, -1):
            r = radius * step / 10
            place = shapely.Point(centre.x + r * math.cos(angle), centre.y + r * math.sin(angle))
            if geometry.contains(place):
                break
        points.append((place.x, place.y))
    return [*points, (centre.x, centre.y)]


def loop(chip: Chip, box: tuple[float, float, float, float], draw: random.Random) -> int:
    """The graph of one chip by plain loops; returns its number of directed edges."""
    west, south, east, north = box
    rows = []
    for geometry, tags in zip(chip.objects.geometry, chip.objects.tags, strict=True):
        text = np.stack([np.zeros(_DIMENSIONS, np.float32) for _ in tags])
        weights = np.array([math.log(1 + len(k)) for k in tags])
        feature = (text * weights[:, None]).sum(axis=0) / weights.sum()
        places = [
            ((x - west) / (east - west), 1 - (y - south) / (north - south)) for x, y in key_points(geometry, draw)
        ]
        rows.append(np.concatenate((feature, np.array(places).ravel())))
    edges: list[tuple[int, int, str]] = []
    kind = chip.objects.kind
    by_kind = [np.flatnonzero(kind == k).tolist() for k in range(3)]
    for own in by_kind[1:]:
        for i in own:
            for j in own:
                name = (
                    "self" if i == j else same_kind(shapely.relate(chip.objects.geometry[i], chip.objects.geometry[j]))
                )
                if name not in ("disjoint", "other"):
                    edges.append((i, j, name))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        for i in by_kind[a]:
            for j in by_kind[b]:
                name = other_kinds(shapely.relate(chip.objects.geometry[i], chip.objects.geometry[j]))
                if name != "disjoint":
                    edges += [(i, j, name), (j, i, name)]
    points = [chip.objects.geometry[i] for i in by_kind[0]]
    edges += [(i, i, "self") for i in by_kind[0]]
    if len(points) > 3:
        lines = shapely.delaunay_triangles(shapely.MultiPoint(points), only_edges=True)
        place = {(p.x, p.y): i for p, i in zip(points, by_kind[0], strict=True)}
        for line in lines.geoms:
            i, j = (place[c] for c in line.coords)
            edges += [(i, j, "delaunay"), (j, i, "delaunay")]
    return len(edges)


def milliseconds(work: Callable[[], Any], chips: int) -> float:
    """CPU time of this thread for one call, a chip."""
    start = time.thread_time()
    work()
    return (time.thread_time() - start) / chips * 1e3


def race(folder: Path, runs: int, copies: int) -> dict[str, Any]:
    """All sides in turn, ``runs`` times each."""
    chips = load(folder)
    maker = TokenMaker(TokensConfig(raster=False), load_rules().paint)
    sheet = [
        replace(c, footprint=replace(c.footprint, key=f"{c.footprint.key}-{k}")) for k in range(copies) for c in chips
    ]
    three = place([c.footprint for c in chips])
    whole = place([c.footprint for c in sheet])
    draw = random.Random(0)
    found: dict[str, list[float]] = {"geoshards": [], "geoshards_sheet": [], "loop": []}
    for _ in range(runs + 1):
        found["geoshards"].append(milliseconds(lambda: ours(chips, maker, three), len(chips)))
        found["geoshards_sheet"].append(milliseconds(lambda: ours(sheet, maker, whole), len(sheet)))
        found["loop"].append(
            milliseconds(
                lambda: [loop(c, tuple(box), draw) for c, box in zip(chips, three.bbox, strict=True)], len(chips)
            )
        )
    medians = {name: statistics.median(times[1:]) for name, times in found.items()}  # the first fills caches
    return {
        "race": "chips", "folder": folder.name, "chips": len(chips),
        "objects_per_chip": round(sum(len(c.features) for c in chips) / len(chips), 1),
        **{f"{name}_ms": round(value, 2) for name, value in medians.items()},
        "loop_over_geoshards": round(medians["loop"] / medians["geoshards"], 2),
        "loop_over_sheet": round(medians["loop"] / medians["geoshards_sheet"], 2), "copies": copies, "runs": runs,
    }  # fmt: skip


def main() -> None:
    """Run the race and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=_DATA / "geolink/chips")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--copies", type=int, default=20)
    args = parser.parse_args()
    if not args.folder.is_dir():
        parser.error(f"{args.folder} does not exist; give a folder of chips, or set GEOSHARDS_TEST_DATA")
    print(json.dumps(race(args.folder, args.runs, args.copies)))


if __name__ == "__main__":
    main()

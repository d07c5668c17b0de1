"""Independent readers: the same objects, kinds, tags and geometries on every real extract, which is read once for both.

``by_osmium`` is libosmium, ``exported`` the `osmium export` binary. Told our area rule, the tool differs in these
points, none of which a real extract here shows:

- It leaves out untagged objects alone; for us an object none of whose keys is kept is no feature either.
- A way is closed for us if its first and last node are one and the same; for the tool, if they lie in one place.
- A closed way of fewer than four nodes is a line for us whatever its tags say; for the tool an area without a ring.
- It does not count ``type`` among the tags of a relation.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import osmium
import pyarrow as pa
import pytest
import shapely

from pipeline.osm.extracts.read import read_extract
from pipeline.rules import load_rules
from tests.osm.opl import GRID, opl
from tests.osm.tables import table_of

RULES = load_rules()
EXTRACTS = [
    "osm/andorra/andorra_2019.osm.pbf", "osm/berlin/berlin_wittenau_2026.osm.pbf",
    "osm/heidelberg/heidelberg_roads_2024-09-08.osm.pbf", "osm/helsinki/Helsinki.osm.pbf",
    "osm/liechtenstein/liechtenstein_2022-07-24.osm.pbf", "osm/lund/lund-station-sweden.osm.pbf",
    "osm/monaco/monaco_2012-07-06.osm.pbf", "osm/monaco/monaco_2021-04-21_lz4.osm.pbf",
    "osm/monaco/monaco_2023-12-25.osm.pbf", "osm/rome/rome_esquilino_2026.osm.pbf",
    "osm/rome/rome_piazza_venezia_2015.osm.pbf", "osm/sfbay/West-Oakland.osm.bz2",
    "osm/sfbay/oakland_montclair_2019.osm.pbf", "osm/sfbay/oakland_west_2016.osm.pbf",
]  # fmt: skip
Key = tuple[str, int]  # type, id
KINDS = ("point", "line", "polygon")
needs_the_tool = pytest.mark.skipif(
    shutil.which("osmium") is None, reason="the osmium binary is not installed (Debian and Ubuntu: osmium-tool)"
)


@dataclass(frozen=True, eq=False)
class Read:
    """What our reader made of a file: its features and the objects that it dropped."""

    path: Path
    table: pa.Table
    dropped: set[Key]

    @classmethod
    def of(cls, path: Path, folder: Path) -> Read:
        extract = read_extract(path, RULES, folder / "parts")
        dropped = {(d["osm_type"], d["osm_id"]) for d in extract.drops.to_pylist()}
        return cls(path, table_of(extract), dropped)

    def shapes(self) -> dict[tuple[str, int, str], tuple[Any, dict[str, str]]]:
        """Geometry and tags by type, id and kind."""
        columns = (self.table[c].to_pylist() for c in ("osm_type", "osm_id", "kind", "tags"))
        shapes = shapely.from_wkb(self.table["geometry"].to_numpy())
        return {(t, i, k): (shape, dict(tags)) for t, i, k, tags, shape in zip(*columns, shapes, strict=True)}


@pytest.fixture(scope="module", params=EXTRACTS)
def read(
    request: pytest.FixtureRequest, real_file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Read:
    return Read.of(real_file(request.param), tmp_path_factory.mktemp("read"))


def by_osmium(path: Path) -> tuple[dict[Key, tuple[str, Any, dict[str, str]]], set[Key]]:
    """Features (kind, geometry, tags) as libosmium builds them, and the ways that lack a node."""
    factory = osmium.geom.WKBFactory()
    found: dict[Key, tuple[str, Any, dict[str, str]]] = {}
    tags_of: dict[Key, dict[str, str]] = {}
    cut: set[Key] = set()
    # What has no tag is no feature: the filter stands behind the making of areas.
    for o in osmium.FileProcessor(str(path)).with_areas().with_filter(osmium.filter.EmptyTagFilter()):
        kind = o.type_str()
        tags = dict(o.tags)
        if kind == "a":
            key = ("way" if o.from_way() else "relation", o.orig_id())
            wanted = key in tags_of or (key[0] == "relation" and any(map(RULES.tags.keeps, tags)))
            if wanted and o.num_rings()[0]:
                found[key] = ("polygon", factory.create_multipolygon(o), tags)
            continue
        if not any(map(RULES.tags.keeps, tags)):
            continue
        if kind == "n" and o.location.valid():
            found["node", o.id] = ("point", factory.create_point(o), tags)
        elif kind == "w":
            if any(not n.location.valid() for n in o.nodes):
                cut.add(("way", o.id))
            if len(o.nodes) >= 4 and o.is_closed() and RULES.is_area(tags):
                tags_of["way", o.id] = tags
                continue
            try:
                found["way", o.id] = ("line", factory.create_linestring(o), tags)
            except (osmium.InvalidLocationError, RuntimeError):
                continue
    return found, cut


def test_features_are_those_that_osmium_builds(read: Read) -> None:
    expected, cut = by_osmium(read.path)
    rows = {(r["osm_type"], r["osm_id"]): r for r in read.table.drop_columns("bbox").to_pylist()}
    # osmium leaves out unknown nodes at the start of a way without a word; here such a way is a drop with its reason.
    assert set(expected) - set(rows) == {k for k in expected if k in cut}
    assert set(expected) - set(rows) <= read.dropped
    assert set(rows) <= set(expected)
    keys = sorted(rows)
    for key in keys:
        assert rows[key]["kind"] == expected[key][0], key
        ours, theirs = dict(rows[key]["tags"]), expected[key][2]
        assert {k: v for k, v in ours.items() if k != "type"} == {k: v for k, v in theirs.items() if k != "type"}, key
    ours = shapely.from_wkb(np.array([rows[k]["geometry"] for k in keys], object))
    theirs = shapely.from_wkb(np.array([expected[k][1] for k in keys], object))
    assert shapely.is_valid(ours).all()
    apart = ~shapely.equals(ours, theirs)
    assert [keys[i] for i in np.flatnonzero(apart)] == []
    for part in ("length", "area"):  # equal as point sets, and without slivers or repeats
        measure = getattr(shapely, part)
        np.testing.assert_allclose(measure(ours), measure(theirs), rtol=1e-9, atol=1e-15)


def area_tags() -> list[str]:
    """The area rule as the tool's filter expressions; area=yes and area=no are its own rule too."""
    found = []
    for key, values in RULES.areas.keys.items():
        listed = sorted(values.listed if values.only else {*values.listed, "no"})
        assert not any(c in text for text in (key, *listed) for c in "=*,!")
        found.append(f"{key}{'=' if values.only else '!='}{','.join(listed)}")
    return found


def exported(path: Path, folder: Path) -> dict[tuple[str, int, str], tuple[Any, dict[str, str]]]:
    """Geometry and tags of what the tool makes of a file; of objects with a kept key."""
    config, ordered, target = folder / "config.json", folder / f"sorted-{path.name}.osm.pbf", folder / "x.pg"
    config.write_text(json.dumps({"attributes": {"type": True, "id": True}, "area_tags": area_tags()}))
    subprocess.run(["osmium", "sort", str(path), "-o", str(ordered)], check=True, capture_output=True)  # it insists
    words = ["osmium", "export", str(ordered), "-f", "pg", "-c", str(config), "-o", str(target)]
    subprocess.run(words, check=True, capture_output=True)
    rows = [line.split("\t") for line in target.read_text().splitlines()]
    found: dict[tuple[str, int, str], tuple[Any, dict[str, str]]] = {}
    for (_, osm_type, number, text), shape in zip(rows, shapely.from_wkb([row[0] for row in rows]), strict=True):
        key = osm_type, int(number), KINDS[shapely.get_dimensions(shape)]
        assert key not in found
        tags = json.loads(text.replace("\\\\", "\\"))
        if any(map(RULES.tags.keeps, tags)):
            found[key] = shape, tags
    return found


@needs_the_tool
def test_features_are_those_that_osmium_exports(read: Read, tmp_path: Path) -> None:
    theirs, ours = exported(read.path, tmp_path), read.shapes()
    assert set(ours) == set(theirs)
    assert len(ours) >= 10
    keys = sorted(ours)
    assert [k for k in keys if _without_type(ours[k][1]) != _without_type(theirs[k][1])] == []
    mine, other = (shapely.normalize([_plain(found[k][0]) for k in keys]) for found in (ours, theirs))
    apart = ~shapely.equals_exact(mine, other, tolerance=1e-7)
    assert [keys[i] for i in np.flatnonzero(apart)] == []


@needs_the_tool
@pytest.mark.parametrize(
    ("line", "only_theirs", "only_ours"),
    [
        ("w5 v1 Tname=x Nn1,n2", [], []),
        ("w5 v1 Tbuilding=yes Nn1,n3,n9,n7,n1", [], []),
        ("w5 v1 Tbuilding=yes Nn1,n3,n9,n7,n10", [], []),  # closed by place
        ("w5 v1 Tbuilding=yes Nn1,n3,n1", [], [("way", 5, "line")]),
        ("w5 v1 Tbuilding=yes,area=no Nn1,n3,n9,n7,n1", [], []),
        ("w5 v1 Tbuilding=no Nn1,n3,n9,n7,n1", [], []),
    ],
)
def test_the_differences_are_those_listed(
    tmp_path: Path, line: str, only_theirs: list[tuple[str, int, str]], only_ours: list[tuple[str, int, str]]
) -> None:
    path = tmp_path / "x.opl"
    path.write_text(opl(f"{GRID}\nn10 v1 x9 y47\nn11 v1 x9 y47 Tnatural=tree\n{line}"))
    theirs, ours = exported(path, tmp_path), Read.of(path, tmp_path).shapes()
    assert ("node", 11, "point") in theirs.keys() & ours.keys()
    assert sorted(theirs.keys() - ours.keys()) == only_theirs
    assert sorted(ours.keys() - theirs.keys()) == only_ours


def _without_type(tags: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in tags.items() if k != "type"}


def _plain(shape: Any) -> Any:
    """A multipolygon of one part as a polygon."""
    return shape.geoms[0] if shape.geom_type == "MultiPolygon" and len(shape.geoms) == 1 else shape

"""The reader's features are those of the `osmium export` binary: the same objects, kinds and geometries.

Told our area rule, the tool differs in these points, none of which a real extract here shows:

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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from pipeline.osm.extracts.read import read_extract
from pipeline.rules import load_rules
from tests.osm.opl import GRID, opl
from tests.osm.tables import table_of
from tests.real.test_osmium_parity import EXTRACTS

pytestmark = pytest.mark.skipif(
    shutil.which("osmium") is None, reason="the osmium binary is not installed (Debian and Ubuntu: osmium-tool)"
)

RULES = load_rules()
Key = tuple[str, int, str]  # type, id, kind
KINDS = ("point", "line", "polygon")


def area_tags() -> list[str]:
    """The area rule as the tool's filter expressions; area=yes and area=no are its own rule too."""
    found = []
    for key, values in RULES.areas.keys.items():
        listed = sorted(values.listed if values.only else {*values.listed, "no"})
        assert not any(c in text for text in (key, *listed) for c in "=*,!")
        found.append(f"{key}{'=' if values.only else '!='}{','.join(listed)}")
    return found


def exported(path: Path, folder: Path) -> dict[Key, tuple[Any, dict[str, str]]]:
    """Geometry and tags of what the tool makes of a file; of objects with a kept key."""
    config, ordered, target = folder / "config.json", folder / f"sorted-{path.name}.osm.pbf", folder / "x.pg"
    config.write_text(json.dumps({"attributes": {"type": True, "id": True}, "area_tags": area_tags()}))
    subprocess.run(["osmium", "sort", str(path), "-o", str(ordered)], check=True, capture_output=True)  # it insists
    words = ["osmium", "export", str(ordered), "-f", "pg", "-c", str(config), "-o", str(target)]
    subprocess.run(words, check=True, capture_output=True)
    rows = [line.split("\t") for line in target.read_text().splitlines()]
    found: dict[Key, tuple[Any, dict[str, str]]] = {}
    for (_, osm_type, number, text), shape in zip(rows, shapely.from_wkb([row[0] for row in rows]), strict=True):
        key = osm_type, int(number), KINDS[shapely.get_dimensions(shape)]
        assert key not in found
        tags = json.loads(text.replace("\\\\", "\\"))
        if any(map(RULES.tags.keeps, tags)):
            found[key] = shape, tags
    return found


def read(path: Path, folder: Path) -> dict[Key, tuple[Any, dict[str, str]]]:
    """The same of our reader."""
    table = table_of(read_extract(path, RULES, folder / "parts"))
    columns = (table[c].to_pylist() for c in ("osm_type", "osm_id", "kind", "tags"))
    shapes = shapely.from_wkb(table["geometry"].to_numpy())
    return {(t, i, k): (shape, dict(tags)) for t, i, k, tags, shape in zip(*columns, shapes, strict=True)}


@pytest.mark.parametrize("name", EXTRACTS)
def test_features_are_those_that_osmium_exports(real_file: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    path = real_file(name)
    theirs, ours = exported(path, tmp_path), read(path, tmp_path)
    assert set(ours) == set(theirs)
    assert len(ours) >= 10
    keys = sorted(ours)
    assert [k for k in keys if _without_type(ours[k][1]) != _without_type(theirs[k][1])] == []
    mine, other = (shapely.normalize([_plain(found[k][0]) for k in keys]) for found in (ours, theirs))
    apart = ~shapely.equals_exact(mine, other, tolerance=1e-7)
    assert [keys[i] for i in np.flatnonzero(apart)] == []


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
    tmp_path: Path, line: str, only_theirs: list[Key], only_ours: list[Key]
) -> None:
    path = tmp_path / "x.opl"
    path.write_text(opl(f"{GRID}\nn10 v1 x9 y47\nn11 v1 x9 y47 Tnatural=tree\n{line}"))
    theirs, ours = exported(path, tmp_path), read(path, tmp_path)
    assert ("node", 11, "point") in theirs.keys() & ours.keys()
    assert sorted(theirs.keys() - ours.keys()) == only_theirs
    assert sorted(ours.keys() - theirs.keys()) == only_ours


def _without_type(tags: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in tags.items() if k != "type"}


def _plain(shape: Any) -> Any:
    """A multipolygon of one part as a polygon."""
    return shape.geoms[0] if shape.geom_type == "MultiPolygon" and len(shape.geoms) == 1 else shape

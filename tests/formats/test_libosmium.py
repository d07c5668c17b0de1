"""Formats that libosmium reads for us: XML, OPL and their compressed forms."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import shapely

from pipeline.osm.extracts.changes import apply_changes
from pipeline.osm.extracts.read import read_extract
from schemas.errors import InputError
from tests.osm.opl import GRID, RULES, opl
from tests.osm.test_read import accounted, dropped, features

ROOT = Path(__file__).resolve().parents[2]
TREE = '<tag k="natural" v="tree"/>'


def xml(path: Path, body: str, root: str = "osm") -> Path:
    path.write_text(f'<?xml version="1.0"?><{root} version="0.6">{body}</{root}>', encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "x.osm",
            '<osm version="0.6"><way id="1" version="1"><nd ref="1" lat="1" lon="2"/><nd ref="2" lat="1.5" lon="2"/>'
            '<tag k="highway" v="service"/></way></osm>',
        ),
        ("x.opl", "w1 v1 Thighway=service Nn1x2y1,n2x2y1.5\n"),
        ("x.osh.opl", "w1 v1 Thighway=service Nn1x3y1,n2x3y1.5\nw1 v2 Thighway=service Nn1x2y1,n2x2y1.5\n"),
    ],
)
def test_places_on_ways_are_read_from_text_too(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    extract = read_extract(tmp_path / name, RULES, tmp_path / "parts")
    assert shapely.from_wkb(features(extract)["way", 1]["geometry"]).coords[:] == [(2, 1), (2, 1.5)]
    assert accounted(extract)


def test_a_place_that_a_way_of_a_text_lacks_is_that_of_its_node(tmp_path: Path) -> None:
    (tmp_path / "x.opl").write_text("n1 v1 x2 y1\nw1 v1 Thighway=service Nn1,n2x2y1.5\nw2 v1 Thighway=path Nn2,n3\n")
    extract = read_extract(tmp_path / "x.opl", RULES, tmp_path / "parts")
    assert shapely.from_wkb(features(extract)["way", 1]["geometry"]).coords[:] == [(2, 1), (2, 1.5)]
    assert dropped(extract) == {("way", 2): "missing_nodes"}


@pytest.mark.parametrize("name", ["x.opl", "x.osh.opl"])
def test_changesets_are_skipped(tmp_path: Path, name: str) -> None:
    changeset = "c1 k1 s2020-01-01T00:00:00Z e d0 i1 uu x1 y1 X2 Y2 Tcomment=x\n"
    (tmp_path / name).write_text(changeset + opl("n1 v1 t2020-01-01T00:00:00Z x9 y47 Tnatural=tree") + changeset)
    extract = read_extract(tmp_path / name, RULES, tmp_path / "parts")
    assert list(features(extract)) == [("node", 1)]
    assert accounted(extract)


@pytest.mark.parametrize("lat", ["910", "nan", "north", ""])
def test_a_place_that_is_no_number_is_refused_by_file_and_words(tmp_path: Path, lat: str) -> None:
    node = f'<node id="1" version="1" lat="{lat}" lon="9">{TREE}</node>'
    extract, change = xml(tmp_path / "x.osm", node), xml(tmp_path / "x.osc", f"<create>{node}</create>", "osmChange")
    base = tmp_path / "base.opl"
    base.write_text(opl(GRID))
    with pytest.raises(InputError, match=re.escape(f"{extract} cannot be read")):
        read_extract(extract, RULES, tmp_path / "parts")
    with pytest.raises(InputError, match=re.escape(f"{change} cannot be read")):
        apply_changes(base, [change], tmp_path / "new.osm.pbf")
    with pytest.raises(InputError, match=re.escape(f"{extract} cannot be read")):
        apply_changes(extract, [], tmp_path / "new.osm.pbf")
    assert not (tmp_path / "new.osm.pbf").exists()


@pytest.mark.parametrize("most", [0, 20_000, 70_000])
def test_a_full_disk_is_one_line_whoever_writes_a_map(tmp_path: Path, most: int) -> None:
    """In a process of its own: libosmium ends the one that it was full in."""
    base = tmp_path / "base.opl"
    rng = random.Random(1)
    places = [(rng.uniform(5, 9), rng.uniform(5, 9)) for _ in range(10_000)]
    base.write_text("".join(f"n{i} v1 x{x:.7f} y{y:.7f} Ta=b\n" for i, (x, y) in enumerate(places, 1)))
    code = (
        "import resource, sys; from pathlib import Path; from pipeline.osm.extracts.changes import apply_changes\n"
        "from schemas.errors import InputError\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))\n"
        "try: apply_changes(Path(sys.argv[1]), [], Path(sys.argv[2]))\n"
        "except InputError as error: print(error)\n"
    )
    words = [sys.executable, "-c", code, str(base), str(tmp_path / "new.osm.pbf")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"\S+ cannot be written: .*; free space, or choose another folder\n", done.stdout)
    assert list(tmp_path.iterdir()) == [base]

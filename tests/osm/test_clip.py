"""Of diffs of everywhere an extract takes what cutting the newer planet anew would give it."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import osmium
import pytest

from pipeline.osm.clip import clip_changes
from pipeline.osm.extracts.changes import apply_changes
from schemas.errors import InputError
from tests.osm.opl import opl
from tests.regions.diffs import osc, with_state

BOX = "9,47,10,48"
#: In the box: nodes 1 to 4, and way 1 of them; node 5 lies outside, and way 2 leads there; relation 1 holds both.
BASE = """
n1 v1 x9.1 y47.1
n2 v1 x9.2 y47.1
n3 v1 x9.2 y47.2
n4 v1 x9.9 y47.9 Tnatural=tree
n5 v1 x10.5 y47.9
w1 v1 Thighway=path Nn1,n2,n3
w2 v1 Thighway=path Nn4,n5
r1 v1 Ttype=route,route=bus Mw1@,w2@
"""
NODE = '<node id="{}" version="{}" lat="{}" lon="{}"/>'


def clipped(folder: Path, body: str, base: str = BASE, box: str = BOX) -> set[str]:
    """Objects that are taken of a change file, as ``n12`` or, deleted, ``-n12``."""
    (folder / "base.opl").write_text(opl(base))
    (folder / "c.osc.gz").write_bytes(osc(body))
    extract = with_state(folder / "base.opl", folder / "base.osm.pbf", box=box)
    taken, changed = clip_changes(extract, [folder / "c.osc.gz"], folder / "own.osc.gz")
    found = [
        f"{'' if o.visible else '-'}{o.type_str()}{o.id}" for o in osmium.FileProcessor(str(folder / "own.osc.gz"))
    ]
    assert taken == len(found) <= changed
    return set(found)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"<create>{NODE.format(10, 1, 47.5, 9.5)}{NODE.format(11, 1, 48.5, 9.5)}</create>", {"n10"}),
        (f"<create>{NODE.format(10, 1, 48, 10)}{NODE.format(11, 1, 48.0000001, 10)}</create>", {"n10"}),
        (f"<modify>{NODE.format(1, 2, 30, 30)}</modify>", {"n1"}),  # what leaves is followed
        ('<delete><node id="4" version="2"/><node id="99" version="2"/></delete>', {"-n4"}),
        (  # a new way from inside to outside brings its nodes, one that only leads on from there does not
            f"<create>{NODE.format(10, 1, 49, 9)}{NODE.format(11, 1, 50, 9)}"
            '<way id="10" version="1"><nd ref="1"/><nd ref="10"/></way>'
            '<way id="11" version="1"><nd ref="10"/><nd ref="11"/></way>'
            '<way id="12" version="1"><nd ref="5"/><nd ref="11"/></way></create>',
            {"n10", "w10"},
        ),
        (  # a way whose node moves in: it is new here, and so is its other node
            f"<modify>{NODE.format(70, 5, 47.5, 9.5)}</modify>"
            f"<create>{NODE.format(71, 1, 60, 9.5)}"
            '<way id="70" version="1"><nd ref="70"/><nd ref="71"/></way></create>',
            {"n70", "n71", "w70"},
        ),
        (  # members of a route stay where they are, those of an area come along, relations of relations too
            f'<create>{NODE.format(20, 1, 60, 9)}<way id="20" version="1"><nd ref="20"/></way>'
            '<relation id="20" version="1"><member type="way" ref="1" role=""/><member type="way" ref="20" role=""/>'
            '<tag k="type" v="route"/></relation>'
            '<relation id="21" version="1"><member type="relation" ref="22" role=""/></relation>'
            '<relation id="22" version="1"><member type="relation" ref="20" role=""/></relation>'
            '<relation id="23" version="1"><member type="way" ref="20" role=""/></relation></create>',
            {"r20", "r21", "r22"},
        ),
        (
            f'<create>{NODE.format(20, 1, 60, 9)}<way id="20" version="1"><nd ref="20"/></way>'
            '<relation id="20" version="1"><member type="way" ref="1" role=""/><member type="way" ref="20" role=""/>'
            '<tag k="type" v="multipolygon"/></relation></create>',
            {"n20", "w20", "r20"},
        ),
        (  # the last version counts
            f"<create>{NODE.format(10, 1, 47.5, 9.5)}</create><modify>{NODE.format(10, 2, 60, 9.5)}</modify>"
            f"<create>{NODE.format(11, 1, 60, 9.5)}</create><modify>{NODE.format(11, 2, 47.5, 9.5)}</modify>",
            {"n11"},
        ),
        ("", set()),
    ],
)  # fmt: skip
def test_changes_are_taken_by_place_and_by_belonging(tmp_path: Path, body: str, expected: set[str]) -> None:
    assert clipped(tmp_path, body) == expected


def test_without_a_box_all_is_taken(tmp_path: Path) -> None:
    body = f"<create>{NODE.format(10, 1, 60, 9.5)}</create><delete><way id='77' version='3'/></delete>"
    assert clipped(tmp_path, body, box="") == {"n10", "-w77"}


def test_a_change_that_lacks_its_place_is_refused_by_file_and_object(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^change file .*c\.osc\.gz: node 3 has no position"):
        clipped(tmp_path, '<modify><node id="3" version="2"/></modify>')


@pytest.mark.skipif(shutil.which("osmium") is None, reason="the osmium tool is not installed")
@pytest.mark.parametrize("seed", range(6))
def test_the_clipped_diffs_make_of_an_extract_what_osmium_cuts_from_the_newer_planet(tmp_path: Path, seed: int) -> None:
    """Both as complete ways; nothing in the extract leaves its box, and no way comes in whose nodes it never had."""
    dice = random.Random(seed)
    nodes = {n: (round(dice.uniform(8.5, 10.5), 7), round(dice.uniform(46.5, 48.5), 7)) for n in range(1, 60)}
    ways = {w: dice.sample(sorted(nodes), 3) for w in range(1, 25)}
    relations = {r: dice.sample(sorted(ways), 2) for r in range(1, 8)}
    lines = [f"n{n} v1 x{x:.7f} y{y:.7f}" for n, (x, y) in nodes.items()]
    lines += [f"w{w} v1 Thighway=path N{','.join(f'n{n}' for n in own)}" for w, own in ways.items()]
    lines += [f"r{r} v1 Ttype=route M{','.join(f'w{w}@' for w in own)}" for r, own in relations.items()]
    (tmp_path / "planet.opl").write_text(opl("\n".join(lines)))
    planet = with_state(tmp_path / "planet.opl", tmp_path / "planet.osm.pbf")
    base = _cut(planet, tmp_path / "base.osm.pbf")
    held = {(o.type_str(), o.id) for o in osmium.FileProcessor(str(base))}

    fresh = {n: (dice.uniform(8.5, 10.5), dice.uniform(46.5, 48.5)) for n in range(100, 130)}
    body = "".join(f'<node id="{n}" version="1" lat="{y:.7f}" lon="{x:.7f}"/>' for n, (x, y) in fresh.items())
    for w in range(100, 115):
        refs = "".join(f'<nd ref="{n}"/>' for n in dice.sample(sorted(fresh), 3))
        body += f'<way id="{w}" version="1">{refs}<tag k="highway" v="path"/></way>'
    for r in range(100, 108):
        members = "".join(f'<member type="way" ref="{w}" role=""/>' for w in dice.sample([*range(100, 115), *ways], 2))
        body += f'<relation id="{r}" version="1">{members}</relation>'
    gone = dice.sample(sorted(relations), 2)
    body = f"<create>{body}</create><delete>" + "".join(f'<relation id="{r}" version="2"/>' for r in gone) + "</delete>"
    moved = dice.sample([n for n, (x, y) in nodes.items() if ("n", n) not in held or (9 < x < 10 and 47 < y < 48)], 8)
    body += "<modify>"
    for n in moved:
        x, y = (dice.uniform(9, 10), dice.uniform(47, 48)) if ("n", n) in held else (8.6, 46.6)
        body += f'<node id="{n}" version="2" lat="{y:.7f}" lon="{x:.7f}"/>'
    diff = tmp_path / "c.osc.gz"
    diff.write_bytes(osc(body + "</modify>"))
    apply_changes(planet, [diff], tmp_path / "newer.osm.pbf")
    taken, changed = clip_changes(base, [diff], tmp_path / "own.osc.gz")
    assert 0 < taken < changed
    apply_changes(base, [tmp_path / "own.osc.gz"], tmp_path / "ours.osm.pbf")
    assert _objects(tmp_path / "ours.osm.pbf") == _objects(_cut(tmp_path / "newer.osm.pbf", tmp_path / "cut.osm.pbf"))


def _cut(source: Path, target: Path) -> Path:
    words = ["osmium", "extract", "-s", "complete_ways", "--set-bounds", "-b", BOX, str(source), "-o", str(target)]
    subprocess.run(words, check=True, capture_output=True)
    return target


def _objects(path: Path) -> list[str]:
    return [f"{o} v{o.version}" for o in osmium.FileProcessor(str(path))]

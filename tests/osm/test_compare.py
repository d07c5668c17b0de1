"""Two extracts against each other."""

from __future__ import annotations

import random
from pathlib import Path

import osmium
import pytest

from pipeline.osm.compare import difference, place_of, places_held, places_of
from pipeline.osm.extracts.changes import UnsortedError
from tests.osm.opl import opl


def test_places_are_squares_of_one_size_on_both_sides_of_0() -> None:
    for one, other in ((0.001, -0.001), (0.0001, 0.0201), (-0.0001, -0.0201)):
        assert place_of(one, 47.001) != place_of(other, 47.001)
        assert place_of(9.001, one) != place_of(9.001, other)
    assert place_of(-0.019, -0.019) == place_of(-0.001, -0.001)


def test_nodes_without_a_position_have_no_place(tmp_path: Path) -> None:
    """Deleted ones, which histories keep."""
    path = tmp_path / "x.osh.opl"
    path.write_text(opl("n1 v1 dV x9 y47\nn1 v2 dD\nn2 v1 dD\nn3 v1 dV x9.5 y47"))
    places = {place_of(9, 47), place_of(9.5, 47)}
    assert places_of(path) == places
    assert places_held(path, places, 2) == 2
    assert places_held(path, [place_of(9, 47), place_of(1, 1)], 2) == 1


def test_objects_are_told_apart_by_type_and_id_and_states_by_version(tmp_path: Path) -> None:
    old, newer = tmp_path / "old.opl", tmp_path / "new.opl"
    old.write_text(opl("n1 v1 x9 y47\nn2 v3 x9 y47\nn3 v1 x9 y47\nw1 v1 Nn1,n2\nr7 v1 Tname=a Mw1@"))
    newer.write_text(opl("n1 v1 x9 y47\nn2 v2 x9 y47\nn4 v1 x9 y47\nw1 v2 Nn1,n2\nw7 v1 Nn1,n4\nr8 v1 Tname=a Mw1@"))
    assert difference(old, newer) == {"created": 3, "modified": 2, "deleted": 2}
    assert difference(newer, old) == {"created": 2, "modified": 2, "deleted": 3}


@pytest.mark.parametrize("suffix", ["osh.opl", "osh.pbf"])
def test_a_difference_is_that_of_the_newest_versions_however_the_files_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Against a plain loop over libosmium's objects: several versions, deletions, negative ids, several blobs."""
    monkeypatch.setattr("pipeline.osm.compare._SOME", 7)
    dice = random.Random(3)
    held = []
    for name in ("old", "newer"):
        lines, newest = [], {}
        many = 9000 if suffix == "osh.pbf" else 60  # a blob holds 8,000
        for kind in "nwr":
            for i in [0, *range(-1, -5, -1), *range(1, many if kind == "n" else 40)]:
                for version in sorted(dice.sample(range(1, 5), dice.choice((0, 1, 1, 2, 3)))):
                    gone = dice.random() < 0.2
                    place = " x9 y47" if kind == "n" and not gone else ""
                    lines.append(f"{kind}{i} v{version} d{'D' if gone else 'V'}{place}")
                    newest[kind, i] = None if gone else version
        path = tmp_path / f"{name}.osh.opl"
        path.write_text("\n".join(lines) + "\n")
        if suffix == "osh.pbf":
            with osmium.SimpleWriter(str(tmp_path / f"{name}.osh.pbf")) as writer:
                for thing in osmium.FileProcessor(str(path)):
                    writer.add(thing)
        held.append({key: version for key, version in newest.items() if version})
    old, newer = held
    assert difference(tmp_path / f"old.{suffix}", tmp_path / f"newer.{suffix}") == {
        "created": len(newer.keys() - old.keys()),
        "deleted": len(old.keys() - newer.keys()),
        "modified": sum(old[key] != newer[key] for key in old.keys() & newer.keys()),
    }


@pytest.mark.parametrize("text", ["n2 v1 x9 y47\nn1 v1 x9 y47", "w1 v1\nn1 v1 x9 y47", "n-2 v1 x9 y47\nn-1 v1 x9 y47"])
def test_extracts_out_of_order_are_not_told_apart(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.opl").write_text(text + "\n")
    (tmp_path / "y.opl").write_text("n1 v1 x9 y47\n")
    for pair in (("x.opl", "y.opl"), ("y.opl", "x.opl")):
        with pytest.raises(UnsortedError, match=r"x\.opl is not sorted"):
            difference(*(tmp_path / name for name in pair))

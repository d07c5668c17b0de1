"""Two extracts against each other."""

from __future__ import annotations

from pathlib import Path

from pipeline.osm.compare import difference, place_of, places_held, places_of
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

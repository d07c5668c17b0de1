"""Where features lie: every tile that a feature meets is found, and what a feature does not meet costs nothing."""

from __future__ import annotations

from pathlib import Path

import mercantile
import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.footprints import content
from pipeline.footprints.content import content_of
from pipeline.footprints.ground import Ground, tiles_on
from pipeline.osm.stage import features_stage
from pipeline.run.ray_map import Runner
from tests.osm.opl import RULES, opl

SHAPES = st.lists(
    st.tuples(st.integers(0, 2), st.floats(-179.9, 175), st.floats(-80, 78), st.floats(0.001, 4), st.floats(0.001, 4)),
    min_size=1,
    max_size=4,
)


def written(shapes: list[tuple[int, float, float, float, float]]) -> tuple[str, list[shapely.Geometry]]:
    """Points, diagonal lines and triangles as OPL, and what they are to eight digits."""
    lines, found, node = [], [], 0
    for way, (kind, x, y, w, h) in enumerate(shapes, 1):
        xy = np.round([(x, y), (x + w, y + h), (x + w, y)], 7)[: kind + 1]
        tags = (" Tamenity=bench", "", "")[kind]
        lines += [f"n{node + i} v1 x{a:.7f} y{b:.7f}{tags}" for i, (a, b) in enumerate(xy, 1)]
        refs = ",".join(f"n{node + i}" for i in range(1, len(xy) + 1))
        if kind == 1:
            lines.append(f"w{way} v1 Thighway=track N{refs}")
        elif kind == 2:
            lines.append(f"w{way} v1 Tnatural=wood N{refs},n{node + 1}")
        found.append((shapely.points, shapely.linestrings, shapely.polygons)[kind](xy[0] if kind == 0 else xy))
        node += len(xy)
    return "\n".join(lines), found


def ground_of(folder: Path, text: str, level: int) -> Ground:
    path = folder / "x.opl"
    path.write_text(opl(text))
    features, _ = features_stage([path], RULES, folder / "cache", Runner(1), True)
    ground, drops = content_of(features, level, features.extents, Runner(1))
    assert not drops
    return ground


@pytest.mark.parametrize("narrow", [0, 16])  # every object by its shape, or the wide ones alone
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes=SHAPES, level=st.sampled_from([6, 9, 11]))
def test_every_tile_that_a_feature_meets_is_on_the_ground(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, narrow: int, shapes: list[tuple[int, float, float, float, float]],
    level: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(content, "_NARROW", narrow)
    text, own = written(shapes)
    tiles = {tuple(t) for t in tiles_on(ground_of(tmp_path, text, level), None, 9, 10**7).tolist()}
    for shape in own:
        for t in mercantile.tiles(*shape.bounds, zooms=9):
            if shapely.box(*mercantile.bounds(t)).intersects(shape):
                assert (t.x, t.y) in tiles


def test_a_long_line_costs_its_length_and_not_its_box(tmp_path: Path) -> None:
    """1,100 km across, in steps of 11 km: some 2,000 quads of zoom 14 out of 200,000."""
    steps = 101
    nodes = [f"n{i} v1 x{9 + i * 0.1:.1f} y{40 + i * 0.07:.2f}" for i in range(1, steps)]
    line = f"w1 v1 Troute=ferry N{','.join(f'n{i}' for i in range(1, steps))}"
    ground = ground_of(tmp_path, "\n".join([*nodes, line]), 14)
    assert 500 < len(ground) < 3_000


def test_a_large_area_is_held_in_few_quads(tmp_path: Path) -> None:
    ring = [(5.0, 45.0), (15.0, 45.0), (15.0, 52.0), (5.0, 52.0)]
    nodes = [f"n{i} v1 x{x} y{y}" for i, (x, y) in enumerate(ring, 1)]
    ground = ground_of(tmp_path, "\n".join([*nodes, "w1 v1 Tnatural=wood Nn1,n2,n3,n4,n1"]), 14)
    area = shapely.box(5.0, 45.0, 15.0, 52.0)
    assert ground.count(11) == sum(
        shapely.box(*mercantile.bounds(t)).intersects(area) for t in mercantile.tiles(*area.bounds, zooms=11)
    )
    assert ground.count(14) > 200_000
    assert len(ground) < 10_000


def content_in(
    folder: Path, text: str, level: int, extents: list[tuple[float, float, float, float]]
) -> tuple[Ground, list[dict[str, object]]]:
    path = folder / "x.opl"
    path.write_text(opl(text))
    features, _ = features_stage([path], RULES, folder / "cache", Runner(1), True)
    return content_of(features, level, extents, Runner(1))


def test_what_meets_no_extent_is_named_up_to_a_number_and_what_meets_one_ends_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_NAMED", 3)
    extents = [(8.0, 46.0, 9.0, 47.0), (20.0, 46.0, 21.0, 47.0)]
    places = {1: (8.5, 46.5), 2: (9.0, 47.0), 3: (9.5, 46.5), 4: (20.5, 46.5), 5: (20.5, 48.0), 6: (7.9, 46.5)}
    nodes = [f"n{i} v1 Tamenity=bench x{x} y{y}" for i, (x, y) in places.items()]
    ways = ["w1 v1 Thighway=track Nn3,n5", "w2 v1 Thighway=track Nn1,n3"]
    ground, drops = content_in(tmp_path, "\n".join(nodes + ways), 10, extents)
    inside = [any(shapely.box(*e).intersects(shapely.Point(p)) for e in extents) for p in places.values()]
    named = [i for i, there in zip(places, inside, strict=True) if not there]
    assert [(d["osm_type"], d["osm_id"]) for d in drops[:3]] == [("node", i) for i in named]
    assert [(d["osm_type"], d["count"]) for d in drops[3:]] == []
    monkeypatch.setattr(content, "_NAMED", 2)
    again, drops = content_in(tmp_path, "\n".join(nodes + ways), 10, extents)
    assert [d["osm_id"] for d in drops[:2]] == named[:2]
    assert [(d["osm_id"], d["count"]) for d in drops[2:]] == [(None, len(named) - 2)]
    assert (again.quad == ground.quad).all()
    own = np.array(extents)[:, None]
    assert (
        ((ground.bounds[:, :2] >= own[..., :2]) & (ground.bounds[:, 2:] <= own[..., 2:])).all(axis=2).any(axis=0).all()
    )


def test_ground_is_the_same_however_often_it_is_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = written([(0, 9.0, 47.0, 1.0, 1.0), (1, 20.0, 10.0, 2.0, 1.0), (2, -30.0, 5.0, 1.0, 2.0)])
    whole = ground_of(tmp_path, text, 9)
    monkeypatch.setattr(content, "_FOLD", 0)
    folded = ground_of(tmp_path, text, 9)
    assert folded.quad.tolist() == whole.quad.tolist()
    assert folded.bounds.tolist() == whole.bounds.tolist()


def test_what_lies_beyond_the_map_has_no_ground(tmp_path: Path) -> None:
    nodes = "n1 v1 Tnatural=peak x9 y89\nn2 v1 Tnatural=peak x9 y-89\nn3 v1 x10 y-88"
    assert len(ground_of(tmp_path, f"{nodes}\nw1 v1 Troute=ferry Nn2,n3", 10)) == 0


@pytest.mark.parametrize("level", [3, 14])
def test_a_point_at_180_lies_where_180_west_does(tmp_path: Path, level: int) -> None:
    """Where its tile begins: as it is cut to cells."""
    ground = ground_of(tmp_path, "n1 v1 Tnatural=peak x180 y10\nn2 v1 Tnatural=peak x180 y-10", level)
    assert set(ground.quad[:, 1].tolist()) == {0}
    assert set(ground.bounds[:, [0, 2]].ravel().tolist()) == {-180.0}


@pytest.mark.parametrize("narrow", [0, 16])
def test_a_wide_object_has_no_tiles_beyond_its_own_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, narrow: int
) -> None:
    monkeypatch.setattr(content, "_NARROW", narrow)
    west, south, east, north = 5.03, 45.03, 7.21, 46.11
    ring = [(west, south), (east, south), (east, north), (west, north)]
    nodes = [f"n{i} v1 x{x} y{y}" for i, (x, y) in enumerate(ring, 1)]
    ground, _ = content_in(tmp_path, "\n".join([*nodes, "w1 v1 Tnatural=wood Nn1,n2,n3,n4,n1"]), 8, [])
    expected = {(t.x, t.y) for t in mercantile.tiles(west, south, east, north, zooms=14)}
    assert {tuple(t) for t in tiles_on(ground, None, 14, 10**5).tolist()} == expected


def test_what_lies_across_180_has_ground_on_both_sides_and_none_around_the_world(tmp_path: Path) -> None:
    nodes = ["n1 v1 x179.9 y10", "n2 v1 x-179.9 y10.05", "n3 v1 x-179.9 y9.95"]
    ways = ["w1 v1 Troute=ferry Nn1,n2", "w2 v1 Tnatural=wood Nn1,n2,n3,n1"]
    for text in ways:
        ground, _ = content_in(tmp_path, "\n".join([*nodes, text]), 10, [])
        assert set(ground.quad[:, 1].tolist()) == {0, 1023}
        assert sorted(set(ground.bounds[:, [0, 2]].ravel().tolist())) == [-180.0, -179.9, 179.9, 180.0]

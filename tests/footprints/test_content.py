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

from __future__ import annotations

import json
from pathlib import Path

import mercantile
import numpy as np
import pytest

from pipeline.demo import DemoFiles, build_demo
from pipeline.demo.pictures.aerial import aerial_grid, aerial_windows
from pipeline.demo.pictures.pose import default_photo_count
from pipeline.demo.town.plan import Plan
from pipeline.demo.town.world import World
from schemas.errors import InputError
from tests.demo.conftest import PHOTOS, SIDE_TILES


def _bytes(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_rebuild_is_byte_identical_for_any_number_of_workers(small_demo: DemoFiles, tmp_path: Path) -> None:
    build_demo(tmp_path / "again", side_tiles=SIDE_TILES, photos=PHOTOS, workers=2)
    first, again = _bytes(small_demo.osm.parent), _bytes(tmp_path / "again")
    assert first.keys() == again.keys()
    assert [name for name in first if first[name] != again[name]] == []


def test_other_seed_gives_another_town(small_plan: Plan) -> None:
    other = Plan(seed=8, side_tiles=SIDE_TILES)
    one = World(small_plan).block(9, 10).node_xy
    two = World(other).block(9, 10).node_xy
    assert one != two


def test_complete_build_is_reused_and_a_broken_one_is_rebuilt(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    files = build_demo(out, side_tiles=1.0, photos=1, workers=1)
    stamp = files.osm.stat().st_mtime_ns
    build_demo(out, side_tiles=1.0, photos=1, workers=1)
    assert files.osm.stat().st_mtime_ns == stamp
    whole = files.osm.read_bytes()
    files.osm.write_bytes(whole[:-10])
    build_demo(out, side_tiles=1.0, photos=1, workers=1)
    assert files.osm.read_bytes() == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demo"]


def test_a_demo_that_is_built_already_is_copied_and_another_is_not(tmp_path: Path) -> None:
    files = build_demo(tmp_path / "built", side_tiles=1.0, photos=1, workers=1)
    times = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("built/town*")}
    copy = build_demo(tmp_path / "copy", side_tiles=1.0, photos=1, workers=1, built=tmp_path / "built")
    assert _bytes(tmp_path / "copy") == _bytes(tmp_path / "built")
    assert copy.osm.stat().st_mtime_ns == times[copy.osm.name]  # nothing was made anew
    assert copy.osm.stat().st_ino != files.osm.stat().st_ino  # nor may an edit of one change the other
    build_demo(tmp_path / "other", seed=8, side_tiles=1.0, photos=0, workers=1, built=tmp_path / "built")
    assert _bytes(tmp_path / "other") != _bytes(tmp_path / "built")


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(InputError):
        build_demo(tmp_path, side_tiles=1.0, photos=0, workers=1)
    assert (tmp_path / "keep.txt").read_text() == "mine"


def test_record_lists_every_file_with_its_digest(small_demo: DemoFiles) -> None:
    folder = small_demo.osm.parent
    record = json.loads((folder / "demo.json").read_text())
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(record["files"]) == names - {"demo.json"}


@pytest.mark.parametrize(("scale", "tiles"), [(1, 300), (4, 1200), (100, 30_000)])
def test_scale_multiplies_the_tiles_covered(scale: int, tiles: int) -> None:
    plan = Plan(scale=scale)
    r = plan.region
    metres = mercantile.xy(r.east, r.north)[0] - mercantile.xy(r.west, r.south)[0]
    metres *= mercantile.xy(r.east, r.north)[1] - mercantile.xy(r.west, r.south)[1]
    side = mercantile.xy_bounds(0, 0, 17).right - mercantile.xy_bounds(0, 0, 17).left
    assert metres / side**2 == pytest.approx(tiles, rel=0.01)
    assert default_photo_count(plan) == pytest.approx(tiles / 2, rel=0.01)
    # The blocks and the image cover the whole box.
    left, top, width, height = aerial_grid(plan)
    assert left < 0
    assert top > r.size[1]
    assert sum(w * h for _, _, w, h in aerial_windows(plan)) == width * height
    (i0, _i1), (_j0, j1) = plan.extent
    edge = np.linspace(-600.0, max(r.size) + 600.0, 300)
    assert plan.warp(np.column_stack([np.full(300, plan.line(0, i0)), edge]))[:, 0].max() < 0
    assert plan.warp(np.column_stack([edge, np.full(300, plan.line(1, j1))]))[:, 1].min() > r.size[1]


def test_block_of_a_large_region_is_made_without_its_neighbours() -> None:
    plan = Plan(scale=100)
    one = World(plan).block(150, 120)
    assert one.node_ids
    assert one.surfaces
    world = World(plan)
    world.block(149, 120)
    assert world.block(150, 120).node_xy == one.node_xy


def test_plan_does_not_fold(small_plan: Plan) -> None:
    plan = Plan(scale=4)
    u = np.linspace(-400, 7600, 161)
    uv = np.stack(np.meshgrid(u, u, indexing="ij"), axis=-1)
    xy = plan.warp(uv.reshape(-1, 2)).reshape(uv.shape)
    du, dv = np.diff(xy, axis=0)[:, :-1], np.diff(xy, axis=1)[:-1]
    assert ((du[..., 0] * dv[..., 1] - du[..., 1] * dv[..., 0]) > 0).all()

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.demo import DemoFiles, build_demo
from pipeline.demo.town.plan import Plan
from pipeline.demo.town.world import World

SIDE_TILES = 4.0
PHOTOS = 6


@pytest.fixture(scope="session")
def small_plan() -> Plan:
    return Plan(side_tiles=SIDE_TILES)


@pytest.fixture(scope="session")
def small_world(small_plan: Plan) -> World:
    return World(small_plan)


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    folder: Path = tmp_path_factory.mktemp("demo") / "small"
    return build_demo(folder, side_tiles=SIDE_TILES, photos=PHOTOS, workers=1)

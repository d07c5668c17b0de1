from __future__ import annotations

import pytest

from pipeline.demo.world.build import WorldFiles, build_world
from pipeline.demo.world.settings import WorldSettings

SETTINGS = WorldSettings(tiles=9, photos=6, seed=5, style="village", shift_m=2.5)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    return build_world(tmp_path_factory.mktemp("world") / "small", SETTINGS, workers=1)

"""A mirror of the photo services over real HTTP, and a town of photos in each of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geometry.tiles import lonlat_to_tile
from pipeline.mirror import kartaview, mapillary, panoramax
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.services.mapillary import TOKEN
from pipeline.streetview.sources import Source, open_source
from tests.grounds import TileArea
from tests.mirror.server import Mirror
from tests.streetview.makers import EAST, FAST, NORTH, SOUTH, WEST, town

SERVICES = {"panoramax": panoramax.respond, "kartaview": kartaview.respond, "mapillary": mapillary.respond}
#: What stands in for an access token; no file and no message may have it.
SECRET = "MLY|4242|s3cr3t-0123456789abcdef"

Open = Callable[..., Source]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The town's files, to copy: drawing its photos takes longer than most tests."""
    folder = tmp_path_factory.mktemp("town")
    town(folder)
    return folder


@pytest.fixture
def mirror(drawn: Path, tmp_path: Path) -> Iterator[Mirror]:
    """All three services, each with the same town."""
    for name in SERVICES:
        shutil.copytree(drawn, tmp_path / "mirror" / name)
    with Mirror(tmp_path / "mirror", services=SERVICES) as server:
        yield server


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """What the town's table says."""
    return town(tmp_path / "rows")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty cache."""
    return tmp_path / "cache"


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    """An access token in the environment."""
    monkeypatch.setenv(TOKEN, SECRET)
    return SECRET


@pytest.fixture
def open_service(mirror: Mirror, cache: Path, token: str) -> Open:
    """A source by name, on the mirror, with settings."""

    def build(name: str, renew: bool = False, net: Any = FAST, **settings: Any) -> Source:
        urls = {f"{service}_url": f"{mirror.url}/{service}" for service in SERVICES}
        return open_source(name, StreetviewConfig(**urls, **settings), net, cache, renew=renew)

    return build


@pytest.fixture
def area() -> TileArea:
    """All of the town, as tiles of zoom 17."""
    x0, y0 = np.floor(lonlat_to_tile(np.array([WEST, NORTH]), 17)).astype(int)
    x1, y1 = np.floor(lonlat_to_tile(np.array([EAST, SOUTH]), 17)).astype(int)
    grid = np.stack(np.meshgrid(np.arange(x0, x1 + 1), np.arange(y0, y1 + 1)), axis=-1)
    return TileArea(grid.reshape(-1, 2), 17)

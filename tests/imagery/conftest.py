"""A mirror with STAC collections and map tiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.imagery.config import ImageryConfig
from pipeline.mirror import stac, xyz
from tests.imagery.scenes import write_granule, write_manifest
from tests.mirror.server import Mirror

SERVICES = {"earth-search": stac.respond, "planetary-computer": stac.respond, "xyz": xyz.respond}


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Granules of four days; read only.

    2024-05-20 is clear but lacks its eastern half, which a second granule of that day has. 2024-06-10 has clouds in the
    west, 2024-07-01 is clear, 2024-07-20 is too cloudy to be wanted.
    """
    folder = tmp_path_factory.mktemp("archive")
    own = folder / "earth-search"
    west = np.zeros((420, 420), bool)
    west[:, :210] = True
    rows = [
        write_granule(own, "S2_A_0520", "2024-05-20T10:20:00Z", value=2000, empty=~west),
        write_granule(own, "S2_B_0520", "2024-05-20T10:20:14Z", value=2100, empty=west, cloud=3.0),
        write_granule(own, "S2_A_0610", "2024-06-10T10:20:00Z", value=3000, clouds=west, cloud=19.0),
        write_granule(own, "S2_A_0701", "2024-07-01T10:20:00Z", value=4000),
        write_granule(own, "S2_A_0720", "2024-07-20T10:20:00Z", value=5000, cloud=80.0),
    ]
    write_manifest(own, rows)
    other = folder / "planetary-computer"
    granule = write_granule(other, "S2_PC", "2024-07-01T10:20:00Z", preset="planetary-computer", value=2000)
    write_manifest(other, [granule], signed=True)
    (folder / "xyz").mkdir()
    return folder


@pytest.fixture
def mirror(archive: Path) -> Iterator[Mirror]:
    """A server of it."""
    with Mirror(archive, services=SERVICES) as server:
        yield server


@pytest.fixture
def sentinel(mirror: Mirror) -> ImageryConfig:
    """Settings of a build from it."""
    return ImageryConfig(stac_url=f"{mirror.url}/earth-search")

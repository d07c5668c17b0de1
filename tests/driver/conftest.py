"""A village to build from, and one Ray instance."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.driver.village import Village, write_village


@pytest.fixture(scope="session")
def village(tmp_path_factory: pytest.TempPathFactory) -> Village:
    """Its three inputs; read only."""
    return write_village(tmp_path_factory.mktemp("village"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray instance for the whole test session."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()

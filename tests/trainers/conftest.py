"""Synthetic datasets and small helpers of the trainers' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.trainers.synthetic import SyntheticSettings, write_dataset


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """53 training samples in four shards: a number that no batch size divides."""
    settings = SyntheticSettings(samples=53, size=96, samples_per_shard=16)
    return write_dataset(tmp_path_factory.mktemp("data") / "small", settings)


@pytest.fixture(scope="session")
def split_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 samples in every split in turn, the buffer included."""
    settings = SyntheticSettings(samples=24, size=64, splits=("train", "val", "test", "buffer"))
    return write_dataset(tmp_path_factory.mktemp("data") / "split", settings)


@pytest.fixture(scope="session")
def learnable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128 samples for the tests that train."""
    return write_dataset(tmp_path_factory.mktemp("data") / "learnable", SyntheticSettings(samples=128, size=96))

"""Settings of vector files beside image chips."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VectorConfig:
    """Vector files beside the chips."""

    licence: str = "ODbL-1.0"  # SPDX id or words
    time: str | None = None  # ISO 8601, when the objects were as they are

"""Settings of the generated region."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoConfig:
    """The generated region."""

    seed: int = 7  # another town for each
    scale: int = 1  # times the area of about 300 tiles at zoom 17, 1..100

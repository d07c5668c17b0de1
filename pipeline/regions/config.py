"""Settings of where regions come from."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.net.config import Refresh


@dataclass(frozen=True)
class SourcesConfig:
    """Where extracts come from."""

    geofabrik: str = ""  # base URL; empty: $GEOSHARDS_MIRROR/geofabrik, else https://download.geofabrik.de
    refresh: Refresh = "notice"  # of what is in the cache: never asks, notice tells of newer files, newer fetches them

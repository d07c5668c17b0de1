"""Settings of the HTTP client, and where each service lies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from schemas.config import require
from schemas.errors import ConfigError

#: Base URL of each service that is not asked for at another place; pipeline.imagery.stac.presets has those of STAC.
DEFAULT_BASES = {
    "geofabrik": "https://download.geofabrik.de",
    "panoramax": "https://api.panoramax.xyz",
    "kartaview": "https://api.openstreetcam.org",
    "mapillary": "https://graph.mapillary.com",
}
#: never: a file that is there is not asked about. notice: it is kept, and a newer one upstream is told of (asked for at
#: most once a day). newer: a newer one upstream takes its place.
Refresh = Literal["never", "notice", "newer"]


@dataclass(frozen=True)
class NetConfig:
    """Patience and limits of all HTTP requests."""

    timeout: float = 30.0  # seconds without a byte (fewer than min_rate a second count as none)
    min_rate: int = 256  # bytes a second below which a transfer counts as stalled
    retries: int = 6  # further attempts of a request that fails for a passing reason: 429, 5xx, a cut or a stall
    backoff: float = 1.0  # seconds before the first retry; doubled each time, with jitter
    max_wait: float = 120.0  # longest wait in seconds before a retry, Retry-After included
    max_redirects: int = 5  # followed for one request
    max_gb: float = 120.0  # gigabytes; a larger download is refused
    parallel: int = 4  # downloads side by side
    cache_gb: float = 20.0  # gigabytes of remote rasters' ranges that the cache holds for all builds; 0: none

    def __post_init__(self) -> None:
        require(
            {
                "net.timeout must be over 0 seconds": self.timeout > 0,
                "net.min_rate must be 0 or more": self.min_rate >= 0,
                "net.retries must be 0 to 100": 0 <= self.retries <= 100,
                "net.backoff and net.max_wait must be 0 or more": self.backoff >= 0 and self.max_wait >= 0,
                "net.max_redirects must be 0 to 20": 0 <= self.max_redirects <= 20,
                "net.max_gb must be over 0": self.max_gb > 0,
                "net.cache_gb must be 0 or more": self.cache_gb >= 0,
                "net.parallel must be 1 to 64": 1 <= self.parallel <= 64,
            }
        )


def base_url(service: str, configured: str = "", own: str = "") -> str:
    """Base URL of a service, without a slash at its end: the setting, else $GEOSHARDS_MIRROR/SERVICE, else its own.

    ``own`` is that of a service which ``DEFAULT_BASES`` lacks.

    Raises:
        ConfigError: it is no http(s) URL.
    """
    mirror = os.environ.get("GEOSHARDS_MIRROR", "").rstrip("/")
    base = (configured or (f"{mirror}/{service}" if mirror else own or DEFAULT_BASES[service])).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise ConfigError(f"{base!r} is no base URL of {service}; it begins with http:// or https://")
    return base

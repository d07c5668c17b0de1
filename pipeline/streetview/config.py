"""Settings of street view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from pipeline.streetview.times import day_seconds
from schemas.config import execution, require


@dataclass(frozen=True)
class StreetviewConfig:
    """From photos to SV images."""

    size: int = 512  # longest side of a photo in pixels; smaller photos stay as they are; both sides of a view
    quality: int = 88  # JPEG quality of sv.N.jpg, 1..100
    max_per_tile: int = 16  # most photos of one footprint
    choose: Literal["spread", "first", "quality"] = "spread"  # which of more: far apart, the oldest, the best rated
    licence: str | None = None  # of photos whose source names none
    position: Literal["corrected", "original"] = "corrected"  # of the camera: as the source puts it now, or as it came
    margin: float = 0.0  # metres around the footprint within which a photo belongs to it too
    panorama: Literal["keep", "views"] = "keep"  # of 360° photos; views: perspective ones of size × size pixels
    views: int = 4  # views of a 360° photo, evenly around, the first straight ahead
    view_fov: float = 90.0  # degrees that a view spans
    max_accuracy: float | None = None  # metres; photos whose source states a worse one are dropped
    after: str | None = None  # ISO 8601 date or time; older photos are dropped
    before: str | None = None  # ISO 8601 date or time; photos of then or later are dropped
    min_sun: float | None = None  # degrees; photos with the sun lower are dropped: 0 sunset, -6 end of civil twilight
    sequence_spacing: float = 0.0  # metres; of one sequence, photos nearer to the one kept before are dropped
    spacing: float = 0.0  # metres; photos nearer to any kept one, and looking its way, are dropped
    hash_distance: int | None = None  # bits of 64; photos of one footprint that differ in no more are dropped but one
    max_megapixels: float = 80.0  # millions of pixels; larger photos are dropped
    max_mb: float = 64.0  # megabytes; photos that are longer downloads are dropped
    panoramax_url: str = execution("")  # base URL; empty: $GEOSHARDS_MIRROR/panoramax, else https://api.panoramax.xyz
    kartaview_url: str = execution(
        ""
    )  # base URL; empty: $GEOSHARDS_MIRROR/kartaview, else https://api.openstreetcam.org
    mapillary_url: str = execution("")  # base URL; empty: $GEOSHARDS_MIRROR/mapillary, else https://graph.mapillary.com
    mapillary_tiles_url: str = execution("")  # base URL; empty: https://tiles.mapillary.com, or mapillary_url

    def __post_init__(self) -> None:
        urls = (self.panoramax_url, self.kartaview_url, self.mapillary_url, self.mapillary_tiles_url)
        checks = {
            "sv.size must be 16 or more": self.size >= 16,
            "sv.quality must be 1 to 100": 1 <= self.quality <= 100,
            "sv.max_per_tile must be 0 or more": self.max_per_tile >= 0,
            "sv.margin must be 0 to 1000 metres": 0 <= self.margin <= 1000,
            "sv.views must be 1 to 36": 1 <= self.views <= 36,
            "sv.view_fov must be 10 to 150 degrees": 10 <= self.view_fov <= 150,
            "sv.max_accuracy must be over 0 metres": self.max_accuracy is None or self.max_accuracy > 0,
            "sv.after must be an ISO 8601 date or time": self.after is None or day_seconds(self.after) is not None,
            "sv.before must be an ISO 8601 date or time": self.before is None or day_seconds(self.before) is not None,
            "sv.min_sun must be -90 to 90 degrees": self.min_sun is None or -90 <= self.min_sun <= 90,
            "sv.sequence_spacing must be 0 metres or more": self.sequence_spacing >= 0,
            "sv.spacing must be 0 metres or more": self.spacing >= 0,
            "sv.hash_distance must be 0 to 63 bits": self.hash_distance is None or 0 <= self.hash_distance <= 63,
            "sv.max_megapixels must be over 0 and at most 178": 0 < self.max_megapixels <= 178,
            "sv.max_mb must be over 0": self.max_mb > 0,
            "sv.*_url must be http(s) addresses without user, query or fragment; a token comes from the environment": (
                all(not url or _is_plain(url) for url in urls)
            ),
        }
        require(checks)


def _is_plain(url: str) -> bool:
    """Whether a base URL is one of the web, and hides no secret that would be written down with the settings."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and not (parts.username or parts.password or parts.query or parts.fragment)
    )

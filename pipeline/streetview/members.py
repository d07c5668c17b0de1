"""A footprint's photos as members of its sample, and what its JSON document says of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.alignment import lonlat_to_normalised
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.pictures.encode import encode_photos
from pipeline.streetview.record import Drops, Photo
from pipeline.streetview.times import gap_days
from schemas.footprint import Footprint
from schemas.sample import StreetviewInfo, rounded


def add_photos(
    footprint: Footprint,
    photos: Sequence[Photo],
    config: StreetviewConfig,
    acquired: str | None,
    members: dict[str, bytes],
    drops: list[dict[str, Any]],
) -> list[StreetviewInfo]:
    """Encode photos into ``members`` as ``sv.0.jpg`` …; what cannot be used is added to ``drops``.

    Args:
        footprint: of the sample.
        photos: chosen for it.
        config: settings.
        acquired: ISO 8601 time of its first image.
        members: content by member name, added to.
        drops: DROPS rows, added to.
    """
    own = Drops(photos[0].source or "photos") if photos else Drops()
    images = encode_photos(photos, config, own)
    drops += own.rows()
    if not images:
        return []
    xy = lonlat_to_normalised(footprint, np.array([[i.photo.lon, i.photo.lat] for i in images]))
    infos: list[StreetviewInfo] = []
    for number, (image, (x, y)) in enumerate(zip(images, xy.tolist(), strict=True)):
        photo, name = image.photo, f"sv.{number}.jpg"
        members[name] = image.data
        infos.append(StreetviewInfo(
            member=name, id=photo.id, lon=rounded(photo.lon), lat=rounded(photo.lat),
            x=_position(x, config.margin), y=_position(y, config.margin),
            heading=None if image.heading is None else rounded(image.heading, 4), captured_at=photo.captured_at,
            projection=image.projection, licence=photo.licence, author=photo.author, source=photo.source,
            fov=image.fov, gap_days=gap_days(photo.captured_at, acquired),
        ))  # fmt: skip
    return infos


def _position(value: float, margin: float) -> float:
    """A normalised coordinate for the JSON document: rounding never moves a photo out of its footprint.

    The plan decided whose photo it is; on an edge the two ways of reckoning differ in the last digits.
    """
    return rounded(value) if margin > 0 else min(max(rounded(value), 0.0), 1.0 - 1e-9)

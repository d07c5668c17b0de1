"""A footprint's photos as members of its sample, and what its JSON document says of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.pictures.encode import encode_photos
from pipeline.streetview.record import Drops, Photo
from pipeline.streetview.times import gap_days
from schemas.sample import StreetviewInfo, rounded


def add_photos(
    photos: Sequence[Photo],
    config: StreetviewConfig,
    acquired: str | None,
    members: dict[str, bytes],
    drops: list[dict[str, Any]],
) -> list[StreetviewInfo]:
    """Encode photos into ``members`` as ``sv.0.jpg`` …; what cannot be used is added to ``drops``.

    Args:
        photos: chosen for the sample, with their place in it.
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
    infos: list[StreetviewInfo] = []
    for number, image in enumerate(images):
        photo, name = image.photo, f"sv.{number}.jpg"
        members[name] = image.data
        infos.append(StreetviewInfo(
            member=name, id=photo.id, lon=rounded(photo.lon), lat=rounded(photo.lat),
            x=photo.x, y=photo.y, north=photo.north,
            heading=None if image.heading is None else rounded(image.heading, 4), captured_at=photo.captured_at,
            projection=image.projection, licence=photo.licence, author=photo.author, source=photo.source,
            fov=image.fov, gap_days=gap_days(photo.captured_at, acquired),
        ))  # fmt: skip
    return infos

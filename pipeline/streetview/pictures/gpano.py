"""Google's photo sphere metadata (GPano) in a JPEG's XMP: whether it is a panorama, and what part of the sphere it has.

https://developers.google.com/streetview/spherical-metadata names the properties. XMP is read by the properties' names,
as attributes or as elements, without an XML parser: what it refers to is never followed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import Image

from pipeline.streetview.record import number, turn

_PROPERTY = re.compile(
    rb"GPano:(ProjectionType|PoseHeadingDegrees|FullPano(?:Width|Height)Pixels|CroppedArea(?:ImageWidth|ImageHeight|Left|"
    rb"Top)Pixels)\s*(?:=\s*[\"']\s*([^\"'<>]{1,40}?)\s*[\"']|>\s*([^<>]{1,40}?)\s*<)"
)
#: Bytes of XMP that are looked through: one JPEG segment holds 64 KB.
_MOST = 1 << 18
WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class PhotoSphere:
    """What a photo says about itself."""

    projection: str  # equirectangular, or what else it says, in lower case
    heading: float | None  # of the middle column of the whole sphere, degrees clockwise from true north
    visible: tuple[float, float, float, float]  # left, top, right, bottom as shares of the whole sphere


def read_gpano(image: Image.Image) -> PhotoSphere | None:
    """The photo's own account of its sphere; None without one."""
    data = image.info.get("xmp")
    if not isinstance(data, bytes):
        return None
    found = {m[1].decode(): (m[2] or m[3]).decode("utf-8", "replace") for m in _PROPERTY.finditer(data[:_MOST])}
    if not found:
        return None
    keys = ("FullPanoWidth", "FullPanoHeight", "CroppedAreaImageWidth", "CroppedAreaImageHeight", "CroppedAreaLeft",
            "CroppedAreaTop")  # fmt: skip
    values = [number(found.get(f"{k}Pixels")) for k in keys]
    visible = WHOLE
    if any(v is not None for v in values):
        visible = visible_part(*values)
    return PhotoSphere(
        found.get("ProjectionType", "equirectangular").lower(), turn(found.get("PoseHeadingDegrees")), visible
    )


def visible_part(
    full_width: float | None,
    full_height: float | None,
    width: float | None,
    height: float | None,
    left: float | None,
    top: float | None,
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the part that a photo has, as shares of the whole sphere; all in its pixels.

    A whole sphere is twice as wide as high, so one of its sides follows from the other. Numbers that contradict each
    other give an empty part, of which no view can be made.
    """
    full_width = full_width or (2 * full_height if full_height else None)
    full_height = full_height or (full_width / 2 if full_width else None)
    if not full_width or not full_height or full_width < 0 or full_height < 0 or not width or not height:
        return (0.0, 0.0, 0.0, 0.0)
    left = (full_width - width) / 2 if left is None else left
    top = (full_height - height) / 2 if top is None else top
    part = (left / full_width, top / full_height, (left + width) / full_width, (top + height) / full_height)
    # A pixel over the edge is how some writers round.
    inside = min(part) >= -1 / full_height and max(part) <= 1 + 1 / full_height
    return part if inside and part[0] < part[2] and part[1] < part[3] else (0.0, 0.0, 0.0, 0.0)

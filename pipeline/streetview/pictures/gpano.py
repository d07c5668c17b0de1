"""Google's photo sphere metadata (GPano) in XMP: whether a photo is a panorama, and what part of the sphere it has.

https://developers.google.com/streetview/spherical-metadata names the properties.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from pipeline.streetview.pictures.xmp import properties
from pipeline.streetview.record import number, turn

#: Namespace of the properties, whatever prefix a file gives it.
_GPANO = "http://ns.google.com/photos/1.0/panorama/"
WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class PhotoSphere:
    """What a photo says about itself."""

    projection: str  # equirectangular, or what else it says, in lower case
    heading: float | None  # of the middle column of the whole sphere, degrees clockwise from true north
    visible: tuple[float, float, float, float]  # left, top, right, bottom as shares of the whole sphere


def read_gpano(image: Image.Image) -> PhotoSphere | None:
    """The photo's own account of its sphere; None without one."""
    found = properties(image, "GPano", _GPANO)
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

"""Photos of one footprint as JPEGs: upright, at the chosen size, free of metadata; panoramas whole or as views."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps

from pipeline.formats.pictures import in_8_bits
from pipeline.streetview.config import StreetviewConfig
from pipeline.streetview.pictures.gpano import WHOLE, read_gpano
from pipeline.streetview.pictures.image import open_photo
from pipeline.streetview.pictures.panorama import cut_view, is_whole, reduction, views_around
from pipeline.streetview.record import Drops, Photo, PhotoError
from storage.nodes.held import local_copy

#: EXIF orientations that turn an image by 90°, so that its width is its height when seen.
_TURNED = (5, 6, 7, 8)


@dataclass(frozen=True)
class SvImage:
    """One SV image: a photo, or one view of a panorama."""

    photo: Photo
    data: bytes  # JPEG
    heading: float | None  # of its axis, degrees clockwise from true north
    projection: str  # perspective | fisheye | equirectangular
    fov: float | None = None  # horizontal field of view in degrees; None: unknown


def encode_photos(photos: Sequence[Photo], config: StreetviewConfig, drops: Drops) -> list[SvImage]:
    """SV images of one footprint's photos, in their order; what cannot be used is added to ``drops``.

    With ``sv.hash_distance``, a photo that looks like an earlier one of these is left out.
    """
    images: list[SvImage] = []
    hashes: list[int] = []
    for photo in photos:
        try:
            found, look = _encode(photo, config)
        except PhotoError as error:
            drops.add(error.reason, photo.id, str(error))
            continue
        if config.hash_distance is not None:
            if any((look ^ other).bit_count() <= config.hash_distance for other in hashes):
                drops.add("duplicate_image", photo.id, f"within sv.hash_distance={config.hash_distance} of another")
                continue
            hashes.append(look)
        images += found
    return images


def difference_hash(image: Image.Image) -> int:
    """64 bits that look alike for pictures that do: which of two neighbours is brighter, on a grid of 9 × 8 (dHash).

    Photos of one scene seconds apart differ in a few bits; scaling and JPEG change hardly any.
    """
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits((grey[:, 1:] > grey[:, :-1]).ravel())
    return int.from_bytes(bits.tobytes(), "big")


def _encode(photo: Photo, config: StreetviewConfig) -> tuple[list[SvImage], int]:
    """A photo's images, and its hash."""
    if photo.projection == "equirectangular" and config.panorama == "views":
        return _views(photo, config)
    with open_photo(str(local_copy(photo.path)), photo.id, config.max_megapixels) as image:
        upright = _small(image, config.size)
        data = _jpeg(upright, config.quality)
        return [SvImage(photo, data, photo.heading, photo.projection)], difference_hash(upright)


def _views(photo: Photo, config: StreetviewConfig) -> tuple[list[SvImage], int]:
    """Perspective views of a panorama: those that its visible part holds.

    Raises:
        PhotoError: it holds none, or does not say which part of the sphere it has.
    """
    views = views_around(config.views, config.view_fov, config.size)
    with open_photo(str(local_copy(photo.path)), photo.id, config.max_megapixels) as image:
        visible = _visible(photo, image)
        factor = reduction(max(image.size), visible, views[0])
        if factor > 1:
            image.draft("RGB", (image.width // factor, image.height // factor))
        upright = in_8_bits(ImageOps.exif_transpose(image)).convert("RGB")
        factor = reduction(upright.width, visible, views[0])
        small = upright.reduce(factor) if factor > 1 else upright
        pixels = np.asarray(small.convert("RGBX"))
    found = [(view, cut_view(pixels, visible, view)) for view in views]
    images = []
    for view, cut in found:
        if cut is not None:
            heading = None if photo.heading is None else (photo.heading + view.turn) % 360.0
            data = _jpeg(Image.fromarray(cut), config.quality)
            images.append(SvImage(photo, data, heading, "perspective", view.fov))
    if not images:
        raise PhotoError("partial_panorama", f"panorama {photo.id} holds no view of {config.view_fov:g}° in full")
    return images, difference_hash(small)


def _visible(photo: Photo, image: Image.Image) -> tuple[float, float, float, float]:
    """The part of the sphere that a panorama has: as its source says, else as its own metadata say, else all of it."""
    if photo.visible is not None:
        return photo.visible
    if (sphere := read_gpano(image)) is not None:
        return sphere.visible
    width, height = image.size
    if image.getexif().get(ExifTags.Base.Orientation) in _TURNED:
        width, height = height, width
    if not is_whole(width, height):
        raise PhotoError(
            "partial_panorama",
            f"panorama {photo.id} has {width} × {height} pixels, not 2:1, and no GPano metadata of the part it shows",
        )
    return WHOLE


def _small(image: Image.Image, size: int) -> Image.Image:
    """Upright, longest side at most ``size`` px."""
    image.draft("RGB", (size, size))  # lets the JPEG decoder scale down by 2, 4 or 8
    upright = in_8_bits(ImageOps.exif_transpose(image)).convert("RGB")
    upright.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return upright


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.info.clear()  # Pillow hands a JPEG's comment on
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def pixels_needed(config: StreetviewConfig, panorama: bool) -> int:
    """Width in pixels that a photo should be fetched at for these settings."""
    if panorama and config.panorama == "views":
        view = views_around(1, config.view_fov, config.size)[0]
        return round(np.pi * view.size / np.tan(np.radians(view.fov) / 2.0))
    return config.size

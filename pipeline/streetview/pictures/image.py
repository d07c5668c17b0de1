"""Opening photos that strangers made: bounded in pixels, in few formats, with one kind of error."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pipeline.streetview.record import PhotoError
from schemas.errors import GeoshardsError

#: Formats that are opened; Pillow knows many more, few of them as well tried.
FORMATS = ("JPEG", "PNG", "WEBP")
#: Endings of files in these formats.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".insp", ".png", ".webp")
#: Endings of photos: those and the ones that are named as drops, since they would have to be converted first.
KNOWN = frozenset(SUFFIXES) | {
    ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".tif", ".tiff", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".arw",
    ".raf", ".orf", ".rw2", ".pef", ".srw", ".gpr", ".bmp", ".gif",
}  # fmt: skip

# Pillow warns of images over 89 megapixels and refuses those over 178; ours is the say about those between.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextmanager
def open_photo(source: Path | str | bytes, name: str, max_megapixels: float) -> Iterator[Image.Image]:
    """A photo whose header is read, and whose pixels are not yet; errors on the way out are told as `PhotoError`.

    Args:
        source: file, or its content
        name: stands in messages
        max_megapixels: a larger one is refused before memory is spent on it; infinite: Pillow's own limit, 178

    Raises:
        PhotoError: ``unreadable_image`` or ``too_many_pixels``.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_megapixels * 1e6:
                raise PhotoError(
                    "too_many_pixels",
                    f"photo {name} has {width} × {height} pixels, over sv.max_megapixels={max_megapixels:g}",
                )
            yield image
    except Image.DecompressionBombError:
        raise PhotoError("too_many_pixels", f"photo {name} has more pixels than any sv.max_megapixels allows") from None
    except GeoshardsError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever Pillow meets in a file is that photo's fault alone
        raise PhotoError("unreadable_image", f"photo {name} cannot be read: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """What is wrong, without the path or the memory address that Pillow quotes."""
    if isinstance(error, UnidentifiedImageError):
        return f"it is none of {', '.join(FORMATS)}; convert it"
    return getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__

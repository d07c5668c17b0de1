"""Photos from the web in the cache, by their content: equal photos are kept once, and none is fetched twice.

``photos/ab/abcd…`` is a photo, named by its SHA-256; ``photos/names/ab/….json`` says which photo a name stands for, or
why there is none. Both are put in their place whole.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.net.client import Client, Refused, TooLarge, Unavailable, looks_like_html
from pipeline.streetview.files.remote import read
from pipeline.streetview.pictures.image import open_photo
from pipeline.streetview.record import PhotoError
from schemas.errors import InputError
from storage.files import read_note
from storage.store import Store
from storage.urls import shown

#: What a server says no with for good; other failures may be gone at the next run, and are not remembered.
_FINAL = ("refused", "too_many_bytes", "unreadable_image", "too_many_pixels")
_REASONS: dict[type[InputError], str] = {Refused: "refused"}


class PhotoStore:
    """The cache's photos, and the client that adds to them. Safe to share among threads."""

    def __init__(
        self, cache: Path, client: Client, max_mb: float = 64.0, renew: bool = False, scheme: str | None = None
    ) -> None:
        """Describe a store.

        Args:
            cache: folder for it.
            client: of requests.
            max_mb: bounds one photo.
            renew: ask again for photos that could not be had.
            scheme: of the store that the user named, beside http(s): a table alone opens no other.
        """
        self.folder, self.client, self.max_bytes, self.renew = cache / "photos", client, int(max_mb * 1e6), renew
        self.scheme = scheme

    def fetch(self, name: str, url: str | Callable[[], str]) -> Path:
        """The file of the photo that ``name`` stands for, fetched from ``url`` unless it is there.

        ``url`` may be a function where the address must be asked for first. An answer that says no is remembered.

        Raises:
            PhotoError: the server says no, or sends something else than a photo.
            Unavailable: it does not answer; a later run may go on.
        """
        note = self._note(name)
        known = _read(note)
        if known is not None:
            if "sha256" in known:
                path = self._path(known["sha256"])
                if path.is_file() and path.stat().st_size == known.get("bytes"):
                    if known.get("bytes", 0) > self.max_bytes:  # it was fetched under another limit
                        raise self._too_large()
                    return path
            elif known["reason"] == "too_many_bytes":
                if known.get("limit", 0) >= self.max_bytes:
                    raise self._too_large()
            elif not self.renew:
                raise PhotoError(known["reason"], known["detail"])
        try:
            address = url if isinstance(url, str) else url()
            data = self.get(address)
            if looks_like_html(data):
                raise PhotoError("web_page", f"{shown(address)} is a web page where a photo was expected")
            with open_photo(data, shown(address), math.inf):
                pass
        except PhotoError as error:
            if error.reason in _FINAL:
                answer = {"reason": error.reason, "detail": str(error), "limit": self.max_bytes}
                self._write(note, json.dumps(answer).encode())
            raise
        digest = sha256(data).hexdigest()
        path = self._path(digest)
        if not path.is_file() or path.stat().st_size != len(data):
            self._write(path, data)
        self._write(note, json.dumps({"sha256": digest, "bytes": len(data)}).encode())
        return path

    def get(self, url: str, first: int | None = None) -> bytes:
        """The bytes behind a URL, or its ``first`` ones, past the cache.

        Raises:
            PhotoError: the server says no.
            Unavailable: it does not answer.
        """
        try:
            if self.scheme is not None and url.startswith(f"{self.scheme}://"):
                return read(url, self.max_bytes, first)
            headers = {} if first is None else {"Range": f"bytes=0-{first - 1}"}
            return self.client.get(url, headers=headers, max_bytes=self.max_bytes)
        except (Unavailable, PhotoError):
            raise
        except TooLarge:
            raise self._too_large() from None
        except InputError as error:  # of no special kind: a redirect that leads astray, a certificate not trusted
            raise PhotoError(_REASONS.get(type(error), "unreachable"), str(error)) from None

    def _too_large(self) -> PhotoError:
        """The same words whether it is fetched or in the cache."""
        return PhotoError("too_many_bytes", f"it has over {self.max_bytes:,} bytes; sv.max_mb may allow more")

    def _write(self, path: Path, data: bytes) -> None:
        """Put a file in its place; what is damaged is noticed when it is read, and fetched again."""
        Store(path.parent).write(path.name, data, durable=False)

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

    def _note(self, name: str) -> Path:
        key = sha256(name.encode()).hexdigest()
        return self.folder / "names" / key[:2] / f"{key}.json"


def _read(path: Path) -> dict[str, Any] | None:
    found = read_note(path)
    numbers = (found.get(name, 0) for name in ("bytes", "limit"))
    texts = [found["sha256"]] if "sha256" in found else [found.get("reason"), found.get("detail")]
    whole = all(isinstance(n, int) for n in numbers) and all(isinstance(text, str) for text in texts)
    return found if whole and re.fullmatch("[0-9a-f]{64}", found.get("sha256", "0" * 64)) else None

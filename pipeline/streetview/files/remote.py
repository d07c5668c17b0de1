"""Tables and folders of photos behind URLs: http(s) by our own client, whatever else fsspec knows by fsspec."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from pipeline.net.client import Client, Refused, Unavailable
from pipeline.net.download import Download, download_all
from pipeline.streetview.record import PhotoError
from schemas.errors import DatasetError, GeoshardsError, InputError
from storage.files import atomic_file
from storage.retry import patiently
from storage.urls import is_web, shown

T = TypeVar("T")


def suffix_of(url: str) -> str:
    """The ending of the file that a URL names, in lower case."""
    return PurePosixPath(urlsplit(url).path).suffix.lower()


def folder_of(url: str) -> str:
    """The folder that a file lies in."""
    return url.partition("?")[0].rpartition("/")[0]


def joined(folder: str, name: str) -> str:
    """The URL of a file below a folder."""
    return f"{folder}/{quote(name) if is_web(folder) else name}"


def fetch_table(url: str, cache: Path, client: Client, renew: bool, quiet: bool) -> Path:
    """A table in the cache; what is there is fetched again only with ``renew``.

    Raises:
        InputError: it cannot be had.
    """
    path = cache / "tables" / sha256(url.encode()).hexdigest()[:16] / PurePosixPath(unquote(urlsplit(url).path)).name
    if is_web(url):
        download_all([Download(url, path, md5=False)], client.config, "newer" if renew else "never", quiet)
    elif renew or not path.is_file():
        with atomic_file(path) as fresh:
            _asked(url, lambda fs, name: fs.get_file(name, str(fresh)))
    return path


def names_below(url: str) -> list[str]:
    """Names of the files below a folder, relative to it, in order.

    Raises:
        InputError: the folder cannot be listed.
    """

    def ask(fs: Any, name: str) -> list[str]:
        root = name.rstrip("/") + "/"
        found = [str(p) for p in fs.find(root)]
        return sorted(unquote(p[len(root) :]) if is_web(url) else p[len(root) :] for p in found if p.startswith(root))

    return _asked(url, ask)


def read(url: str, max_bytes: int, first: int | None = None) -> bytes:
    """A photo's bytes by fsspec, or its ``first`` ones.

    Raises:
        PhotoError: it is too long.
        InputError: it does not exist, or the store cannot be used; `Unavailable`: not now.
    """

    def ask(fs: Any, name: str) -> bytes:
        if first is None and (size := fs.info(name).get("size") or 0) > max_bytes:
            raise PhotoError("too_many_bytes", f"{shown(url)} has {size:,} bytes, over sv.max_mb")
        return bytes(fs.cat_file(name, end=first))

    return _asked(url, ask)


def _asked(url: str, ask: Callable[[Any, str], T]) -> T:
    """What ``ask`` has of the file system behind a URL and its own name for it, again where it fails for a while."""
    import fsspec  # a tenth of a second, which only URLs need

    if "::" in url:
        raise InputError(f"{shown(url)} is an address within another one; give that of the file or folder itself")
    try:
        fs, name = fsspec.core.url_to_fs(url)
        return patiently(url, lambda: ask(fs, name))
    except DatasetError as error:  # of `patiently`
        raise Unavailable(str(error)) from None
    except GeoshardsError:
        raise
    except FileNotFoundError:
        raise Refused(f"{shown(url)} does not exist", 404) from None
    except Exception as error:  # noqa: BLE001  # every store has exceptions of its own
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{shown(url)} cannot be read: {reason}; check the address and your access to it") from None

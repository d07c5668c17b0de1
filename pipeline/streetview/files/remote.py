"""Tables and folders of photos behind URLs: http(s) by our own client, whatever else fsspec knows by fsspec."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pipeline.net.client import Client, TooLarge
from pipeline.net.download import Download, download_all
from pipeline.net.stores import ask, fetch_file
from storage.urls import is_web, shown


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
        fetch_file(url, path)
    return path


def names_below(url: str) -> list[str]:
    """Names of the files below a folder, relative to it, in order.

    Raises:
        InputError: the folder cannot be listed.
    """

    def find(fs: Any, name: str) -> list[str]:
        root = name.rstrip("/") + "/"
        found = [str(p) for p in fs.find(root)]
        return sorted(unquote(p[len(root) :]) if is_web(url) else p[len(root) :] for p in found if p.startswith(root))

    return ask(url, find)


def read(url: str, max_bytes: int, first: int | None = None) -> bytes:
    """A photo's bytes by fsspec, or its ``first`` ones.

    Raises:
        TooLarge: it is too long.
        InputError: it does not exist, or the store cannot be used; `Unavailable`: not now.
    """

    def get(fs: Any, name: str) -> bytes:
        if first is None and (size := fs.info(name).get("size") or 0) > max_bytes:
            raise TooLarge(f"{shown(url)} has {size:,} bytes, over sv.max_mb")
        return bytes(fs.cat_file(name, end=first))

    return ask(url, get)

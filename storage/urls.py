"""Paths and URLs: local (``~`` and ``file://`` too), http(s), and whatever else fsspec knows."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from schemas.errors import ConfigError


def is_local(url: str) -> bool:
    """Whether a path or URL names a file of this machine."""
    scheme, mark, _ = url.partition("://")
    return not mark or scheme in ("file", "local")


def is_web(url: str) -> bool:
    """Whether a URL is an http(s) one with a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def expand(url: str | Path) -> str:
    """A local path or URL without a slash at its end; ``file://`` and ``~`` of local ones become plain paths.

    >>> expand("file:///data/demo/"), expand("s3://bucket/demo/")
    ('/data/demo', 's3://bucket/demo')
    """
    text = str(url)
    if is_local(text):
        text = os.path.expanduser(text.rpartition("://")[2])
    return text.rstrip("/") or text[:1]


def absolute(url: str) -> str:
    """The same from wherever it is read: local paths made absolute, URLs as they are."""
    return str(Path(expand(url)).absolute()) if is_local(url) else url


def shown(url: str) -> str:
    """A URL as it may be printed: user, password, query and fragment can hold secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(an address that cannot be read)"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else parts.path


def cache_folder(configured: str = "") -> Path:
    """Where what can be made again lies: the setting, else ``$GEOSHARDS_CACHE``, else ``data/cache``.

    An empty variable counts as unset, and ``~`` is the home.

    Raises:
        ConfigError: it is a URL.
    """
    found = configured or os.environ.get("GEOSHARDS_CACHE") or "data/cache"
    if not is_local(found):
        raise ConfigError(f"cache={shown(found)} is a URL; the cache is a folder of this machine, shared or not")
    return Path(found).expanduser()

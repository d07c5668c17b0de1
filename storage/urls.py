"""Paths and URLs: local (``~`` and ``file://`` too), http(s), and whatever else fsspec knows."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from schemas.errors import ConfigError, DependencyError, InputError

#: Of stores and servers, what has no name behind two slashes.
_NAMELESS = re.compile(r"(s3a?|gc?s|abfss?|az|adl|oss|obs|cos|https?|ftp):/([^/]|/?$|//)", re.IGNORECASE)

#: Between the links of fsspec's chains: ``zip://x.tif::s3://bucket/x.zip``.
_LINK = re.compile(r"::(?=[\w+.-]+://)")


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

    Raises:
        ConfigError: a store's or a server's URL without its name, or with one slash: it would become a folder "s3:".
    """
    text = str(url)
    if _NAMELESS.match(text):
        raise ConfigError(f"{text} names no bucket or host; write s3://bucket/folder, say (is a variable empty?)")
    if is_local(text):
        text = os.path.expanduser(text.rpartition("://")[2])
    return text.rstrip("/") or text[:1]


def absolute(url: str) -> str:
    """The same from wherever it is read: local paths made absolute, URLs as they are."""
    return str(Path(expand(url)).absolute()) if is_local(url) else url


def shown(url: str) -> str:
    """A URL as it may be printed: user, password, query and fragment can hold secrets, of each link of a chain."""
    if len(links := _LINK.split(url)) > 1:
        return "::".join(map(shown, links))
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(an address that cannot be read)"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else parts.path


def cache_folder(configured: str = "", setting: str = "cache") -> Path:
    """Where what can be made again lies: the ``setting``, else ``$GEOSHARDS_CACHE``, else ``data/cache``.

    An empty variable counts as unset, and ``~`` is the home.

    Raises:
        ConfigError: it is a URL.
    """
    found = configured or os.environ.get("GEOSHARDS_CACHE") or "data/cache"
    if not is_local(found):
        name = setting if configured else "GEOSHARDS_CACHE"
        raise ConfigError(f"{name}={shown(found)} is a URL; the cache is a folder of this machine, shared or not")
    return Path(expand(found))


def shared_cache(configured: str = "") -> str:
    """Where what is made for all nodes of a cluster lies: the cache, a folder or a URL; see `cache_folder`.

    Raises:
        ConfigError: it is a URL that one process alone sees.
    """
    if configured.startswith("memory://"):
        raise ConfigError(f"cache={shown(configured)} is seen by one process alone; give a folder, or s3://…")
    return str(cache_folder(configured)) if is_local(configured) else expand(configured)


def local_path(given: str) -> Path:
    """A path that must be one of this machine, as no store can stand for it; ``~`` is the home.

    Raises:
        ConfigError: it is a URL.
    """
    if not is_local(given):
        raise ConfigError(f"{shown(given)} is a URL; a path of this machine is needed here")
    return Path(expand(given))


#: What can be opened: told where something else is asked for.
_SCHEMES = "give a path, or the address of a store: s3://, gs://, az:// and others that fsspec knows, https:// to read"


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system behind a URL, and its own name for the place. No listing of it is believed twice: others may
    write there.

    Raises:
        DependencyError: the package for it is missing.
        InputError: there is no such kind of URL, or it is FTP, which would be asked at once.
    """
    if url.partition("://")[0].lower() in ("ftp", "ftps"):
        raise InputError(f"{shown(url)} is no address of a store; {_SCHEMES}")
    import fsspec  # a tenth of a second, which only URLs need

    try:
        fs, name = fsspec.core.url_to_fs(url, use_listings_cache=False, **_options(url))
    except ImportError as error:
        raise DependencyError(f"{shown(url)}: {error}; pip install 'geoshards[cloud]' brings it for S3") from None
    except ValueError as error:
        raise InputError(f"{shown(url)} is no address that is known ({error}); {_SCHEMES}") from None
    return fs, str(name)


def _options(url: str) -> dict[str, Any]:
    """What GDAL's variables for S3 say that fsspec's file system does not read by itself."""
    if url.partition("://")[0] not in ("s3", "s3a"):
        return {}
    options: dict[str, Any] = {}
    host = os.environ.get("AWS_S3_ENDPOINT", "")
    if host and not {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} & os.environ.keys():
        secure = os.environ.get("AWS_HTTPS", "YES").upper() not in ("NO", "FALSE", "OFF")
        options["endpoint_url"] = host if "://" in host else f"http{'s' if secure else ''}://{host}"
    if os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "ON", "1"):
        options["anon"] = True
    if os.environ.get("AWS_REQUEST_PAYER", "") == "requester":
        options["requester_pays"] = True
    return options

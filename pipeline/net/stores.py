"""Files behind URLs that are no http(s) ones: object stores and what else fsspec knows, with its own credentials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipeline.net.client import Refused, Unavailable
from schemas.errors import DatasetError, GeoshardsError, InputError
from storage.files import atomic_file
from storage.retry import patiently
from storage.urls import file_system, shown

T = TypeVar("T")


def is_store(url: str) -> bool:
    """Whether a URL names a place that fsspec can read and that we do: FTP says passwords aloud."""
    import fsspec  # a tenth of a second, which only URLs need

    scheme = url.partition("://")[0]
    return scheme in fsspec.available_protocols() and scheme not in ("ftp", "http", "https")


def fetch_file(url: str, path: Path, check: Callable[[Path], None] | None = None) -> None:
    """Have a file in its place, whole; ``check`` raises InputError for one that is not what its name says.

    Raises:
        Refused: there is none.
        Unavailable: the store does not answer; a later run may go on.
        InputError: it cannot be read.
    """
    with atomic_file(path) as fresh:
        ask(url, lambda fs, name: fs.get_file(name, str(fresh)))
        if check is not None:
            try:
                check(fresh)
            except InputError as error:
                raise InputError(f"{shown(url)}: {error}") from None


def file_facts(url: str) -> tuple[int | None, str]:
    """Bytes of a file, None where the store does not say, and what tells its versions apart; empty: nothing does.

    Raises as `fetch_file` does.
    """
    facts = ask(url, lambda fs, name: fs.info(name))
    version = next((facts[k] for k in ("ETag", "etag", "LastModified", "last_modified", "mtime") if facts.get(k)), "")
    return facts.get("size"), str(version)


def matching(pattern: str) -> list[str]:
    """URLs of the files that a pattern (``s3://bucket/2024/*.tif``) matches, by name. Raises as `fetch_file` does."""
    return ask(pattern, lambda fs, name: [str(fs.unstrip_protocol(found)) for found in sorted(fs.glob(name))])


def ask(url: str, question: Callable[[Any, str], T]) -> T:
    """What ``question`` has of the file system behind a URL and its own name for it, again where it fails for a while.

    Raises as `fetch_file` does.
    """
    if "::" in url:
        raise InputError(f"{shown(url)} is an address within another one; give that of the file or folder itself")
    try:
        fs, name = file_system(url)
        return patiently(shown(url), lambda: question(fs, name))
    except DatasetError as error:  # of `patiently`
        raise Unavailable(str(error)) from None
    except GeoshardsError:
        raise
    except FileNotFoundError:
        raise Refused(f"{shown(url)} does not exist", 404) from None
    except Exception as error:  # noqa: BLE001  # every store has exceptions of its own
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{shown(url)} cannot be read: {reason}; check the address and your access to it") from None

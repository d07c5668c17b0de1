"""Files behind URLs that are no http(s) ones: object stores and what else fsspec knows, with its own credentials."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from pipeline.net.client import Refused, Unavailable
from pipeline.net.config import NetConfig
from schemas.errors import DatasetError, GeoshardsError, InputError
from storage.entries import have_entry
from storage.files import atomic_file
from storage.progress import Progress
from storage.retry import patiently
from storage.urls import expand, file_system, is_web, shown

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
    return _told(ask(url, lambda fs, name: fs.info(name)))


def _told(facts: dict[str, Any]) -> tuple[int | None, str]:
    keys = ("ETag", "etag", "LastModified", "last_modified", "mtime", "created")
    return facts.get("size"), str(next((facts[k] for k in keys if facts.get(k)), ""))


def fetch_folder(url: str, cache: Path, what: str, net: NetConfig, quiet: bool) -> Path:
    """A copy of a folder of a store, without hidden files: listed every time, copied again if names, sizes or versions
    are others.

    Args:
        url: of the folder.
        cache: folder of copies.
        what: it is, for messages (``chips.folder``).
        net: `NetConfig.max_gb` is the most that is copied, `NetConfig.parallel` files at a time.
        quiet: no progress.

    Raises:
        InputError: it is of no store, holds no file, too much, or names that no folder can hold.
        Refused, Unavailable: as of `fetch_file`.
    """
    if is_web(url):
        raise InputError(f"{what}={shown(url)}: a web server lists no files; download the folder and give its path")
    if not is_store(url):
        raise InputError(f"{what}={shown(url)} is a URL of no store that fsspec knows; give s3://… or a folder")
    url = expand(url)

    def find(fs: Any, name: str) -> dict[str, tuple[int | None, str]]:
        root = name.rstrip("/") + "/"
        return {str(path)[len(root) :]: _told(facts) for path, facts in fs.find(root, detail=True).items()}

    listed = {n: facts for n, facts in sorted(ask(url, find).items()) if n and not n.endswith("/")}
    files = {n: facts for n, facts in listed.items() if not any(part.startswith(".") for part in n.split("/"))}
    if not files:
        raise InputError(f"{what}={shown(url)} holds no file; check the address and your access to it")
    for name in files:
        parts = name.split("/")
        if any(not part or len(os.fsencode(part)) > 255 or "\0" in part for part in parts) or any(
            "/".join(parts[:i]) in files for i in range(1, len(parts))
        ):
            raise InputError(f"{what}={shown(url)}: a folder cannot hold {ascii(name)[1:-1][:200]}; rename the object")
    if (size := sum(n or 0 for n, _ in files.values())) > net.max_gb * 1e9:
        raise InputError(f"{what}={shown(url)} holds {size / 1e9:,.1f} GB, over net.max_gb={net.max_gb:g}")
    digest = sha256(repr((url, files)).encode("utf-8", "surrogateescape")).hexdigest()[:20]
    own = url.rpartition("/")[2]

    def copy(folder: Path) -> dict[str, Any]:
        def one(name: str) -> None:
            path = folder / own / name
            if not path.is_file():  # an interrupted copy goes on
                path.parent.mkdir(parents=True, exist_ok=True)
                fetch_file(f"{url}/{name}", path)

        with ThreadPoolExecutor(net.parallel) as pool, Progress("copy", len(files), "files", quiet) as progress:
            for _ in pool.map(one, files):
                progress.advance(1)
        return {"url": shown(url), "files": len(files)}

    have_entry(cache / digest, copy)
    return cache / digest / own


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

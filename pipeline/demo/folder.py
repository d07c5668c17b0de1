"""A generated folder: made whole or not at all, with a record of its parameters and files."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from storage.files import atomic_folder, file_sha256
from storage.locks import locked

RECORD = "demo.json"
_AHEAD = 6  # parts that may be in the making


def have_folder(
    out: Path, asked: dict[str, Any], write: Callable[[Path], dict[str, int]], built: Path | None = None
) -> None:
    """Have what ``asked`` names at ``out``: as it is there, copied from ``built``, or as ``write`` leaves it in a
    temporary folder; it returns counts for the record.

    Raises:
        InputError: out holds other files.
    """
    if is_complete(out, asked):
        return
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RECORD).is_file())):
        raise InputError(f"{out} holds something other than a demo build; choose an empty folder")
    with locked(out.with_name(f".{out.name}.lock")):
        if is_complete(out, asked):
            return
        with atomic_folder(out) as fresh:
            if built is not None and is_complete(built, asked):
                shutil.copytree(built, fresh, dirs_exist_ok=True)
                return
            counts = write(fresh)
            record = {"parameters": asked, "counts": counts, "files": _digests(fresh)}
            (fresh / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def is_complete(out: Path, asked: dict[str, Any]) -> bool:
    """Whether out holds a build of these parameters with all its files at their sizes."""
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        if record["parameters"] != asked:
            return False
        return all((out / name).stat().st_size == entry["bytes"] for name, entry in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digests(folder: Path) -> dict[str, dict[str, Any]]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": file_sha256(p)} for p in paths}


def in_order(pool: ProcessPoolExecutor, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Results of a pool in order, a few of them in the making at any time."""
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()

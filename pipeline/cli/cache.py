"""``geoshards cache``: what lies in the cache, whether it is sound, and dropping what was used longest ago."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from schemas.command import Command
from schemas.errors import ConfigError
from storage.cache import Item, contents, prune
from storage.entries import MARKER, entry_problems
from storage.progress import Progress
from storage.text import visible
from storage.urls import cache_folder

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_bytes(text: str) -> int:
    """Bytes of a size with its unit, decimal: 20GB, 500 MB.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kKMGT]?B|)", text.strip())
    if found is None:
        raise ConfigError(f"{text!r} is no size; write 20GB or 500MB, say")
    return round(float(found[1]) * _UNITS[found[2].upper()])


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=("list", "verify", "prune"), default="list",
        help="list kinds with their sizes (default); verify every hash; prune to --keep",
    )  # fmt: skip
    parser.add_argument("--cache", default="", help="folder (default $GEOSHARDS_CACHE, else data/cache)")
    parser.add_argument("--keep", default="", help="size that may stay, as 20GB; what was used longest ago goes first")
    parser.epilog = "examples:\n  geoshards cache\n  geoshards cache verify\n  geoshards cache prune --keep 20GB"


def _run(args: argparse.Namespace) -> int:
    cache = cache_folder(args.cache)
    if (args.action == "prune") != bool(args.keep):
        raise ConfigError("`geoshards cache prune` and --keep belong together: geoshards cache prune --keep 20GB")
    if args.action == "verify":
        return _verify(args)
    gone = prune(cache, parse_bytes(args.keep)) if args.action == "prune" else None
    items = contents(cache)
    rows = list(_rows(items))
    total: dict[str, Any] = {"kind": "total", "items": len(items), "bytes": sum(i.bytes for i in items)}
    if args.json:
        document = {"cache": str(cache), "kinds": rows, **{k: v for k, v in total.items() if k != "kind"}}
        print(json.dumps(document | ({} if gone is None else {"gone": [str(i.path) for i in gone]})))
        return 0
    if not args.quiet:
        if gone is not None:
            print(f"{len(gone):,} items dropped, {sum(i.bytes for i in gone) / 1e6:,.1f} MB")
        print(f"{cache}\n{'kind':<12} {'items':>9} {'MB':>12}  last used")
        for row in [*rows, total]:
            print(f"{row['kind']:<12} {row['items']:>9,} {row['bytes'] / 1e6:>12,.1f}  {row.get('used', '')}".rstrip())
    return 0


def _rows(items: list[Item]) -> Iterator[dict[str, Any]]:
    for kind, group in groupby(sorted(items, key=lambda i: i.kind), lambda i: i.kind):
        own = list(group)
        day = time.strftime("%Y-%m-%d", time.gmtime(max(i.used for i in own)))
        yield {"kind": kind, "items": len(own), "bytes": sum(i.bytes for i in own), "used": day}


def _verify(args: argparse.Namespace) -> int:
    """Entries alone hold their own hashes; the other files are checked where they are read."""
    entries = [i.path for i in contents(cache_folder(args.cache)) if (i.path / MARKER).is_file()]
    problems: list[str] = []
    with Progress("verify", len(entries), "entries", args.quiet or args.json) as progress:
        for path in entries:
            problems += entry_problems(path)
            progress.advance(1)
    if args.json:
        print(json.dumps({"entries": len(entries), "problems": problems}))
    for problem in [] if args.json else problems[:100]:
        print(visible(problem))
    if problems:
        print(f"error: {len(problems)} problems; delete the entries named, they are made again", file=sys.stderr)
        return 1
    if not args.quiet and not args.json:
        print(f"{len(entries):,} entries, every file as it was written")
    return 0


COMMAND = Command("List, verify and prune the cache", _configure, _run)

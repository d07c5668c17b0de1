"""``geoshards verify DIR``: a dataset checked, and what is damaged built again."""

from __future__ import annotations

import argparse
import json
import re
import sys

from pipeline.catalog.verify import find_problems
from pipeline.driver.repair import is_begun, repair
from schemas.command import Command
from schemas.errors import ConfigError
from storage.store import Store
from storage.text import visible


def parse_share(text: str) -> float:
    """A share of the samples: 1%, 0.01.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,9})?)(%?)", text.strip())
    share = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if not 0 < share <= 1:
        raise ConfigError(f"--sample {text} is no share of the samples; write 1% or 0.01, say")
    return share


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="dataset directory or fsspec URL")
    parser.add_argument("--fast", action="store_true", help="hashes alone, as sha256sum -c MANIFEST.sha256")
    parser.add_argument("--sample", default="100%", help="share of the samples to check, as 1%%; the same each time")
    parser.add_argument("--repair", action="store_true", help="build again what is damaged, from the cache if it can")
    parser.add_argument("--cache", default="", help="for --repair: of the run that made the dataset (default as there)")
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")


def _run(args: argparse.Namespace) -> int:
    quiet, share = args.quiet or args.json, parse_share(args.sample)
    stopped = args.repair and is_begun(Store(args.dataset))
    problems = [] if stopped else find_problems(args.dataset, args.fast, share, args.workers, quiet)
    repaired = args.repair and bool(problems or stopped)
    if repaired:
        repair(args.dataset, {p.file for p in problems}, args.workers, args.cache, quiet)
        left = find_problems(args.dataset, args.fast, share, args.workers, quiet)
        if not left and not quiet:
            print(f"{args.dataset}: {'made whole' if stopped else f'{len(problems)} problems repaired'}")
        problems = left
    if args.json:
        rows = [{"file": p.file, "problem": p.what} for p in problems]
        print(json.dumps({"problems": rows, "repaired": repaired}))
    for problem in [] if args.json else problems[:100]:
        print(visible(str(problem)))
    if problems:
        files = len({p.file for p in problems})
        way = "delete them, or build the dataset again" if repaired else "--repair builds them again"
        print(visible(f"error: {len(problems)} problems in {files} files of {args.dataset}; {way}"), file=sys.stderr)
        return 1
    if not quiet and not repaired:
        what = "every hash" if args.fast else "every file and table" if share == 1 else f"{share:.3g} of the samples"
        print(f"{args.dataset}: {what} is right")
    return 0


COMMAND = Command("Check every hash, table, member and law of a dataset, and repair it", _configure, _run)

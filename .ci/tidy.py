#!/usr/bin/env python3
"""Run a command in an empty home; fail where it leaves a file in the checkout or in a home.

Usage: python .ci/tidy.py [--may NAME ...] -- COMMAND ...

The checkout is the working directory. Files that are new or changed there count, whether git ignores them or not, apart
from known caches and from what lies in the folders NAME. Exit status: the command's own; 1 if that is 0 and something
was left, with the names on standard error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

#: Folders in a checkout that tools fill; their settings or .gitignore name each.
CACHES = (".git", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "*.egg-info")

Listing = dict[str, tuple[int, int]]


def listing(folder: Path, may: tuple[str, ...] = ()) -> Listing:
    """Size and time of change of each file and link below a folder; empty folders are listed too."""
    skipped = [*CACHES, *(os.path.join(folder, name) for name in may)]
    found: Listing = {}
    for base, folders, files in os.walk(folder):
        empty = [] if folders or files else [""]
        folders[:] = [f for f in folders if not any(fnmatch(n, s) for s in skipped for n in (f, os.path.join(base, f)))]
        for name in (*files, *(f for f in folders if os.path.islink(os.path.join(base, f))), *empty):
            path = os.path.join(base, name)
            try:
                facts = os.lstat(path)
            except FileNotFoundError:  # a server that still ends
                continue
            found[os.path.relpath(path, folder)] = (facts.st_size, 0 if path.endswith("/") else facts.st_mtime_ns)
    found.pop(".", None)
    return found


def main() -> int:
    """Run the command; see above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--may", action="append", default=[], metavar="NAME", help="a folder that it may fill")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    checkout, user, may = Path.cwd(), Path.home(), tuple(args.may)
    before, names = listing(checkout, may), set(os.listdir(user))
    with tempfile.TemporaryDirectory(prefix="home-", ignore_cleanup_errors=True) as home:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")} | {"HOME": home}
        status = subprocess.run(args.command, env=environment, check=False).returncode
        left = [f"~/{name}" for name in listing(Path(home))]
    left += [f"~/{name}" for name in set(os.listdir(user)) - names]
    left += [name for name, facts in listing(checkout, may).items() if before.get(name) != facts]
    for name in sorted(left):
        print(f"error: {' '.join(args.command)} left {name}", file=sys.stderr)
    return status or bool(left)


if __name__ == "__main__":
    sys.exit(main())

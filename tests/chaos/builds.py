#!/usr/bin/env python3
"""Builds at once over one fresh cache, killed at random: each ends right or with one clear line, and the next is right.

Usage: python tests/chaos/builds.py [--rounds 50] [--first 0]

Each round starts two to four builds of one town, at the same and other zooms, into one directory or several, kills some
of them at any moment, prunes the cache meanwhile, and then runs each once more. A round is made from its number alone.
Prints a line for every finding, and a table of how the builds ended.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from storage.cache import prune  # noqa: E402
from tests.driver.village import Village, write_village  # noqa: E402

_ZOOMS = (17, 18)
#: What a build may say that does not end well.
_CLEAR = ("is being written by process", "holds another dataset", "has changed while it was read", "run the same again")


@dataclass(frozen=True)
class Build:
    """One command."""

    zoom: int
    out: Path

    def start(self, village: Village, cache: Path) -> subprocess.Popen[str]:
        """Its process."""
        words = [
            sys.executable, "-m", "pipeline.cli.main", "shards", f"region={village.osm}",
            f"imagery={village.imagery}", f"streetview={village.photos}", f"zoom={self.zoom}", "size=64", "workers=1",
            "plan.per_shard=10", f"out={self.out}", f"cache={cache}", "--quiet",
        ]  # fmt: skip
        return subprocess.Popen(
            words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )


def digest(folder: Path) -> str:
    """Of every file of a dataset but the timings and what changes with them."""
    whole = sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and "stages" not in name and not name.startswith("MANIFEST"):
            whole.update(name.encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


@dataclass(frozen=True)
class Alone:
    """What builds give that nothing disturbs."""

    village: Village
    digests: dict[int, str]  # by zoom
    seconds: float  # of one


def build_alone(folder: Path) -> Alone:
    """Each zoom once, in a cache of its own."""
    (folder / "village").mkdir()
    village, found, start = write_village(folder / "village"), {}, time.monotonic()
    for zoom in _ZOOMS:
        build = Build(zoom, folder / f"alone-{zoom}")
        process = build.start(village, folder / f"cache-{zoom}")
        _, said = process.communicate()
        if process.returncode:
            raise SystemExit(f"error: the town cannot be built: {said}")
        found[zoom] = digest(build.out)
    return Alone(village, found, (time.monotonic() - start) / len(_ZOOMS))


def wrong(build: Build, code: int, said: str, right: dict[int, str]) -> str | None:
    """What is not as it should be in how a build ended that nobody killed; None: all is right."""
    if not code:
        return None if digest(build.out) == right[build.zoom] else "it ended well with another dataset"
    lines = said.strip().splitlines()
    if len(lines) == 1 and lines[0].startswith("error: ") and any(words in lines[0] for words in _CLEAR):
        return None
    return f"it ended with {code}: {said[-600:]!r}"


def left_over(cache: Path) -> list[str]:
    """What the last run left beside whole entries."""
    hidden = [p for p in cache.rglob(".*") if p.name.endswith((".tmp", ".lock", ".break"))]
    return [p.relative_to(cache).as_posix() for p in (*hidden, *(cache / ".users").glob("*"))]


def round_of(number: int, alone: Alone, folder: Path) -> tuple[Counter[str], list[str]]:
    """One round: how its builds ended, and what is wrong."""
    rng, cache = random.Random(number), folder / "cache"
    shared = rng.random() < 0.4
    builds = [
        Build(zoom := rng.choice(_ZOOMS), folder / (f"out-{zoom}" if shared else f"out-{n}"))
        for n in range(rng.randint(2, 4))
    ]
    ends: Counter[str] = Counter()
    problems: list[str] = []
    begin, processes, kills = time.monotonic(), [], {}
    for n, build in enumerate(builds):
        processes.append(build.start(alone.village, cache))
        if rng.random() < 0.5:
            kills[n] = begin + rng.random() * alone.seconds * len(builds)
        time.sleep(rng.choice([0.0, 0.0, 0.3]))
    pruning = begin + rng.random() * alone.seconds * 2 if rng.random() < 0.3 else None
    while any(p.poll() is None for p in processes):
        for n, moment in list(kills.items()):
            if time.monotonic() >= moment:
                del kills[n]
                if processes[n].poll() is None:
                    processes[n].send_signal(signal.SIGKILL)
        if pruning is not None and time.monotonic() >= pruning:
            pruning = None
            prune(cache, 0)
        time.sleep(0.005)
    for build, process in zip(builds, processes, strict=True):
        _, said = process.communicate()
        if process.returncode == -signal.SIGKILL:
            ends["killed"] += 1
            continue
        found = wrong(build, process.returncode, said, alone.digests)
        ends["wrong" if found else "refused" if process.returncode else "right"] += 1
        problems += [f"round {number}, zoom {build.zoom}: {found}"] if found else []
    for build in dict.fromkeys(builds):
        again = build.start(alone.village, cache)
        _, said = again.communicate()
        found = wrong(build, again.returncode, said, alone.digests) if not again.returncode else said[-600:]
        ends["wrong" if found else "right when run again"] += 1
        problems += [f"round {number}, zoom {build.zoom}, run again: {found}"] if found else []
    problems += [f"round {number}: left behind: {name}" for name in left_over(cache)]
    return ends, problems


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="geoshards-chaos-") as base:
        alone, bad = build_alone(Path(base)), 0
        for number in range(args.first, args.first + args.rounds):
            with tempfile.TemporaryDirectory(dir=base) as folder:
                ends, problems = round_of(number, alone, Path(folder))
            total += ends
            bad += bool(problems)
            print("".join(f"{p}\n" for p in problems), end="", flush=True)
    print(json.dumps({"rounds": args.rounds, "rounds_with_findings": bad, **dict(total)}))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

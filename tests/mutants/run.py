"""How many small faults of the code do the tests see? ``python -m tests.mutants.run pipeline/osm --number 20 --seed 0``

Lines of code are drawn by seed from a room (a package or a module; ``all``), and each is changed by an operator: a
sign, a bound, a swapped pair, a call that is lost. The changed module lies in a private copy of the checkout; there the
tests that run the line (`tests.mutants.cover`) run, the quickest first, until one fails. A fault is seen when a test
fails or takes far longer than it did. Each runs in a fork of a process that has imported what the tests need of others.
What survives is listed with its change; `harmless.toml` names those that no test should see, with the reason.
"""

from __future__ import annotations

import argparse
import ast
import gc
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.mutants.changes import Mutant, code_lines, mutant_on
from tests.mutants.cover import LONGEST, Choice, entry_of, measure, place, tests_by_import, tests_of

ROOT = Path(__file__).resolve().parents[2]
TOPS = ("schemas", "geometry", "storage", "pipeline", "trainers", "dags")
MISSED = ("survives", "untested")
#: What most tests import of others; a child finds it imported.
HEAVY = (
    "numpy", "pyarrow.parquet", "pyarrow.compute", "pyarrow.dataset", "shapely", "rasterio", "rasterio.warp",
    "rasterio.features", "osmium", "pyproj", "duckdb", "hypothesis", "PIL.Image", "requests", "pyogrio", "fsspec",
    "safetensors.numpy", "mercantile", "pystac", "simplejpeg", "yaml", "webdataset",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What became of a mutant: ``seen`` by a failing test, ``hangs``, ``survives``, or ``untested`` by any."""

    room: str
    file: str
    line: int
    function: str
    change: str
    outcome: str
    tests: int
    seconds: float
    reason: str = ""  # why it is harmless


class Chosen:
    """A pytest plugin: these tests, in this order."""

    def __init__(self, names: list[str]) -> None:
        self.rank = {name: i for i, name in enumerate(names)}

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
        yield
        items[:] = sorted((i for i in items if i.nodeid in self.rank), key=lambda i: self.rank[i.nodeid])


@contextmanager
def private_copy(root: Path) -> Iterator[Path]:
    """The checkout's files in a folder of our own, which this process and those that it starts import from."""
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder).resolve() / "tree"
        skip = shutil.ignore_patterns(".*", "data", "runs", "build", "*.egg-info")
        shutil.copytree(root, copy, ignore=skip, symlinks=True)
        os.chdir(copy)
        places = {str(ROOT), str(root), ""}
        sys.path[:] = [str(copy), *(p for p in sys.path if p not in places)]
        os.environ |= {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the copy's compiled files serve the next child
        sys.dont_write_bytecode = False
        yield copy


def forked(work: Callable[[], int], limit: float) -> int | None:
    """Exit status of ``work`` in a fork that imports the project anew; None where it takes ``limit`` seconds of CPU."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit)))
            quiet = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(quiet, stream)
            for name in [n for n in sys.modules if n.partition(".")[0] in ("tests", *TOPS)]:
                del sys.modules[name]
            code = work()
        finally:
            os._exit(code)
    end = time.monotonic() + 3 * limit  # one that sleeps; others may use the machine
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
            time.sleep(0.02)
        return None
    finally:
        with suppress(ProcessLookupError):  # and what it started
            os.killpg(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


def runs(names: list[str]) -> int:
    """Exit status of pytest over these tests, up to the first that fails."""
    files = list(dict.fromkeys(name.partition("::")[0] for name in names))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header"]
    return int(pytest.main([*files, *options], plugins=[Chosen(names)]))


def room_of(file: str) -> str:
    """pipeline/osm of pipeline/osm/cells/cut.py; schemas of schemas/keys.py; pipeline/times.py of itself."""
    parts = file.split("/")
    return "/".join(parts[:2]) if parts[0] in ("pipeline", "trainers") else parts[0]


def modules(room: str, root: Path) -> list[str]:
    """Modules of a room, or of all."""
    places = [root / top for top in TOPS] if room == "all" else [root / room]
    found = [p for place in places for p in ([place] if place.is_file() else place.rglob("*.py"))]
    return sorted(p.relative_to(root).as_posix() for p in found)


def draw(files: list[str], root: Path, number: int, seed: int) -> list[Mutant]:
    """Mutants of ``number`` lines of code drawn from all of the files."""
    sources = {file: (root / file).read_text() for file in files}
    lines = [(file, line) for file, source in sources.items() for line in code_lines(source)]
    random.Random(seed).shuffle(lines)
    found: list[Mutant] = []
    for file, line in lines:
        if len(found) == number:
            break
        mutant = mutant_on(file, sources[file], line, random.Random(f"{seed} {file} {line}"))
        found += [mutant] if mutant else []
    return found


def importers(root: Path) -> dict[str, list[str]]:
    """File to the files of the product that import it."""
    found = defaultdict(list)
    for user in modules("all", root):
        for node in ast.walk(ast.parse((root / user).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                    found[f"{name.replace('.', '/')}.py"].append(user)
    return found


def choice(files: list[str], copy: Path, kept: Path, users: dict[str, list[str]]) -> Choice:
    """Which of the tests in ``files`` runs which line; what is not kept is measured."""
    kept.mkdir(parents=True, exist_ok=True)
    for file in files:
        if entry_of(file, kept, copy) is None:
            begin = time.monotonic()
            forked(lambda file=file: measure(file, copy, place(file, kept)), 3 * LONGEST)
            print(f"measured {file}: {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
    return Choice.of([e for f in files if (e := entry_of(f, kept, copy))], users)


def in_turn(module: str, own: list[str], others: list[str]) -> list[list[str]]:
    """Files of tests named for a module, others of its room that import it, the rest of that, and those elsewhere.

    Most faults are seen by the first, so that the rest need not be measured.
    """
    name = Path(module).stem
    named = [f for f in own if f == module or name in Path(f).stem]
    using = [f for f in own if f in others and f not in named]
    return [named, using, [f for f in own if f not in named + using], [f for f in others if f not in own]]


def examples() -> None:
    """How hypothesis tries: a busy machine or a lucky draw is no fault seen, the least failure is not looked for."""
    own = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], **own)  # type: ignore[arg-type]
    settings.register_profile("measure", settings.get_profile("mutants"), max_examples=10)  # they run the same lines
    settings.load_profile("mutants")


def attempt(mutant: Mutant, tests: list[str], planned: float, copy: Path, stamp: int, grace: float) -> str:
    """Put the mutant into the copy, run the tests, and put the module back."""
    if not tests:
        return "untested"
    path = copy / mutant.file
    old, times = path.read_bytes(), path.stat()
    try:
        path.write_text(mutant.source)
        os.utime(path, (stamp, stamp))  # a time of its own: compiled files are believed by it
        status = forked(lambda: runs(tests), grace + 3 * planned)
    finally:
        path.write_bytes(old)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return "hangs" if status is None else "survives" if status == 0 else "seen"


def harmless(path: Path) -> dict[tuple[str, str, str], str]:
    """(file, function, change) to the reason why no test should see it."""
    rows = tomllib.loads(path.read_text()).get("mutant", []) if path.exists() else []
    return {(row["file"], row["function"], row["change"]): row["reason"] for row in rows}


def examine(
    room: str, number: int, seed: int, root: Path = ROOT, most: float = 30.0, grace: float = 10.0, near: bool = False
) -> Iterator[Result]:
    """Draw mutants from a room and try each with the tests of its module, of its room, then of those that import it.

    Tests of ``most`` seconds run for a mutant; one that takes ``grace`` seconds more than three times that hangs. Tests
    of other rooms are left out where ``near``, and for what is known to be harmless.
    """
    known = harmless(root / "tests/mutants/harmless.toml")
    kept = root / ".pytest_cache/mutants"
    with private_copy(root) as copy:
        for name in HEAVY + (("torch",) if room.startswith(("trainers", "all")) else ()):
            with suppress(ImportError):
                import_module(name)
        for plugin in entry_points(group="pytest11"):
            plugin.load()
        examples()
        gc.freeze()  # or each child looks through all of it
        users, mutants = importers(copy), draw(modules(room, copy), copy, number, seed)
        own = {name: tests_of(name, copy) for name in {room_of(m.file) for m in mutants}}
        ready = cache(lambda *files: choice(list(files), copy, kept, users))
        for i, m in enumerate(mutants):
            begin, tried, name = time.monotonic(), 0, room_of(m.file)
            reason = known.get((m.file, m.function, m.change), "")
            groups = in_turn(m.file, own[name], tests_by_import(m.file, copy))
            for files in groups[: 3 if near or reason else 4]:
                chosen = ready(*files)
                tests = chosen.tests(m.file, m.lines, m.on_import, most)
                outcome = attempt(m, tests, sum(chosen.seconds[t] for t in tests), copy, 10**9 + i, grace)
                tried += len(tests)
                if outcome in ("seen", "hangs"):
                    break
            outcome = "untested" if not tried else outcome if tests else "survives"
            seconds = round(time.monotonic() - begin, 2)
            print(f"{i + 1}/{number} {outcome} {seconds} s {m.file}:{m.line} {m.change}", file=sys.stderr, flush=True)
            why = reason if outcome in MISSED else ""
            yield Result(name, m.file, m.line, m.function, m.change, outcome, tried, seconds, why)
    gc.unfreeze()


def table(results: list[Result]) -> str:
    """Rooms with their shares, and what survived."""
    missed = [r for r in results if r.outcome in MISSED]
    lines = [f"{'room':24} mutants seen harmless share"]
    for room in [*sorted({r.room for r in results}), "all"]:
        own = [r for r in results if room in (r.room, "all")]
        bad, fine = sum(r in missed for r in own), sum(bool(r.reason) for r in own)
        share = (len(own) - bad) / max(len(own) - fine, 1)
        lines.append(f"{room:24} {len(own):7} {len(own) - bad:4} {fine:8} {share:5.0%}")
    outcomes = Counter(r.outcome for r in results)
    lines.append(
        ", ".join(f"{n} {what}" for what, n in sorted(outcomes.items())) + "; share: seen of those not harmless"
    )
    for r in missed:
        lines.append(f"{r.file}:{r.line} {r.function} {r.outcome} ({r.tests} tests): {r.change}")
        lines += [f"    harmless: {r.reason}"] if r.reason else []
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", help="a package or a module of the product, or all")
    parser.add_argument("--number", type=int, default=20, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=float, default=30.0, help="seconds of tests for a mutant")
    parser.add_argument("--near", action="store_true", help="leave out tests of other rooms: quicker, and sees less")
    parser.add_argument("--json", action="store_true", help="one line for each mutant in place of the table")
    args = parser.parse_args()
    if args.room != "all" and not (ROOT / args.room).exists():
        parser.error(f"{args.room} is no package or module; pipeline/osm, say, or all")
    if args.number < 1 or args.most <= 0:
        parser.error(f"--number {args.number} and --most {args.most:g} must be above 0")
    results = examine(args.room.rstrip("/"), args.number, args.seed, most=args.most, near=args.near)
    if args.json:
        for result in results:
            print(json.dumps(asdict(result)), flush=True)
    else:
        print(table(list(results)))


if __name__ == "__main__":
    main()

"""Which test runs which line: measured once for each file of tests, and again when a file that it used has changed."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import coverage
import pytest
from hypothesis import settings

#: Seconds of CPU that the tests of one file are measured for; those that come after are left out.
LONGEST = 30.0
#: Stands among the tests that run a line for the import of the modules, and what it calls.
IMPORT = ""
#: Tests from end to end, of whole builds where another room's module is looked at, or of other things than the code.
BUILDS = ("tests/driver/", "tests/cli/", "tests/demo/", "tests/mirror/")
SLOW = ("tests/real/", "tests/chaos/", "tests/mutants/", "tests/test_docs", "tests/test_contributing", "tests/hostile/")


def _cpu() -> float:
    """Seconds of this process and those that it has waited for; other users of the machine do not count."""
    return sum(os.times()[:4])


class Measure:
    """A pytest plugin that keeps lines, seconds and processes by test.

    What a fixture of a module or a session runs counts for all of the tests that use it.
    """

    def __init__(self, root: Path, longest: float = LONGEST) -> None:
        self.cov = coverage.Coverage(data_file=None, config_file=False, include=[f"{root}/*"], omit=[f"{root}/tests/*"])
        self.end = _cpu() + longest
        self.tests: dict[str, dict[str, Any]] = {}
        self.failed: set[str] = set()
        self.now = ""
        self.started = False
        sys.addaudithook(self._audit)

    def _audit(self, event: str, _: Any) -> None:
        self.started |= event in ("subprocess.Popen", "os.fork", "os.posix_spawn")

    def _switch(self, name: str) -> str:
        old, self.now = self.now, name
        self.cov.switch_context(name)
        return old

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        begin, self.started = _cpu(), False
        if begin > self.end:
            item.session.shouldstop = "measured for long enough"
            self.failed.add(item.nodeid)
        self._switch(item.nodeid)
        try:
            return (yield)
        finally:
            self._switch("")
            fixtures = getattr(item, "_fixtureinfo", None)
            defs = [d for some in getattr(fixtures, "name2fixturedefs", {}).values() for d in some]
            shared = [f"@{d.baseid}@{d.argname}" for d in defs if d.scope != "function"]
            seconds = round(_cpu() - begin, 3)
            self.tests[item.nodeid] = {"seconds": seconds, "shared": shared, "starts": self.started}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        shared = fixturedef.scope != "function"
        old = self._switch(f"@{fixturedef.baseid}@{fixturedef.argname}") if shared else self.now
        try:
            return (yield)
        finally:
            if shared:
                self._switch(old)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.failed.add(report.nodeid)

    def entry(self, root: Path) -> dict[str, Any]:
        """What was measured, as JSON has it."""
        data = self.cov.get_data()
        lines: dict[str, dict[int, list[str]]] = {}
        users = defaultdict(list, {"": [IMPORT]})
        tests = {name: test for name, test in self.tests.items() if name not in self.failed}
        for name, test in tests.items():
            for context in {name, *test["shared"]}:
                users[context].append(name)
        for file in data.measured_files():
            found = {
                line: sorted({name for context in contexts for name in users.get(context, ())})
                for line, contexts in data.contexts_by_lineno(file).items()
            }
            lines[Path(file).relative_to(root).as_posix()] = {line: names for line, names in found.items() if names}
        return {"tests": tests, "lines": lines, "files": {f: _digest(root / f) for f in _loaded(root)}}


def _loaded(root: Path) -> list[str]:
    """Files of the project that this process has imported."""
    files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    return sorted(f.removeprefix(f"{root}/") for f in files if f.startswith(f"{root}/"))


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def measure(file: str, root: Path, out: Path) -> int:
    """Run the tests of a file and write its entry; in a process of its own."""
    plugin = Measure(root)
    plugin.cov.start()
    settings.load_profile("measure")
    code = pytest.main([file, "-p", "no:cacheprovider", "-p", "no:xdist", "-q"], plugins=[plugin])
    plugin.cov.stop()
    entry = plugin.entry(root)
    entry["files"][file] = _digest(root / file)
    out.with_suffix(".tmp").write_text(json.dumps(entry))
    out.with_suffix(".tmp").replace(out)
    return int(code)


def entry_of(file: str, kept: Path, root: Path) -> dict[str, Any] | None:
    """The entry kept of a file of tests, unless something that it loaded has changed."""
    path = place(file, kept)
    entry = json.loads(path.read_bytes()) if path.exists() else None
    same = entry and all(_digest(root / name) == digest for name, digest in entry["files"].items())
    return entry if same else None


def place(file: str, kept: Path) -> Path:
    """Where the entry of a file of tests lies."""
    return kept / f"{file.replace('/', '.')}.json"


def tests_of(room: str, root: Path) -> list[str]:
    """Files of tests of a room: those of its folder, those named for it, and doctests in it; no end-to-end ones."""
    parts = Path(room).with_suffix("").parts
    folder = root / "tests" / Path(*parts[1:] if parts[0] == "pipeline" and len(parts) > 1 else parts)
    found = [*folder.rglob("test_*.py"), *(root / "tests").rglob(f"test_*{parts[-1]}*.py")]
    config = (root / "pyproject.toml").read_text() if (root / "pyproject.toml").exists() else ""
    if "--doctest-modules" in config and f'"{parts[0]}"' in config.partition("testpaths")[2].partition("]")[0]:
        found += [p for p in (root / room).rglob("*.py") if ">>> " in p.read_text()]
    return _quick(found, root)


def tests_by_import(module: str, root: Path) -> list[str]:
    """Files of tests that import a module themselves, without those of whole builds."""
    name, _, last = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".").rpartition(".")
    imported = re.compile(rf"from {re.escape(f'{name}.{last}'.strip('.'))} |from {re.escape(name)} .*\b{last}\b")
    found = _quick([p for p in (root / "tests").rglob("test_*.py") if imported.search(p.read_text())], root)
    return [file for file in found if not file.startswith(BUILDS)]


def _quick(found: list[Path], root: Path) -> list[str]:
    files = {p.relative_to(root).as_posix() for p in found}
    return sorted(f for f in files if not f.startswith(SLOW))


@dataclass(frozen=True)
class Choice:
    """Tests by line, over the files of tests of a room."""

    seconds: dict[str, float]
    starts: frozenset[str]  # those that start processes, which no line is known of
    lines: dict[str, dict[int, set[str]]]  # file to line to tests
    users: dict[str, list[str]]  # file to the files that import it

    @classmethod
    def of(cls, entries: Iterable[dict[str, Any]], users: dict[str, list[str]]) -> Choice:
        """Of what was measured of each file of tests."""
        seconds: dict[str, float] = {}
        starts: set[str] = set()
        lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for entry in entries:
            seconds |= {name: test["seconds"] for name, test in entry["tests"].items()}
            starts |= {name for name, test in entry["tests"].items() if test["starts"]}
            for file, found in entry["lines"].items():
                for line, names in found.items():
                    lines[file][int(line)].update(names)
        return cls(seconds, frozenset(starts), lines, users)

    def _touching(self, file: str) -> set[str]:
        return set().union(*self.lines.get(file, {}).values()) - {IMPORT}

    def tests(self, file: str, lines: range, on_import: bool, most: float) -> list[str]:
        """Tests that run one of the lines, quick ones first, file by file, of ``most`` seconds together.

        A line that runs on import, in a function or not, is of every test that runs the file or one that imports it.
        Tests that start processes may run any line: taken too are those beside tests that run the file, all where no
        test runs the line.
        """
        found = set().union(*(self.lines.get(file, {}).get(line, ()) for line in lines))
        if on_import or IMPORT in found:
            found.discard(IMPORT)
            found |= self._touching(file).union(*map(self._touching, self.users.get(file, ())))
        files = {name.partition("::")[0] for name in self._touching(file)}
        found |= {name for name in self.starts if not found or name.partition("::")[0] in files}
        order = list(self.seconds)
        totals: dict[str, float] = defaultdict(float)
        for name in found:
            totals[name.partition("::")[0]] += self.seconds[name]

        def rank(name: str) -> tuple[int, float, str, int]:
            own, path = self.seconds[name], name.partition("::")[0]
            return sum(own > s for s in (0.3, 2.0)), totals[path], path, order.index(name)

        chosen, spent = [], 0.0
        for name in sorted(found, key=rank):
            spent += self.seconds[name]
            if spent <= most or not chosen:
                chosen.append(name)
        return chosen

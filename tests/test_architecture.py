"""The laws of the house, read from the source: which room may import which, no circles, no crowded rooms."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("schemas", "geometry", "storage", "pipeline", "trainers", "dags")
STDLIB = frozenset(sys.stdlib_module_names)
#: What each room may import beside itself and the standard library; None: anything but what FORBIDDEN names.
ALLOWED: dict[str, frozenset[str] | None] = {
    "schemas": frozenset({"numpy", "pyarrow", "safetensors", "yaml"}),
    "geometry": frozenset({"numpy", "schemas"}),
    "storage": frozenset({"numpy", "pyarrow", "safetensors", "fsspec", "schemas"}),
    "pipeline": None,
    "trainers": None,
    "dags": frozenset({"airflow", "schemas", "storage"}),  # a step is a command: no room that does the work is imported
}
FORBIDDEN = {
    "schemas": {
        "torch",
        "ray",
        "osmium",
        "shapely",
        "rasterio",
        "pyproj",
        "duckdb",
        "fsspec",
        "geometry",
        "storage",
        "pipeline",
        "trainers",
        "dags",
    },
    "storage": {"torch", "ray", "geometry", "pipeline", "trainers", "dags"},
    "geometry": {"torch", "ray", "shapely", "storage", "pipeline", "trainers", "dags"},
    "pipeline": {"torch", "trainers", "dags"},
    "trainers": {"pipeline", "dags"},
    "dags": {"pipeline", "trainers"},
}
#: Floors of a room's own rooms, the lowest first: each imports only what lies below it, unless BESIDE says so.
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "pipeline": (
        ("formats", "net", "rules", "run", "alignment", "meridian", "times"),
        ("regions", "osm", "imagery", "streetview", "demo"),
        ("footprints", "tokens", "mirror"),
        ("catalog", "samples"),
        ("driver",),
        ("cli",),
    ),
    "trainers": (
        ("embed",),
        ("stream",),
        ("models",),
        ("engine",),
        ("encode", "evaluate", "export"),
        ("tasks",),
        ("start",),
        ("geolink", "gair", "joint"),
    ),
}
#: (who, whom) on one floor.
BESIDE: frozenset[tuple[str, str]] = frozenset()
#: Files of a room; one with more wants rooms of its own.
MOST_FILES = 15
#: Imports that run when a module of trainers is imported: all that a GPU box has.
HARD = frozenset(
    {"torch", "numpy", "pyarrow", "safetensors", "PIL", "yaml", "fsspec", "schemas", "storage", "geometry", "trainers"}
)


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def trees(*rooms: str) -> Iterator[tuple[str, ast.Module]]:
    for room in rooms:
        for path in sources(room):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(nodes: Iterator[ast.AST]) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:  # a relative import stays in its room
            yield node.lineno, (node.module or "").partition(".")[0]


def at_import_time(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that must run when the module is imported: no function bodies, no attempts, nothing for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Try) and any("ImportError" in ast.dump(h.type) for h in child.handlers if h.type):
            continue
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        yield child
        yield from at_import_time(child)


def dynamic_imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """``import_module("x.y")`` and ``__import__("x.y")``, which a plain look at imports would miss."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_design_allows(room: str) -> None:
    allowed = ALLOWED[room]
    found = []
    for name, tree in trees(room):
        hidden = ((line, module.partition(".")[0]) for line, module in dynamic_imports(tree))
        for line, package in [*imported(ast.walk(tree)), *hidden]:
            bad = package in FORBIDDEN[room]
            if allowed is not None:
                bad = bad or package not in allowed | {room} | STDLIB
            if bad:
                found.append(f"{name}:{line} imports {package}")
    assert not found


@pytest.mark.parametrize("room", ["schemas", "geometry", "storage", "pipeline", "trainers", "dags"])
def test_every_room_has_sources(room: str) -> None:
    """So that the laws here do not hold for want of a file."""
    assert sources(room)


@dataclass(frozen=True)
class House:
    """Modules of the product by dotted name, and what each imports of the others: (line, module)."""

    files: Mapping[str, str]  # path
    imports: Mapping[str, Sequence[tuple[int, str]]]

    @classmethod
    def of(cls, sources: Mapping[str, str]) -> House:
        """Of source text by path; imports inside functions count as others do."""
        files = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources}
        trees = {name: ast.parse(sources[path]) for name, path in files.items()}
        return cls(files, {name: list(imported_modules(tree, files)) for name, tree in trees.items()})

    def rooms(self, top: str) -> Iterator[tuple[str, str, str, str]]:
        """Room, room of what is imported (both inside ``top``), and where: path and line, module."""
        for name, found in self.imports.items():
            for line, module in found:
                if name.startswith(f"{top}.") and module.startswith(f"{top}."):
                    yield name.split(".")[1], module.split(".")[1], f"{self.files[name]}:{line}", module


def imported_modules(tree: ast.Module, known: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Line and module of every import of one of the modules ``known``, wherever it stands."""
    yield from ((line, module) for line, module in dynamic_imports(tree) if module in known)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"  # a module of a room, or a name in a module
                if whole in known or node.module in known:
                    yield node.lineno, whole if whole in known else node.module


def breaches(house: House, top: str) -> list[str]:
    """Imports between the rooms inside ``top`` that do not go down, and rooms that stand on no floor."""
    floor = {room: number for number, rooms in enumerate(FLOORS[top]) for room in rooms}
    homeless = {name.split(".")[1] for name in house.files if name.startswith(f"{top}.")} - floor.keys()
    found = [f"{top}/{room} stands on no floor; name it in FLOORS" for room in sorted(homeless)]
    for room, other, where, module in house.rooms(top):
        known = room != other and not homeless & {room, other}
        if known and floor[other] >= floor[room] and (room, other) not in BESIDE:
            found.append(f"{where}: {top}/{room} imports {module}, which does not lie below it")
    return found


def circles(house: House) -> list[list[str]]:
    """Modules that import one another, directly or not: the strongly connected components of more than one."""
    ahead = {name: {m for _, m in found if m != name} for name, found in house.imports.items()}
    reach = {name: _reachable(ahead, name) for name in ahead}
    groups = {frozenset(m for m in reach[name] if name in reach[m]) for name in ahead if name in reach[name]}
    return sorted(sorted(group) for group in groups)


def _reachable(ahead: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    left = list(ahead[start])
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += ahead[name]
    return seen


def crowded(house: House) -> list[str]:
    """Folders with more than MOST_FILES modules of their own; what only marks a package is none."""
    rooms = Counter(path.rpartition("/")[0] for path in house.files.values() if not path.endswith("/__init__.py"))
    return [f"{room} holds {count} modules, over {MOST_FILES}" for room, count in rooms.items() if count > MOST_FILES]


@pytest.fixture(scope="module")
def house() -> House:
    paths = [path for room in ROOMS for path in sources(room)]
    return House.of({path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths})


@pytest.mark.parametrize("top", sorted(FLOORS))
def test_rooms_inside_a_room_import_only_lower_floors(house: House, top: str) -> None:
    assert not breaches(house, top)


def test_no_module_imports_itself_by_way_of_others(house: House) -> None:
    assert not circles(house)


def test_no_room_is_crowded(house: House) -> None:
    assert not crowded(house)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("pipeline/osm/stage.py", "from pipeline.footprints.plan import Box"),  # up
        ("pipeline/osm/stage.py", "import pipeline.imagery.read"),  # a sibling
        ("pipeline/osm/stage.py", "from pipeline.imagery import read"),
        ("pipeline/osm/stage.py", "def f():\n    from pipeline.imagery.read import x"),
        ("pipeline/osm/stage.py", "import_module('pipeline.imagery.read')"),
        ("pipeline/alignment.py", "from pipeline.imagery.read import x"),  # a file among rooms
        ("pipeline/attic/old.py", "x = 1"),  # on no floor
    ],
)
def test_the_law_of_floors_sees_each_of_them(path: str, source: str) -> None:
    right = {
        "pipeline/osm/stage.py": "from pipeline import alignment\nfrom pipeline.osm.read import x",
        "pipeline/osm/read.py": "", "pipeline/imagery/read.py": "", "pipeline/alignment.py": "",
        "pipeline/footprints/plan.py": "from pipeline.imagery import read", "pipeline/__init__.py": "",
    }  # fmt: skip
    assert not breaches(House.of(right), "pipeline")
    assert len(breaches(House.of(right | {path: source}), "pipeline")) == 1


def test_the_law_of_circles_sees_short_and_long_ones_and_those_of_functions() -> None:
    files = {"dags/a.py": "import dags.b", "dags/b.py": "from dags import c", "dags/c.py": ""}
    assert not circles(House.of(files))
    assert circles(House.of(files | {"dags/b.py": "from dags.a import x"})) == [["dags.a", "dags.b"]]
    long = files | {"dags/c.py": "def f():\n    from dags.a import x"}
    assert circles(House.of(long)) == [["dags.a", "dags.b", "dags.c"]]


def test_the_law_of_crowds_counts_the_modules_of_a_folder_and_not_of_those_in_it() -> None:
    files = {f"dags/m{i}.py": "" for i in range(MOST_FILES)} | {"dags/__init__.py": "", "dags/room/m.py": ""}
    assert not crowded(House.of(files))
    assert len(crowded(House.of(files | {"dags/one_more.py": ""}))) == 1


def test_trainers_import_on_a_gpu_box() -> None:
    found = [
        f"{name}:{line} imports {package} when it is imported"
        for name, tree in trees("trainers")
        for line, package in imported(at_import_time(tree))
        if package not in HARD | STDLIB
    ]
    assert not found


@pytest.mark.parametrize("room", ["schemas", "geometry"])
def test_rooms_that_both_sides_share_open_nothing(room: str) -> None:
    found = []
    for name, tree in trees(room):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in ("open", "read_text", "read_bytes", "write_text", "write_bytes", "urlopen"):
                    found.append(f"{name}:{node.lineno} calls {called}")
    assert not found


def risks(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Everything that could run what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names}
            for _, package in imported(iter([node])):
                if names == {"UnpicklingError"}:  # to catch it is to refuse what it says
                    continue
                if package in ("pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"):
                    yield node.lineno, package
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                yield node.lineno, node.func.id
            text = ast.unparse(node.func)
            if text in ("os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "subprocess.getoutput"):
                yield node.lineno, text
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if (keyword.arg, value) in (("shell", True), ("allow_pickle", True), ("weights_only", False)):
                    yield node.lineno, f"{keyword.arg}={value}"


def test_no_file_can_make_us_run_what_it_says() -> None:
    found = [f"{name}:{line} uses {what}" for name, tree in trees(*ROOMS) for line, what in risks(tree)]
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "eval('1')", "exec(x)", "subprocess.run(x, shell=True)",
        "np.load(f, allow_pickle=True)",
        "torch.load(f, weights_only=False)", "os.system('ls')", "yaml.load(x)",
    ],
)  # fmt: skip
def test_the_look_for_risks_sees_each_of_them(source: str) -> None:
    assert list(risks(ast.parse(source)))
    assert not list(risks(ast.parse("model.eval()\nyaml.safe_load(x)\nsubprocess.run(x)")))


def test_the_look_for_imports_sees_lazy_and_hidden_ones() -> None:
    tree = ast.parse(
        "import a.b\nif TYPE_CHECKING:\n    import t\ndef f():\n    import c\n    importlib.import_module('d.e')\n"
        "try:\n    import g\nexcept ImportError:\n    pass"
    )
    assert {p for _, p in imported(ast.walk(tree))} == {"a", "t", "c", "g"}
    assert {m for _, m in dynamic_imports(tree)} == {"d.e"}
    assert {p for _, p in imported(at_import_time(tree))} == {"a"}

"""The law of the house: which room may import which, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
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
    "dags": None,
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
    "dags": set(),
}
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
    """``import_module("x")`` and ``__import__("x")``, which a plain look at imports would miss."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value.partition(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_design_allows(room: str) -> None:
    allowed = ALLOWED[room]
    found = []
    for name, tree in trees(room):
        for line, package in [*imported(ast.walk(tree)), *dynamic_imports(tree)]:
            bad = package in FORBIDDEN[room]
            if allowed is not None:
                bad = bad or package not in allowed | {room} | STDLIB
            if bad:
                found.append(f"{name}:{line} imports {package}")
    assert not found


@pytest.mark.parametrize("room", ["schemas", "geometry", "storage", "pipeline", "trainers"])
def test_every_room_has_sources(room: str) -> None:
    """So that the laws here do not hold for want of a file."""
    assert sources(room)


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
    assert {p for _, p in dynamic_imports(tree)} == {"d"}
    assert {p for _, p in imported(at_import_time(tree))} == {"a"}

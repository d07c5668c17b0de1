"""Small changes of a source text: cosmic-ray's operators, and two for what is lost between a rule and its user."""

from __future__ import annotations

import ast
import difflib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from parso.tree import NodeOrLeaf


@dataclass(frozen=True)
class Mutant:
    """A changed module: where, from what to what, its whole text, and the lines of the statement that holds it."""

    file: str
    line: int
    function: str
    change: str
    source: str
    lines: range
    on_import: bool  # runs when the module is imported, in no function


class _Own(Operator):
    """Changes ``node`` in one way: ``found`` gives what takes its place."""

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()

    def found(self, node: NodeOrLeaf) -> Iterator[NodeOrLeaf]:
        raise NotImplementedError

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Any]:
        return ((node.start_pos, node.end_pos) for _ in self.found(node))

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        return list(self.found(node))[index]


def _as(text: str, node: NodeOrLeaf) -> NodeOrLeaf:
    lead = node.get_first_leaf().prefix
    return get_ast(lead + text) if not lead.strip() else node


class LoseCall(_Own):
    """``f(x, y)`` becomes ``x``; a statement ``f(x)`` nothing."""

    def found(self, node: NodeOrLeaf) -> Iterator[NodeOrLeaf]:
        if node.type in ("atom_expr", "power") and node.children[-1].type == "trailer":
            inner = node.children[-1].children
            if inner[0].value != "(":
                return
            if node.parent.type == "simple_stmt":
                yield _as("...", node)
            elif len(inner) == 3:
                first = inner[1].children[0] if inner[1].type == "arglist" else inner[1]
                if first.type != "argument":
                    yield _as(f"({first.get_code(include_prefix=False)})", node)


class SwapNeighbours(_Own):
    """``f(a, b)`` becomes ``f(b, a)``, ``(a, b)`` becomes ``(b, a)``."""

    def found(self, node: NodeOrLeaf) -> Iterator[NodeOrLeaf]:
        if node.type not in ("arglist", "testlist_comp", "testlist_star_expr", "subscriptlist"):
            return
        parts = node.children[::2]
        if any(p.type == "sync_comp_for" for p in node.children):
            return
        for i, (a, b) in enumerate(pairwise(parts)):
            if "argument" not in (a.type, b.type) and a.get_code().strip() != b.get_code().strip():
                codes = [c.get_code() for c in node.children]
                codes[2 * i], codes[2 * i + 2] = " " + codes[2 * i + 2].strip(), " " + codes[2 * i].strip()
                yield _as("".join(codes).strip(), node)


@cache
def _operators() -> list[tuple[str, Any]]:
    """(family, operator) of all that need no arguments."""
    own = [(cls.__name__, cls()) for cls in (LoseCall, SwapNeighbours)]
    classes = [(name.rpartition("/")[2].split("_")[0], get_operator(name)) for name in operator_names()]
    return [(family, cls()) for family, cls in classes if not cls.arguments()] + own


class _Bare(ast.NodeTransformer):
    """Takes annotations and docstrings away: nothing runs by them."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                setattr(node, name, ast.Constant(None))
        return super().generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.Pass() if isinstance(node.value, ast.Constant) else self.generic_visit(node)


def _meaning(source: str) -> str | None:
    try:
        return ast.dump(_Bare().visit(ast.parse(source)))
    except (SyntaxError, ValueError):
        return None


@dataclass(frozen=True)
class _Statement:
    lines: range
    function: str
    on_import: bool
    outer: range  # of the statement of the module that holds it


def _statements(tree: ast.Module) -> dict[int, _Statement]:
    """Line of code to the innermost statement, or head of a statement, that it is of."""
    found: dict[int, _Statement] = {}

    def walk(body: list[ast.stmt], name: str, inside: bool, outer: range | None) -> None:
        for node in body:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            whole = range(first, (node.end_lineno or first) + 1)
            here = outer or whole
            block = [b for f in ("body", "handlers", "orelse", "finalbody", "cases") for b in getattr(node, f, [])]
            head = range(first, max(first + 1, min(b.pattern.lineno if isinstance(b, ast.match_case) else b.lineno
                                                   for b in block))) if block else whole  # fmt: skip
            silent = isinstance(node, (ast.Import, ast.ImportFrom)) or (
                isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            )
            if not silent:
                found.update(dict.fromkeys(head, _Statement(head, name or "<module>", not inside, here)))
            is_def = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            inner = f"{name}.{node.name}".lstrip(".") if is_def or isinstance(node, ast.ClassDef) else name
            for part in ("body", "handlers", "orelse", "finalbody", "cases"):
                for child in getattr(node, part, []):
                    if isinstance(child, ast.match_case):
                        walk(child.body, inner, inside, here)
                    else:
                        walk([child], inner, inside or is_def, here)

    walk(tree.body, "", False, None)
    return found


def code_lines(source: str) -> list[int]:
    """Lines that a change may be on: those of statements, without imports and docstrings."""
    return sorted(_statements(ast.parse(source)))


def _changed(old: str, new: str) -> str:
    """``- old + new`` in one line, of the lines that differ."""
    lines = list(difflib.ndiff(old.splitlines(), new.splitlines()))
    return " ".join(f"{s} {' '.join(line[2:].strip() for line in lines if line[0] == s)}" for s in "-+")


def mutant_on(file: str, source: str, line: int, rng: random.Random) -> Mutant | None:
    """One change on a line of code: an operator's family, then one of its changes; None where there is none."""
    where = _statements(ast.parse(source))[line]
    all_lines = source.splitlines(keepends=True)
    before, after = "".join(all_lines[: where.outer[0] - 1]), "".join(all_lines[where.outer[-1] :])
    chunk = "".join(all_lines[where.outer[0] - 1 : where.outer[-1]])
    families: dict[str, list[tuple[Any, int]]] = defaultdict(list)
    nodes = list(ast_nodes(get_ast(chunk)))
    for family, operator in _operators():
        starts = (start[0] for node in nodes for start, _ in operator.mutation_positions(node))
        for at, start in enumerate(starts):
            if start + where.outer[0] - 1 == line:
                families[family].append((operator, at))
    while families:
        family = rng.choice(sorted(families))
        operator, at = families[family].pop(rng.randrange(len(families[family])))
        if not families[family]:
            del families[family]
        new = mutate_code(chunk, operator, at)
        text = f"{before}{new}{after}"
        if new is not None and _meaning(text) not in (None, _meaning(source)):
            change = _changed(chunk, new)
            return Mutant(file, line, where.function, change, text, where.lines, where.on_import)
    return None

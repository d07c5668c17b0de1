"""The look for unguarded code, over a package of three lines."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.changes import code_lines, mutant_on
from tests.mutants.run import ROOT, Result, harmless, main, table

_CODE = '''"""A toy."""

from pathlib import Path


def limit() -> int:
    return 2


LIMIT = limit() + 1


def guarded(x: int | None) -> bool:
    """Under the limit."""
    return x < LIMIT


def unguarded(x: int) -> int:
    return x - 1


def waits(x: int) -> int:
    while x < LIMIT:
        x += 1
    return x
'''
_TESTS = """
from schemas.toy import guarded, unguarded, waits

def test_three_is_not_below_the_limit_and_two_is():
    assert guarded(2) and not guarded(3)

def test_runs():
    unguarded(1)

def test_ends_at_the_limit():
    assert waits(0) == 3
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    for name, text in (("schemas/toy.py", _CODE), ("tests/schemas/test_toy.py", _TESTS)):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    return root


def test_a_guarded_line_is_seen_also_one_that_runs_on_import_and_an_unguarded_one_survives(toy: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from tests.mutants.run import examine\n"
        "found = examine('schemas', 11, 0, root=Path(sys.argv[1]), grace=3)\n"
        "print(json.dumps([(r.function, r.outcome) for r in found]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(toy)], cwd=ROOT, text=True, capture_output=True, timeout=120, check=True
    )
    found: dict[str, set[str]] = {}
    for function, outcome in json.loads(done.stdout.splitlines()[-1]):
        found.setdefault(function, set()).add(outcome)
    assert found.pop("waits") <= {"seen", "hangs"}
    assert found == {"<module>": {"seen"}, "limit": {"seen"}, "guarded": {"seen"}, "unguarded": {"survives"}}
    assert (toy / "schemas/toy.py").read_text() == _CODE


def test_lines_of_code_are_those_of_statements_and_heads_without_imports_and_docstrings() -> None:
    assert code_lines(_CODE) == [6, 7, 10, 13, 15, 18, 19, 22, 23, 24, 25]


@pytest.mark.parametrize(
    ("source", "line", "changes"),
    [
        ("y = f(g(a), b)\n", 1, {"- y = f(g(a), b) + y = f((a), b)", "- y = f(g(a), b) + y = f(b, g(a))",
                                 "- y = f(g(a), b) + y = (g(a))"}),
        ("def f(x):\n    seen.add(x)\n", 2, {"- seen.add(x) + ..."}),
        ("def f(x: int | None) -> int | None: ...\n", 1, set()),  # nothing runs by an annotation
        ("ok = a and b\n", 1, {"- ok = a and b + ok = a or b"}),
    ],
)  # fmt: skip
def test_a_line_has_these_changes(source: str, line: int, changes: set[str]) -> None:
    found = [mutant_on("schemas/x.py", source, line, random.Random(seed)) for seed in range(40)]
    assert {m.change for m in found if m} == changes


@pytest.mark.parametrize(("option", "value"), [("--number", "0"), ("--number", "-1"), ("--most", "0")])
def test_a_draw_of_nothing_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["mutants", "schemas", option, value])
    with pytest.raises(SystemExit):
        main()
    assert "must be above 0" in capsys.readouterr().err.splitlines()[-1]


def test_a_harmless_survivor_is_named_by_its_text_and_leaves_the_share(tmp_path: Path) -> None:
    (tmp_path / "harmless.toml").write_text(
        '[[mutant]]\nfile = "schemas/x.py"\nfunction = "f"\nchange = "- a + b"\nreason = "the same"\n'
    )
    assert harmless(tmp_path / "harmless.toml") == {("schemas/x.py", "f", "- a + b"): "the same"}
    outcomes = (("seen", ""), ("survives", "the same"), ("hangs", ""), ("untested", ""))
    text = table([Result("schemas", "schemas/x.py", 1, "f", "- a + b", what, 3, 0.1, why) for what, why in outcomes])
    assert "schemas                        4    2        1   67%" in text
    assert "harmless: the same" in text

"""Damaged inputs at every door: no traceback, no crash, no hang, no memory without end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.damage import GOOD, Files, Target
from tests.fuzz.run import CORPUS, Fuzz, kind_of, outcome
from tests.fuzz.targets import TARGETS
from tests.fuzz.watch import watched

ROOT = Path(__file__).resolve().parents[2]
CASES = sorted(path.relative_to(CORPUS).as_posix() for path in CORPUS.glob("*/*"))


def test_damage_at_every_door_is_a_result_a_drop_or_one_line_that_names_the_file(tmp_path: Path) -> None:
    """`make fuzz` does the same for as long as it is told."""
    words = [sys.executable, "-m", "tests.fuzz.run", "--files", "24", "--keep", str(tmp_path), "--fewer"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    rows = {row.split()[0]: [int(n) for n in row.replace(",", "").split()[1:]] for row in done.stdout.splitlines()[2:]}
    assert rows.keys() == TARGETS.keys()
    for name, (files, _, read, dropped, refused, wrong) in rows.items():
        assert read + dropped + refused == files > 0 == wrong, name
        assert dropped + refused > 0, f"{name}: the damage is none"


@pytest.mark.parametrize("case", CASES)
def test_what_went_wrong_once_does_not_again(case: str) -> None:
    folder = CORPUS / case
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    target = TARGETS[case.partition("/")[0]]
    first = next(name for whole in target.inputs for name in whole if name in files)
    ends: list[str] = []
    watched(
        lambda judge: _once(judge, target, {first: files.pop(first), **files}),
        lambda _, result: ends.append(result),
        lambda why, _: ends.append(why),
    )
    assert set(ends) <= GOOD, ends


def _once(judge, target: Target, files: Files) -> None:
    judge(0, lambda _, folder: outcome(target, files, folder))


def _read_poison(path: Path) -> str:
    data = path.read_bytes()
    if b"!" in data:
        os.kill(os.getpid(), 9)
    if b"?" in data:
        raise ValueError("a question")
    return "read"


def test_a_finding_is_told_once_and_its_smallest_input_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = b"a" * 40 + b"?" + b"b" * 40

    def make(number: int) -> Files:
        return {"x.txt": whole if number % 3 == 1 else whole.replace(b"?", b"!" if number == 5 else b".")}

    monkeypatch.setitem(TARGETS, "poison", Target(lambda: [{"x.txt": whole}], _read_poison, make=make))
    fuzz = Fuzz("poison", tmp_path)
    fuzz.by_number(0, 9, float("inf"))
    fuzz.kept()
    assert fuzz.tally.ends == {"wrong": 4, "read": 5}
    kept = {path.read_bytes() for path in tmp_path.rglob("x.txt")}
    assert kept == {b"?", b"!"}
    assert capsys.readouterr().out.count("a question") == 1
    assert kind_of("ValueError: 5 of 'x' at a.py:1; b.py:22") == kind_of("ValueError: 17 of 'y' at c.py:2; b.py:22")

"""Damaged inputs at every door: no traceback, no crash, no hang, no memory without end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.damage import GOOD, Files, Target
from tests.fuzz.run import CORPUS, Fuzz, kind_of, main
from tests.fuzz.targets import NAMES, target_of

ROOT = Path(__file__).resolve().parents[2]
CASES = sorted(path.relative_to(CORPUS).as_posix() for path in CORPUS.glob("*/*"))


def test_damage_at_every_door_is_a_result_a_drop_or_one_line_that_names_the_file(tmp_path: Path) -> None:
    """`make fuzz` does the same for as long as it is told."""
    words = [sys.executable, "-m", "tests.fuzz.run", "--files", "24", "--keep", str(tmp_path), "--fewer"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    rows = {row.split()[0]: [int(n) for n in row.replace(",", "").split()[2:]] for row in done.stdout.splitlines()[2:]}
    assert tuple(rows) == NAMES
    for name, (files, read, dropped, refused, wrong) in rows.items():
        assert read + dropped + refused == files > 0 == wrong, name
        assert dropped + refused > 0, f"{name}: the damage is none"


@pytest.mark.parametrize("case", CASES)
def test_what_went_wrong_once_does_not_again(case: str, tmp_path: Path) -> None:
    folder = CORPUS / case
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    name = case.partition("/")[0]
    target = target_of(name)
    first = next(file for whole in target.inputs for file in whole if file in files)
    ends = Fuzz(name, target, tmp_path).ends_of({first: files.pop(first), **files})
    assert ends
    assert GOOD.issuperset(ends), ends


def _read_poison(path: Path) -> str:
    data = path.read_bytes()
    if b"!" in data:
        os.kill(os.getpid(), 9)
    if b"?" in data:
        raise ValueError("a question")
    return "read"


def test_a_finding_is_told_once_and_its_smallest_input_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = b"a" * 40 + b"?" + b"b" * 40

    def make(number: int) -> Files:
        return {"x.txt": whole if number % 3 == 1 else whole.replace(b"?", b"!" if number == 5 else b".")}

    fuzz = Fuzz("poison", Target(lambda: [{"x.txt": whole}], _read_poison, make=make), tmp_path)
    fuzz.by_number(0, 9, float("inf"))
    fuzz.kept()
    assert fuzz.tally.ends == {"wrong": 4, "read": 5}
    kept = {path.read_bytes() for path in tmp_path.rglob("x.txt")}
    assert kept == {b"?", b"!"}
    assert capsys.readouterr().out.count("a question") == 1
    assert kind_of("ValueError: 5 of 'x' at a.py:1; b.py:22") == kind_of("ValueError: 17 of 'y' at c.py:2; b.py:22")


def test_an_input_that_is_kept_shows_its_fault_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, seen = b"a" * 40 + b"?" + b"b" * 40, tmp_path / "seen"
    seen.mkdir()

    def read(path: Path) -> str:
        data = path.read_bytes()
        again = seen / data.hex()
        if b"?" in data and (data == whole or not again.exists()):  # what is smaller fails once
            again.touch()
            raise ValueError("a question")
        return "read"

    fuzz = Fuzz("moody", Target(lambda: [{"x.txt": whole}], read, make=lambda _: {"x.txt": whole}), tmp_path / "kept")
    fuzz.by_number(0, 1, float("inf"))
    fuzz.kept()
    assert [path.read_bytes() for path in (tmp_path / "kept").rglob("x.txt")] == [whole]
    assert "alone" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", ["nosuch", "keys --seconds 0", "keys --files 0", "keys --seconds nan", "keys --files -1",
              "keys times --seconds 1.5", "keys --first -1", "keys --workers 0"],
)  # fmt: skip
def test_a_wrong_word_is_one_line(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert capsys.readouterr().err.rstrip().count("error: ") == 1


def test_every_door_has_its_share_of_the_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["times", "keys", "--seconds", "2", "--first", "0", "--keep", str(tmp_path)]) == 0
    rows = [row.split() for row in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["times", "keys"]
    assert all(float(row[1]) >= 1 and int(row[2].replace(",", "")) > 0 for row in rows)

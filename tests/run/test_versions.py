"""The fingerprint of code: what a module imports, by Python's own word."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.run.versions import code_fingerprint, import_closure

_LOADED = """
import importlib, sys
importlib.import_module(sys.argv[1])
print("\\n".join(m for m in sys.modules if m.partition(".")[0] in ("schemas", "geometry", "storage", "pipeline")))
"""


@pytest.mark.parametrize("module", ["pipeline.samples.work", "pipeline.osm.cells.slabs", "pipeline.driver.shards"])
def test_the_closure_holds_every_module_that_python_loads(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", _LOADED, module], text=True, capture_output=True, check=True)
    assert set(done.stdout.split()) <= import_closure(module)


def test_what_decides_bytes_is_in_the_closure_and_what_does_not_is_out() -> None:
    work = import_closure("pipeline.samples.work")
    assert {"pipeline.alignment", "geometry.cover", "pipeline.formats.tar", "schemas.tokens"} <= work
    assert not {m for m in work if m.startswith(("pipeline.cli", "pipeline.driver", "pipeline.mirror"))}


def test_another_closure_has_another_fingerprint() -> None:
    one, two = code_fingerprint("pipeline.formats.tar"), code_fingerprint("pipeline.formats.wire")
    assert one != two
    assert code_fingerprint("pipeline.formats.tar") == one


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A source tree of its own, whose imports are of every form."""
    texts = {
        "pipeline/__init__.py": "", "pipeline/sub/__init__.py": "from storage import packed\n", "pipeline/sub/a.py": (
            "import numpy\nfrom geometry.lines import (\n    one,\n    two,  # and a word\n)\n"
            "import storage.plain as plain\nfrom schemas import names, other\n\n"
            "def late():\n    from pipeline.late import x\n    import geometry.later\n"
        ),
        "geometry/lines.py": "", "storage/plain.py": "", "storage/packed.py": "", "schemas/names.py": (
            "import pipeline.deep\n"
        ),
        "schemas/other.py": "", "pipeline/late.py": "", "geometry/later.py": "", "pipeline/deep.py": "",
        "pipeline/alone.py": "",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("pipeline.run.versions._ROOT", tmp_path)
    code_fingerprint.cache_clear()
    yield tmp_path
    code_fingerprint.cache_clear()


IMPORTED = {
    "pipeline", "pipeline.sub", "pipeline.sub.a", "geometry.lines", "storage.plain", "storage.packed", "schemas.names",
    "schemas.other", "pipeline.late", "geometry.later", "pipeline.deep",
}  # fmt: skip


def test_imports_of_every_form_are_followed(tree: Path) -> None:
    assert import_closure("pipeline.sub.a") == IMPORTED


def test_a_change_of_any_imported_module_and_of_no_other_is_another_fingerprint(tree: Path) -> None:
    before = code_fingerprint("pipeline.sub.a")
    for name in [*sorted(IMPORTED), "pipeline.alone"]:
        path = tree.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        text = path.read_text()
        path.write_text(text + "# changed\n")
        code_fingerprint.cache_clear()
        assert (code_fingerprint("pipeline.sub.a") != before) == (name in IMPORTED), name
        path.write_text(text)

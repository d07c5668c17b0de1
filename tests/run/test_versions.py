"""The fingerprint of code: what a module imports, by Python's own word."""

from __future__ import annotations

import subprocess
import sys

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

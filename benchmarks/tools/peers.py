"""Peers in environments of their own: made once, kept in the cache, left out with the reason where that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

_TOOLS = Path(__file__).resolve().parent

#: Puts DuckDB's spatial extension where DuckDB looks for it: below the home folder.
_SPATIAL = """
import importlib.util, pathlib, shutil, duckdb
package = pathlib.Path(importlib.util.find_spec("duckdb_extension_spatial").origin).parent
platform = duckdb.sql("PRAGMA platform").fetchone()[0]
target = pathlib.Path.home() / f".duckdb/extensions/v{duckdb.__version__}/{platform}"
target.mkdir(parents=True, exist_ok=True)
shutil.copy(package / f"extensions/v{duckdb.__version__}/spatial.duckdb_extension", target)
duckdb.sql("LOAD spatial")
"""


class PeerMissing(Exception):
    """A peer cannot be installed here; the text says why."""


def quackosm() -> tuple[Path, dict[str, str]]:
    """Python of QuackOSM's environment and the variables to run it with.

    Raises:
        PeerMissing: pip cannot install it.
    """
    requirements = _TOOLS / "quackosm.txt"
    cache = Path(os.environ.get("GEOSHARDS_CACHE") or _TOOLS.parents[1] / "data/cache")
    folder = cache / f"peer-quackosm-{sha256(requirements.read_bytes()).hexdigest()[:12]}"
    python, home = folder / "bin/python", folder / "home"
    variables = {**os.environ, "HOME": str(home)}
    variables.pop("PYTHONPATH", None)
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)]
        try:
            _run([sys.executable, "-m", "venv", str(folder)], dict(os.environ))
            _run(pip, dict(os.environ))
            home.mkdir()
            _run([str(python), "-c", _SPATIAL], variables)
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise PeerMissing(f"QuackOSM cannot be installed: {reason}") from None
        (folder / "made").touch()
    return python, variables


def _run(words: list[str], variables: dict[str, str]) -> None:
    subprocess.run(words, env=variables, check=True, capture_output=True, text=True)

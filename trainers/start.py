"""A trainer started by its file: in the project's environment, from any directory."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from trainers import ROOT


def start(name: str) -> NoReturn:
    """Run the trainer ``name`` on the words of the command line, and exit with its status."""
    own = ROOT / ".venv" / "bin" / "python"
    if find_spec("torch") is None and own.exists() and Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        # Started by its shebang outside of the project's environment, as `ray job submit` does.
        os.execv(own, [str(own), *sys.argv])
    from trainers.engine.cli import main

    sys.exit(main(getattr(import_module(f"trainers.tasks.{name}"), name.upper())))

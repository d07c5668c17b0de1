"""A trainer started by its file: in the project's environment, from any directory."""

import os
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from schemas.errors import is_short, shortage
from trainers import ROOT

_INTERRUPTED = "interrupted; run the same command again with resume=auto to go on"


def start(name: str) -> NoReturn:
    """Run the trainer ``name`` on the words of the command line, and exit with its status."""
    own = ROOT / ".venv" / "bin" / "python"
    if find_spec("torch") is None:
        if own.exists() and Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
            # Started by its shebang outside of the project's environment, as `ray job submit` does.
            os.execv(own, [str(own), *sys.argv])
        _end("the trainers need torch; pip install 'geoshards[train]' brings it")
    # Libraries make an error of their own, or nothing, of an interrupt while they are imported.
    before = signal.signal(signal.SIGINT, lambda *_: _end(_INTERRUPTED))
    try:
        from trainers.engine.cli import main

        task = getattr(import_module(f"trainers.tasks.{name}"), name.upper())
        signal.signal(signal.SIGINT, before)
        status = main(task)
    except KeyboardInterrupt:
        _end(_INTERRUPTED)
    except Exception as error:
        if not is_short(error):
            raise
        _end(str(shortage(error)))
    sys.exit(status)


def _end(reason: str) -> NoReturn:
    sys.stdout.flush()
    os.write(2, f"error: {reason}\n".encode())
    os._exit(1)

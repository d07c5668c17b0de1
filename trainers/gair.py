#!/usr/bin/env python3
"""``python trainers/gair.py data=DIR model=tiny steps=20``; ``--help`` lists the settings."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

if __name__ == "__main__":
    # This folder holds ``stream`` and ``models``; imports go by the repository root.
    root = Path(__file__).resolve().parent.parent
    own = root / ".venv" / "bin" / "python"
    if find_spec("torch") is None and own.exists() and Path(sys.prefix).resolve() != (root / ".venv").resolve():
        # Started by its shebang outside of the project's environment, as `ray job submit` does.
        os.execv(own, [str(own), *sys.argv])
    sys.path[0] = str(root)
    from trainers.engine.cli import main
    from trainers.engine.tasks import GAIR

    sys.exit(main(GAIR))

#!/usr/bin/env python3
"""``python trainers/gair.py data=DIR model=tiny steps=20``; ``--help`` lists the settings."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # This folder holds ``stream`` and ``models``; imports go by the repository root.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from trainers.engine.cli import main
    from trainers.engine.tasks import GAIR

    sys.exit(main(GAIR))

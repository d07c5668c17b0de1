#!/usr/bin/env python3
"""``python trainers/joint.py data=DIR model=tiny steps=20``; ``--help`` lists the settings."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # imports go by the repository root, not by this folder
    from trainers.start import start

    start("joint")

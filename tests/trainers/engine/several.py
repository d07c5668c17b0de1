"""Runs of the trainers one after another in one group of processes: starting a process takes longer than they do.

``python -m tests.trainers.engine.several RUNS DATA OUT CASES``; RUNS is a JSON list of [trainer, words of its command
line], CASES a JSON mapping of names to [trainer, words, gap], of which OUT/NAME.pt gets the gradients.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from tests.trainers.engine.tail import write_gradients
from trainers.engine import ranks
from trainers.engine.cli import main as train
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK
from trainers.tasks.joint import JOINT


def main(runs: str, data: str, out: str, cases: str) -> int:
    """Exit status: that of the first run that failed."""
    with ranks.process_group(torch.device("cpu")):
        for trainer, words in json.loads(runs):
            if status := train({"geolink": GEOLINK, "gair": GAIR, "joint": JOINT}[trainer], words):
                return status
        write_gradients(data, Path(out), json.loads(cases))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

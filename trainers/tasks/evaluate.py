"""``geoshards evaluate CKPT DIR``: a trained model measured as while it trained, on any split. No torch for help."""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from schemas.command import Command
from schemas.config import build, merge
from schemas.errors import ConfigError, DatasetError
from schemas.splits import SPLITS
from storage.store import Store

#: By the name that a checkpoint says: the module of the task.
_TASKS = ("geolink", "gair", "joint")


def evaluate(
    checkpoint: str, data: str, out: str, split: str = "val", overrides: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Measure the model of a checkpoint; ``evaluation.json`` and ``evaluation.html`` land in ``out``.

    Args:
        checkpoint: path or URL of checkpoint.pt or best.pt.
        data: dataset directory or URL, or several by commas.
        out: folder or URL.
        split: whose samples are measured.
        overrides: settings over those of the run, ``eval.samples=2048`` say.

    Returns:
        Scores by name, with ``step``.

    Raises:
        DatasetError: the checkpoint or a dataset cannot be used, or the split is empty.
    """
    import torch

    from trainers.embed.features import open_tag_table, require_tags, source_of
    from trainers.engine.checkpoint import load_checkpoint
    from trainers.engine.ranks import pick_device
    from trainers.engine.settings import Task
    from trainers.stream.datasets import parse_datasets

    if split not in SPLITS:
        raise ConfigError(f"--split={split}: choose of {', '.join(SPLITS)}")
    state = load_checkpoint(checkpoint)
    name = state["config"].get("task")
    if name not in _TASKS:
        raise DatasetError(f"{checkpoint} is a checkpoint of {name}; give one of {', '.join(_TASKS)}")
    task: Task = getattr(import_module(f"trainers.tasks.{name}"), name.upper())
    kept = {key: value for key, value in state["config"].items() if key not in ("task", "init")}  # weights are its own
    trained_with = state["stream"]["tags"]
    kept["stream"] = {**kept["stream"], "tags": source_of(kept["stream"]["tags"], trained_with)}
    settings = build(task.settings, merge(kept, (*overrides, f"eval.split={split}")))
    roots, view = parse_datasets(data).roots, task.view(settings)
    if view.osm:
        require_tags(open_tag_table(roots, view.tag_width, source=settings.stream.tags).identity, trained_with, data)
    device = pick_device(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    model = task.build(settings).to(device)
    model.load_state_dict(state["model"])
    report = task.evaluation(settings, roots, device)(model, True)
    if report is None:
        raise DatasetError(f"{data} has no sample of split {split} that {name} can be measured on; choose another")
    with tempfile.TemporaryDirectory(prefix="geoshards-") as folder:
        report.write(Path(folder), int(state["step"]))
        for file in sorted(Path(folder).iterdir()):
            Store(out).write(file.name, file.read_bytes())
    return {"step": int(state["step"]), **report.scores}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="checkpoint.pt or best.pt of a run, path or URL")
    parser.add_argument("dataset", help="dataset directory or URL, several by commas")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="over those of the run: eval.samples=2048")
    parser.add_argument("--split", default="val", help="train, val or test (default val)")
    parser.add_argument("--out", default="", help="folder or URL (default: evaluation-SPLIT beside the checkpoint)")


def _run(args: argparse.Namespace) -> int:
    out = args.out or f"{args.checkpoint.rpartition('/')[0] or '.'}/evaluation-{args.split}"
    scores = evaluate(args.checkpoint, args.dataset, out, args.split, tuple(args.settings))
    if args.json:
        print(json.dumps({"out": out, "split": args.split, "scores": scores}))
    elif not args.quiet:
        print("\n".join(f"{name}: {value:.4g}" for name, value in scores.items()))
        print(f"{out}/evaluation.html")
    return 0


COMMAND = Command("Measure a trained model on a split, as while it trained", _configure, _run)

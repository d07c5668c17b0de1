"""Whether a run has something to learn from, and something else to be measured on: asked before its first step."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.errors import ConfigError, DatasetError
from trainers.engine.settings import Task, TrainSettings
from trainers.stream.catalog.index import having
from trainers.stream.stream import GeoStream


def check_samples(task: Task, stream: GeoStream) -> None:
    """Refuse data without anything that the model looks at.

    Raises:
        DatasetError: names what is missing.
    """
    held = stream.held()
    if not held["images"] and not (stream.view.photos and held["photos"]):
        raise DatasetError(nothing_to_learn(task, stream))


def nothing_to_learn(task: Task, stream: GeoStream) -> str:
    """Why no loss has a sample, and what helps."""
    held = ", ".join(f"{count} have {word}" for word, count in stream.held().items())
    return (
        f"no loss has a sample, so nothing is learned: of {stream.samples} samples {held}, and {task.name} needs "
        f"{task.select}; leave out stream.select, or give data that has them"
    )


def check_splits(settings: TrainSettings, stream: GeoStream, roots: Sequence[str]) -> str:
    """What a run says of a validation split that it, or one of its datasets, has nothing of; empty: nothing.

    Raises:
        ConfigError: the run would measure on what it trains on; or it is told to measure, and there is nothing.
    """
    split = settings.eval.split
    if settings.eval.every == 0:
        return ""
    if seen := stream.in_split(split):
        raise ConfigError(
            f"eval.split={split}: {seen} of the {stream.samples} samples that are trained on lie in it; choose them "
            "with stream.split, leave split out of stream.select, or measure nothing: eval.every=0"
        )
    held = having(settings.stream.select or "", roots, split)
    lacking = [root for root in roots if root not in held]
    if len(lacking) < len(roots):
        return f"validation: {', '.join(lacking)} has no selected sample in split {split}" if lacking else ""
    why = f"no selected sample is in split {split}"
    if settings.eval.every:
        raise ConfigError(f"eval.every={settings.eval.every}, but {why}; choose another eval.split, or eval.every=0")
    return f"no validation: {why}"

"""Samples of one split as they are stored, in a fixed order: what evaluations read."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.engine.settings import TrainSettings
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import View
from trainers.stream.catalog.index import having
from trainers.stream.order import Place
from trainers.stream.stream import GeoStream, StreamSettings


def open_split(settings: TrainSettings, roots: Sequence[str], view: View, split: str, limit: int) -> GeoStream | None:
    """At most ``limit`` samples of a split, without augmentation, in this process alone; None where it is empty.

    Whatever a selection says, only samples of ``split`` are read; datasets without any are left out.

    Raises:
        GeoshardsError: a dataset cannot be read.
    """
    held = having(settings.stream.select or "", roots, split)
    if not held:
        return None
    reading = StreamSettings(
        select=settings.stream.select, split=split, limit=limit, shuffle="none", workers=0, tags=settings.stream.tags,
        tag_weight=settings.stream.tag_weight, key_counts=settings.stream.key_counts,
        augment=AugmentSettings(enabled=False),
    )  # fmt: skip
    return GeoStream(
        held, view, batch_size=settings.eval.batch_size, settings=reading, place=Place(rank=0, world=1, workers=0),
        tag_weight=settings.fidelity, within=True,
    )  # fmt: skip

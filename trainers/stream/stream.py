"""GeoStream: a dataset directory as an endless, resumable, rank-sharded sequence of batches.

The state is one small mapping; everything else is recomputed from it. Batches are made ahead by loader processes, but
only what was handed out counts as consumed.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from schemas.errors import ConfigError, DatasetError, GeoshardsError
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import TileBatch, View
from trainers.stream.index import load_index
from trainers.stream.load import BatchLoader, Request
from trainers.stream.order import Place, Shuffle, slots, steps_per_epoch
from trainers.stream.tagtable import TagWeight, open_tag_table

#: Slots after which a stream that is mostly corrupt is refused, however small the dataset.
_ENOUGH = 8


@dataclass(frozen=True)
class StreamSettings:
    """Which samples are read, in which order, by how many processes."""

    select: str | None = None  # SQL condition over the samples table, e.g. n_streetview > 0; none: what the model uses
    split: str = "train"  # train, val or test; a select that names split overrides it
    shuffle: Shuffle = "global"  # global: a new permutation an epoch; none: key order
    workers: int | None = None  # loader processes a rank; 0 reads in the training process; none: by the hardware
    prefetch: int = 2  # batches each loader process makes ahead
    start_method: str = "forkserver"  # how loader processes start: forkserver or spawn
    max_corrupt: int = 100  # unreadable samples before the run stops; each is masked and named
    tags: str = "auto"  # auto: the dataset's tags.safetensors, else hash; hash; or the path of a tag table
    tag_weight: TagWeight = "auto"  # ours: ln(1 + count of the key); paper, count; released, ln_count; auto: variant
    key_counts: str = ""  # JSON file of counts by key, e.g. GeoLink's; empty: those of the dataset
    augment: AugmentSettings = field(default_factory=AugmentSettings)


def place_from_environment(workers: int = 0) -> Place:
    """Rank and world of torch.distributed if it runs, else of the launcher's variables, else one process alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Place(rank=torch.distributed.get_rank(), world=torch.distributed.get_world_size(), workers=workers)
    return Place(rank=int(os.environ.get("RANK", 0)), world=int(os.environ.get("WORLD_SIZE", 1)), workers=workers)


class _Requests(Dataset[TileBatch]):
    """Adapts a BatchLoader to the loader's map-style interface."""

    def __init__(self, loader: BatchLoader) -> None:
        self._loader = loader

    def __getitem__(self, request: Request) -> TileBatch:
        return self._loader[request]


#: Seconds that a loader process outlives SIGTERM.
GRACE = 15


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)  # a loader process decodes; it must not compete with the training threads
    # Signals go to the whole group: the trainer finishes its step and saves while its loader processes live on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


class GeoStream:
    """Batches of one dataset.

    Iterating gives the rest of the current epoch; :meth:`batches` goes on over epochs. ``batch_size`` counts samples
    over all ranks and accumulation steps.

    Args:
        root: dataset directory or fsspec URL.
        view: what the model takes.
        batch_size: global samples an optimiser step.
        settings: selection, order, workers, augmentation.
        default_select: condition where the settings give none.
        seed, epoch: with the content and the selection they fix the order and every random draw.
        place: rank, world and workers; taken from the environment where None.
        accumulate: micro-batches a rank makes of its share of a global batch.
        pin_memory: whether batches come in page-locked memory.

    Raises:
        DatasetError: the dataset is incomplete, or nothing is selected.
        ConfigError: the batch cannot be divided, the selection or the key counts cannot be read, or the tag table
            has another width than the model.
    """

    def __init__(
        self,
        root: str,
        view: View,
        *,
        batch_size: int,
        settings: StreamSettings | None = None,
        default_select: str = "",
        seed: int = 0,
        epoch: int = 0,
        place: Place | None = None,
        accumulate: int = 1,
        pin_memory: bool = False,
        tag_weight: str = "ours",
    ) -> None:
        self.settings = settings = settings or StreamSettings()
        self.place = place or place_from_environment(settings.workers or 0)
        self.batch_size, self.accumulate, self.seed = batch_size, accumulate, seed
        self.parts = self.place.world * accumulate
        slots(batch_size, 0, self.parts)
        select = default_select if settings.select is None else settings.select
        self.index = load_index(root, select, settings.split)
        weighting = tag_weight if settings.tag_weight == "auto" else settings.tag_weight
        self.tags = None
        if view.osm:
            self.tags = open_tag_table([root], view.tag_width, weighting, settings.tags, settings.key_counts)
        self._loader = BatchLoader(
            self.index, view, self.tags, settings.augment,
            batch_size=batch_size, parts=self.parts, seed=seed, shuffle=settings.shuffle,
        )  # fmt: skip
        self._pin = pin_memory
        self.epoch, self.position = epoch, 0
        self.corrupt: list[str] = []
        self._seen = 0  # slots handed out by this object

    def __len__(self) -> int:
        """Micro-batches an epoch on this rank; the same on every rank."""
        return steps_per_epoch(len(self.index), self.batch_size) * self.accumulate

    @property
    def samples_seen(self) -> int:
        """Global samples consumed since epoch 0."""
        return self.epoch * len(self.index) + self.position

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``; a no-op in the epoch that a loaded state is in, so that it is not replayed."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as plain JSON values; the same on every rank."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.seed,
            "shuffle": self.settings.shuffle,
            "samples": len(self.index),
            "content_hash": self.index.content_hash,
            "layout_hash": self.index.layout_hash,
            "selection_hash": self.index.selection_hash,
            "tags": self.tags.identity if self.tags else "",
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where ``state`` stood.

        Raises:
            DatasetError: the state belongs to another dataset, selection, seed or order; the message names which.
        """
        mine = self.state_dict()
        names = ("content_hash", "layout_hash", "selection_hash", "samples", "seed", "shuffle", "tags")
        differ = [n for n in names if state.get(n) != mine[n]]
        if differ:
            shown = "; ".join(f"{n} was {state.get(n)}, is {mine[n]}" for n in differ)
            raise DatasetError(
                f"{self.index.root}: cannot go on, the saved order does not fit ({shown}); give the same data, "
                "stream.select, stream.split, stream.tags and seed, or start anew with another out=…"
            )
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def __iter__(self) -> Iterator[TileBatch]:
        return self.batches(until_epoch=self.epoch + 1)

    def batches(self, *, steps: int | None = None, until_epoch: int | None = None) -> Iterator[TileBatch]:
        """Micro-batches from here on: at most ``steps`` global batches, and none of ``until_epoch`` or later.

        The position moves when the last micro-batch of a global batch is handed out.
        """
        ahead = self._requests(steps, until_epoch)
        for request, batch in zip(self._requests(steps, until_epoch), self._load(ahead), strict=False):
            if request.part // self.place.world == self.accumulate - 1:
                self._advance(request)
            self._note(batch)
            yield batch

    def _requests(self, steps: int | None, until_epoch: int | None) -> Iterator[Request]:
        epoch, start, done = self.epoch, self.position, 0
        while (steps is None or done < steps) and (until_epoch is None or epoch < until_epoch):
            for micro in range(self.accumulate):
                yield Request(epoch, start, micro * self.place.world + self.place.rank)
            start += self.batch_size
            done += 1
            if start >= len(self.index):
                epoch, start = epoch + 1, 0

    def _load(self, requests: Iterator[Request]) -> Iterator[TileBatch]:
        workers = self.place.workers
        if not workers:
            for request in requests:
                batch = self._loader[request]
                yield batch.pin_memory() if self._pin else batch
            return
        if self.settings.start_method not in ("forkserver", "spawn"):
            raise ConfigError(f"stream.start_method={self.settings.start_method}: choose forkserver or spawn")
        loader: DataLoader[TileBatch] = DataLoader(
            _Requests(self._loader),
            batch_size=None,
            sampler=requests,  # any iterable of indices serves
            num_workers=workers,
            prefetch_factor=self.settings.prefetch,
            multiprocessing_context=self.settings.start_method,
            pin_memory=self._pin,
            worker_init_fn=_start_worker,
        )
        batches = iter(loader)
        try:
            yield from batches
            return
        except GeoshardsError as error:  # the loader puts a traceback into the message; its last line is the reason
            kind, reason = type(error), str(error).strip().splitlines()[-1]
            error.__traceback__ = None  # it holds the loader, and that its processes
        finally:
            del batches  # ends the loader processes
        raise kind(re.sub(r"^[\w.]+Error: ", "", reason))

    def _advance(self, request: Request) -> None:
        self.epoch, self.position = request.epoch, request.start + self.batch_size
        if self.position >= len(self.index):
            self.epoch, self.position = request.epoch + 1, 0

    def _note(self, batch: TileBatch) -> None:
        self.corrupt.extend(batch.corrupt)
        if len(self.corrupt) > self.settings.max_corrupt:
            raise DatasetError(
                f"{self.index.root}: {len(self.corrupt)} samples cannot be read, over stream.max_corrupt="
                f"{self.settings.max_corrupt}; the last is {self.corrupt[-1]}"
            )
        self._seen += len(batch.valid)
        if self._seen >= _ENOUGH and 2 * len(self.corrupt) > self._seen:
            raise DatasetError(
                f"{self.index.root}: {len(self.corrupt)} of the first {self._seen} samples cannot be read; the last is "
                f"{self.corrupt[-1]}"
            )

"""GeoStream: dataset directories as a resumable, rank-sharded sequence of batches.

The state is one small mapping; everything else is recomputed from it. Batches are made ahead by loader processes, but
only what was handed out counts as consumed.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import pairwise, tee
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from schemas.config import at_least, path, unknown_key
from schemas.errors import ConfigError, DatasetError, GeoshardsError, ResourceError, is_short, last_line, shortage
from schemas.index import SPLIT_CODES
from schemas.sample import OSM_TOKENS
from storage.ranges import CacheSettings
from trainers.embed.features import TagWeight, open_tag_table
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import TileBatch, View
from trainers.stream.catalog.index import load_index
from trainers.stream.datasets import Datasets, parse_datasets
from trainers.stream.load import BatchLoader
from trainers.stream.members.levels import read_statistics
from trainers.stream.members.read import Verify
from trainers.stream.neighbours import neighbour_rate, same_block_rate
from trainers.stream.order import Order, Place, Shuffle, slots, steps_per_epoch
from trainers.stream.sample import split_names
from trainers.stream.schedule import Request, Schedule
from trainers.stream.state import HASHES, check_state, source_state

#: Where the pixels of images are made; see trainers.stream.pixels.
Pixels = Literal["workers", "device"]
#: Slots after which a stream that is mostly corrupt is refused, however small the dataset.
_ENOUGH = 8
#: Pairs of samples that the share of neighbours is counted over.
_PAIRS = 1 << 24


@dataclass(frozen=True)
class StreamSettings:
    """Which samples are read, in which order, by how many processes."""

    select: str | None = None  # SQL condition over the samples table, e.g. n_streetview > 0; none: what the model uses
    split: str = "train"  # train, val or test; a select that names split overrides it
    limit: int | None = None  # read so many of the selected samples, chosen by a hash of the keys; none: all
    shuffle: Shuffle = "global"  # global; block: for object stores; spread, near: by neighbours on the ground; none
    block: int = 256  # shuffle=block: samples that are fetched together
    window: int = 16  # shuffle=block: blocks whose samples are mixed
    near: int = 4  # shuffle=near: neighbours on the ground that stay together in a batch
    workers: int | None = None  # loader processes a rank; 0 reads in the training process; none: by the hardware
    prefetch: int = 2  # batches each loader process makes ahead
    start_method: str = "forkserver"  # how loader processes start: forkserver or spawn
    pixels: Pixels = "workers"  # where images are scaled, turned and coloured: workers; or device, batched
    verify: Verify = "crc"  # bytes of samples against: crc, their CRC-32; sha256 of whole samples; none: as they are
    max_corrupt: int = 100  # unreadable samples before the run stops; each is masked and named
    cache: str = path(
        "auto", "auto", "none"
    )  # where ranges of remote shards are kept: auto: GEOSHARDS_CACHE/stream; none; or a folder
    cache_gb: float = 20.0  # most that the cache holds, for all processes of a machine together
    tags: str = path(
        "auto", "auto", "hash"
    )  # auto: the dataset's tags.safetensors, else hash; hash; or the path of a tag table
    tag_weight: TagWeight = "auto"  # ours: ln(1 + count of the key); paper, count; released, ln_count; auto: variant
    key_counts: str = path()  # JSON file of counts by key, e.g. GeoLink's; empty: those of the dataset
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        at_least(
            self, "stream.", limit=1, block=1, window=1, near=1, workers=0, prefetch=1, max_corrupt=0, cache_gb=0,
        )  # fmt: skip

    @property
    def order(self) -> Order:
        """How an epoch is shuffled."""
        return Order(shuffle=self.shuffle, block=self.block, window=self.window, near=self.near)


def place_from_environment(workers: int = 0) -> Place:
    """Rank and world of torch.distributed if it runs, else of Ray Train, else of the launcher's variables."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    elif "ray.train" in sys.modules:
        with suppress(RuntimeError):  # no training function runs
            context = sys.modules["ray.train"].get_context()
            rank, world = context.get_world_rank(), context.get_world_size()
    return Place(rank=rank, world=world, workers=workers)


#: Seconds that a loader process outlives SIGTERM.
GRACE = 15


def _start_worker(_worker: int, environment: Mapping[str, str]) -> None:
    gc.freeze()  # a collection would write to, and so copy, all pages that are shared with the fork server: 33 MB
    os.environ.update(environment)  # a fork server has that of its own start, perhaps without a store's credentials
    torch.set_num_threads(1)  # a loader process decodes; it must not compete with the training threads
    # Signals go to the whole group: the trainer finishes its step and saves while its loader processes live on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


def _started(loader: DataLoader[TileBatch]) -> Iterator[TileBatch]:
    """Its batches, from loader processes. An interrupt is for this process alone: one that imports what it needs would
    answer with a traceback."""
    served = isinstance(loader.multiprocessing_context, ForkServerContext)
    resource_tracker.ensure_running()  # its start unblocks what it had blocked itself
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what is started meanwhile inherits it
    try:
        if served:
            forkserver.ensure_running()
        else:
            return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return iter(loader)


def loader_fault(error: BaseException, workers: int) -> ResourceError | None:
    """What an error says of the ``workers`` loader processes and their machine, with the way out; None: nothing."""
    text, out = last_line(error), "read in the training process with stream.workers=0"
    if re.search(r"shared memory|\bshm\b|Bus error", text):
        with suppress(OSError):
            room = shutil.disk_usage("/dev/shm")
            text = f"/dev/shm has {room.total >> 20} MiB, {room.free >> 20} of them free"
        return ResourceError(
            f"loader processes hand batches over in shared memory, and there is too little ({text}); give more (docker "
            f"run --shm-size=8g), lower stream.prefetch or stream.workers={workers}, or {out}"
        )
    if is_short(error):
        return ResourceError(f"a loader process: {shortage(error)}; or lower stream.workers={workers}, or {out}")
    if isinstance(error, (EOFError, ConnectionError)) or text.startswith("DataLoader worker"):
        return ResourceError(
            f"a loader process has ended ({text}), killed by the system for its memory, say; go on with resume=auto "
            f"and less than stream.workers={workers}, or {out}"
        )
    return None


class GeoStream(IterableDataset[TileBatch]):
    """Batches of one dataset, of several as one, or of a mixture.

    Iterating gives the rest of the current epoch; :meth:`batches` goes on over epochs, or for so many steps.
    ``batch_size`` counts samples over all ranks and accumulation steps. It starts its own loader processes: a
    DataLoader around it takes ``batch_size=None`` and no workers.

    Args:
        datasets: dataset directory or URL; several in a list or joined by commas, read as one; a mapping to weights, or
            ``DIR:0.7,DIR2:0.3``: a mixture, which has no epoch and whose datasets each keep their own.
        view: what the model takes; an RGB image of 256 px and tokens where None.
        batch_size: global samples an optimiser step.
        settings: selection, order, workers, augmentation.
        seed, epoch: with the content and the selection they fix the order and every random draw.
        place: rank, world and workers; taken from the environment where None.
        accumulate: micro-batches a rank makes of its share of a global batch.
        pin_memory: whether batches come in page-locked memory.
        tag_weight: variant that the weights of tags are of where the settings leave it open.
        within: whether the split counts even where the selection names another.
        options: fields of StreamSettings by name, e.g. ``select="n_streetview > 0"``, ``num_workers=4``.

    Attributes: ``indexes``, one a dataset, ``tags``, ``epoch``, ``position``.

    Raises:
        DatasetError: a dataset is incomplete, nothing is selected, or two hold the same samples.
        ConfigError: the batch cannot be divided, the selection or the key counts cannot be read, an option is unknown,
            or the tag table has another width than the model.
    """

    def __init__(
        self,
        datasets: str | Path | Sequence[str | Path] | Mapping[str, float] | Datasets,
        view: View | None = None,
        *,
        batch_size: int,
        settings: StreamSettings | None = None,
        seed: int = 0,
        epoch: int = 0,
        place: Place | None = None,
        accumulate: int = 1,
        pin_memory: bool = False,
        tag_weight: str = "ours",
        within: bool = False,
        **options: Any,
    ) -> None:
        self.settings = settings = _with_options(settings or StreamSettings(), options)
        self.view = view = view or View(image_size=256, osm=("objects", "relations"))
        self.place = place or place_from_environment(settings.workers or 0)
        self.batch_size, self.accumulate, self.seed = batch_size, accumulate, seed
        self.parts = self.place.world * accumulate
        slots(batch_size, 0, self.parts)
        given = parse_datasets(datasets)
        reading = {"select": settings.select or "", "split": settings.split, "limit": settings.limit, "within": within}
        indexes = [load_index(root, **reading) for root in given.roots]  # type: ignore[arg-type]
        if given.weights is None:
            indexes.sort(key=lambda i: i.content_hash)  # as one dataset they are the same in any order
        same = [i.root for i, j in pairwise(indexes) if i.content_hash == j.content_hash]
        if same and given.weights is None:
            raise DatasetError(f"{same[0]} is given with a copy of itself; each sample would come twice")
        self.indexes = indexes
        weighting = tag_weight if settings.tag_weight == "auto" else settings.tag_weight
        self.tags = None
        if view.osm:
            roots = [i.root for i in indexes]
            self.tags = open_tag_table(roots, view.tag_width, weighting, settings.tags, settings.key_counts)
        self.schedule = Schedule(
            indexes, given.weights, settings.order, seed=seed, batch_size=batch_size, parts=self.parts
        )
        cache = CacheSettings(settings.cache, settings.cache_gb)
        if settings.pixels not in get_args(Pixels):
            raise ConfigError(f"stream.pixels={settings.pixels}: choose {' or '.join(get_args(Pixels))}")
        if settings.verify not in get_args(Verify):
            raise ConfigError(f"stream.verify={settings.verify}: choose {', '.join(get_args(Verify))}")
        on_device = settings.pixels == "device"
        known = [read_statistics(index.root, view.levels) for index in indexes]
        self._levels = "+".join(statistics.identity(view.bands) for statistics in known)
        self._loader = BatchLoader(
            indexes, self.schedule, view, self.tags, settings.augment, cache, on_device, known, settings.verify
        )
        self._pin = pin_memory
        self.epoch, self.position = epoch, 0
        self._corrupt: dict[str, str] = {}  # message of each sample that could not be read, once however often it comes
        self._seen = self._lost = 0  # slots handed out by this object, and those of them that could not be read

    def __len__(self) -> int:
        """Micro-batches an epoch on this rank; the same on every rank.

        Raises:
            ConfigError: a mixture has no epoch.
        """
        return steps_per_epoch(self.epoch_samples, self.batch_size) * self.accumulate

    @property
    def corrupt(self) -> list[str]:
        """A message a sample that could not be read."""
        return list(self._corrupt.values())

    @property
    def samples(self) -> int:
        """Selected samples of all datasets."""
        return sum(len(i) for i in self.indexes)

    @property
    def epoch_samples(self) -> int:
        """Samples of an epoch.

        Raises:
            ConfigError: a mixture has no epoch.
        """
        if self.schedule.count is None:
            raise ConfigError("a mixture has no epoch: say how long to read, with steps=N")
        return self.schedule.count

    @property
    def samples_seen(self) -> int:
        """Global samples consumed since epoch 0."""
        return self.epoch * (self.schedule.count or 0) + self.position

    @property
    def steps_per_epoch(self) -> int | None:
        """Global batches of an epoch; None in a mixture."""
        return None if self.schedule.count is None else steps_per_epoch(self.schedule.count, self.batch_size)

    def samples_in(self, steps: int | None, epochs: int | None) -> int:
        """Samples consumed since epoch 0 when so many more steps are done, or so many epochs are over."""
        if steps is None:
            return (epochs or 1) * self.epoch_samples
        if self.schedule.count is None:
            return self.position + steps * self.batch_size
        left = steps_per_epoch(self.epoch_samples - self.position, self.batch_size)
        if steps < left:
            return self.samples_seen + steps * self.batch_size
        whole, rest = divmod(steps - left, steps_per_epoch(self.epoch_samples, self.batch_size))
        return (self.epoch + 1 + whole) * self.epoch_samples + min(rest * self.batch_size, self.epoch_samples)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``; a no-op in the epoch that a loaded state is in, so that it is not replayed."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as plain JSON values; the same on every rank."""
        by_layout = self.settings.shuffle == "block"
        sources = [source_state(index, by_layout) for index in self.indexes]
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.seed,
            "order": self.schedule.order.text,
            "weights": None if self.schedule.mixture is None else self.schedule.mixture.share.tolist(),
            "tags": self.tags.identity if self.tags else "",
            "statistics": self._levels,
            **{name: "+".join(s[name] for s in sources) for name in HASHES},
            "samples": self.samples,
            "sources": sources,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where ``state`` stood.

        Raises:
            DatasetError: the state belongs to another dataset, split, selection, seed or order; the message names
                which, and the shard that changed.
        """
        check_state(state, self.state_dict(), self.indexes)
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def neighbours(self, km: float = 1.0, degrees: float = 0.1) -> tuple[float, float]:
        """Shares of the pairs within a batch that are neighbours: at most ``km`` apart, and in one block of ground.

        Counted over batches spread evenly over this epoch, or over as many samples of a mixture. ``degrees`` is the
        height of a block.
        """
        total = self.schedule.count or self.samples
        steps = max(1, total // self.batch_size)
        count = max(1, min(steps, 64, _PAIRS // self.batch_size**2))
        lonlat = np.full((count, self.batch_size, 2), np.nan)
        for t in range(count):
            start = t * steps // count * self.batch_size
            parts = [self.schedule.choose(Request(self.epoch, start, part)) for part in range(self.parts)]
            source, sample = (np.concatenate([getattr(p, name) for p in parts]) for name in ("source", "sample"))
            for i, index in enumerate(self.indexes):
                lonlat[t, source == i] = index.column("lonlat", sample[source == i])
        return neighbour_rate(lonlat, km), same_block_rate(lonlat, degrees)

    def __iter__(self) -> Iterator[TileBatch]:
        if get_worker_info() is not None:
            raise ConfigError("GeoStream starts its own loader processes: give it num_workers=…, the DataLoader none")
        return self.batches(until_epoch=None if self.schedule.count is None else self.epoch + 1)

    def batches(
        self, *, steps: int | None = None, until_epoch: int | None = None, until: int | None = None
    ) -> Iterator[TileBatch]:
        """Micro-batches from here on: at most ``steps`` global batches, none of ``until_epoch`` or later, and none once
        ``until`` global samples are consumed since epoch 0.

        The position moves when the last micro-batch of a global batch is handed out.
        """
        ahead = self._requests(steps, until_epoch, until)
        for request, batch in zip(self._requests(steps, until_epoch, until), self._load(ahead), strict=False):
            if request.part // self.place.world == self.accumulate - 1:
                self._advance(request)
            self._note(batch)
            yield batch

    def at(self, starts: Iterable[int]) -> Iterator[tuple[int, TileBatch]]:
        """The global batches of this epoch that begin at the positions ``starts``, each with its start; the position
        stays. Of several ranks each gets its part."""
        ahead, now = tee(starts)
        requests = (Request(self.epoch, start, self.place.rank) for start in ahead)
        for start, batch in zip(now, self._load(requests), strict=False):
            self._note(batch)
            yield start, batch

    def samples_at(self, start: int) -> NDArray[np.int64]:
        """Samples i64[K] of the first dataset that the batch of :meth:`at` at ``start`` holds, -1 where masked."""
        return self.schedule.choose(Request(self.epoch, start, self.place.rank)).sample

    def _requests(self, steps: int | None, until_epoch: int | None, until: int | None) -> Iterator[Request]:
        epoch, start, done, count = self.epoch, self.position, 0, self.schedule.count or 0
        while (steps is None or done < steps) and (until_epoch is None or epoch < until_epoch):
            if until is not None and epoch * count + start >= until:
                return
            for micro in range(self.accumulate):
                yield Request(epoch, start, micro * self.place.world + self.place.rank)
            start += self.batch_size
            done += 1
            if self.schedule.count is not None and start >= self.schedule.count:
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
        context = multiprocessing.get_context(self.settings.start_method)
        if isinstance(context, ForkServerContext):  # loader processes are forks of one that has imported this
            context.set_forkserver_preload(["__main__", "torch", __name__])
        loader: DataLoader[TileBatch] = DataLoader(
            self._loader,
            batch_size=None,
            sampler=requests,  # any iterable of indices serves
            num_workers=workers,
            prefetch_factor=self.settings.prefetch,
            multiprocessing_context=context,
            pin_memory=self._pin,
            worker_init_fn=partial(_start_worker, environment=dict(os.environ)),
        )
        batches = None
        try:
            batches = _started(loader)
            yield from batches
            return
        except GeoshardsError as error:  # the loader puts a traceback into the message; its last line is the reason
            error.__traceback__ = None  # it holds the loader, and that its processes
            fault: GeoshardsError = type(error)(last_line(error))
        except (RuntimeError, MemoryError, OSError, EOFError) as error:
            error.__traceback__ = None
            found = loader_fault(error, workers)
            if found is None:
                raise
            fault = found
        finally:
            del batches  # ends the loader processes
        raise fault

    def _advance(self, request: Request) -> None:
        self.epoch, self.position = request.epoch, request.start + self.batch_size
        if self.schedule.count is not None and self.position >= self.schedule.count:
            self.epoch, self.position = request.epoch + 1, 0

    def _note(self, batch: TileBatch) -> None:
        for message in batch.corrupt:
            self._corrupt.setdefault(self._sample_of(message), message)
        self._seen += len(batch.valid)
        self._lost += len(batch.corrupt)
        if len(self._corrupt) > self.settings.max_corrupt:
            raise DatasetError(
                f"{self._where}: {len(self._corrupt)} samples cannot be read, over stream.max_corrupt="
                f"{self.settings.max_corrupt}; the last is {self.corrupt[-1]}"
            )
        if self._seen >= _ENOUGH and 2 * self._lost > self._seen:
            raise DatasetError(
                f"{self._where}: {self._lost} of the first {self._seen} samples cannot be read; the last is "
                f"{self.corrupt[-1]}"
            )

    def _sample_of(self, message: str) -> str:
        """The dataset, where there are several, and the key that a message of the loader begins with."""
        root = next((i.root for i in self.indexes if len(self.indexes) > 1 and message.startswith(f"{i.root}: ")), "")
        return root + message[len(root) + 2 if root else 0 :].partition(": ")[0]

    def held(self) -> dict[str, int]:
        """Selected samples that have an image, objects, or a photo, by these words; read from the index alone."""
        found = {"images": 0, "objects": 0, "photos": 0}
        for index in self.indexes:
            counts = np.bincount(index.column("layout"), minlength=len(index.parts.layouts)).tolist()
            for names, count in zip(index.parts.layouts, counts, strict=True):
                images, photos = split_names(names)
                found["images"] += count if images else 0
                found["objects"] += count if OSM_TOKENS in names else 0
                found["photos"] += count if photos else 0
        return found

    def in_split(self, split: str) -> int:
        """Selected samples that lie in a split."""
        return sum(int((index.column("split") == SPLIT_CODES.index(split)).sum()) for index in self.indexes)

    @property
    def _where(self) -> str:
        return ", ".join(index.root for index in self.indexes)


def _with_options(settings: StreamSettings, options: Mapping[str, Any]) -> StreamSettings:
    """The settings with some fields replaced; ``num_workers`` is torch's name for ``workers``."""
    named = {"workers" if k == "num_workers" else k: v for k, v in options.items()}
    known = [f.name for f in fields(settings)]
    for name in named:
        if name not in known:
            raise ConfigError(unknown_key(name, known))
    return replace(settings, **named)

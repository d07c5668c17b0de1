"""One part of one global batch, from positions to a packed batch: a pure function, run in any process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch.utils.data import Dataset

from schemas.bands import RGB, channels
from schemas.errors import ConfigError, CorruptSampleError, DatasetError
from schemas.sample import JSON, OSM_TOKENS, image_infos
from schemas.tokens import OsmTokens
from storage.ranges import CacheSettings, Range
from trainers.embed.features import TagTable
from trainers.stream.augment import AugmentSettings, TileSample
from trainers.stream.batch import Slot, TileBatch, View, pack
from trainers.stream.catalog.index import Index
from trainers.stream.members.levels import BandStatistics
from trainers.stream.members.read import Members, ShardReader, Verify
from trainers.stream.sample import Decoder, Encoded, split_names
from trainers.stream.schedule import Chosen, Request, Schedule

#: Blocks whose ranges a process remembers.
_BLOCKS = 256


class BatchLoader(Dataset[TileBatch]):
    """Maps a :class:`Request` to a :class:`TileBatch`. Holds no state that changes an answer; safe to pickle."""

    def __init__(
        self,
        indexes: Sequence[Index],
        schedule: Schedule,
        view: View,
        tags: TagTable | None,
        augmentation: AugmentSettings,
        cache: CacheSettings | None = None,
        on_device: bool = False,
        statistics: Sequence[BandStatistics] = (),
        verify: Verify = "crc",
    ) -> None:
        self.indexes, self.schedule = list(indexes), schedule
        self.statistics = list(statistics) or [BandStatistics(index.root) for index in indexes]
        self.view, self.tags, self.decoder = view, tags, Decoder(view, augmentation, on_device)
        self._readers = [ShardReader(index, cache, verify) for index in indexes]
        self._blocks: dict[tuple[int, int], list[Range]] = {}

    def __getitem__(self, request: Request) -> TileBatch:
        chosen = self.schedule.choose(request)
        members = self._read(chosen)
        corrupt: list[str] = []
        held = [(i, m[OSM_TOKENS]) for i, m in enumerate(members) if isinstance(m, dict) and OSM_TOKENS in m]
        try:
            parsed = OsmTokens.from_buffers([data for _, data in held], self.view.osm)
        except ConfigError as error:  # a granularity that was not stored
            raise ConfigError(f"{', '.join(index.root for index in self.indexes)}: {error}") from None
        tokens = {i: t for (i, _), t in zip(held, parsed, strict=True)}
        slots = self._slots(chosen)
        shown = self._decode(chosen, members, tokens, slots)
        slots = [self._filled(slot, shown.get(i), corrupt) for i, slot in enumerate(slots)]
        batch = pack(slots, self.view, self.tags, chosen.weight, corrupt)
        for index in self.indexes:
            index.release()
        for pool in self.schedule.pools:
            pool.release()
        return batch

    def _read(self, chosen: Chosen) -> list[Members | CorruptSampleError | None]:
        """Members of each slot; None where it is masked."""
        found: list[Members | CorruptSampleError | None] = [None] * len(chosen.sample)
        for source in np.unique(chosen.source[chosen.source >= 0]).tolist():
            reader, rows = self._readers[source], np.flatnonzero(chosen.source == source)
            samples = chosen.sample[rows]
            wanted = [self._wanted(source, s, chosen.seed[i]) for s, i in zip(samples.tolist(), rows, strict=True)]
            whole = [] if reader.local else self._whole(source, chosen.place[rows])
            for i, members in zip(rows.tolist(), reader.read(samples, wanted, whole), strict=True):
                found[i] = members
        return found

    def _whole(self, source: int, places: np.ndarray) -> list[Range]:
        """Ranges of the blocks that hold ``places``."""
        found = []
        for block, samples in self.schedule.blocks(source, places):
            ranges = self._blocks.get((source, block))
            if ranges is None:
                every = [self._wanted(source, s, None) for s in samples.tolist()]
                ranges = self._readers[source].spans(samples, every)
                if len(self._blocks) >= _BLOCKS:
                    self._blocks.clear()
                self._blocks[source, block] = ranges
            found += ranges
        return found

    def _wanted(self, source: int, sample: int, seed: np.uint64 | None) -> tuple[str, ...]:
        """Members of a sample that are read at once; photos of local shards when it is known which are shown, unless
        all members are read anyway."""
        reader = self._readers[source]
        photos = not reader.local or reader.verify == "sha256"
        return self.decoder.wanted(self.indexes[source].names(sample), seed, photos)

    def _decode(
        self,
        chosen: Chosen,
        members: Sequence[Members | CorruptSampleError | None],
        tokens: Mapping[int, OsmTokens | CorruptSampleError],
        slots: Sequence[Slot],
    ) -> dict[int, TileSample | CorruptSampleError]:
        """What each slot that is not masked shows, or why it cannot."""
        found: dict[int, TileSample | CorruptSampleError] = {}
        sound: list[int] = []
        encoded: list[Encoded] = []
        for i, (data, own) in enumerate((m, tokens.get(i)) for i, m in enumerate(members)):
            source, sample = int(chosen.source[i]), int(chosen.sample[i])
            if isinstance(data, CorruptSampleError):
                found[i] = data
            elif isinstance(own, CorruptSampleError):
                found[i] = own
            elif data is not None:
                more = partial(self._readers[source].one, sample)
                index, known = self.indexes[source], self.statistics[source]
                where = f"{index.root}: {slots[i].key}"
                encoded.append(Encoded(index.names(sample), data, own, chosen.seed[i], more, where, known))
                sound.append(i)
        return found | dict(zip(sound, self.decoder.decode(encoded), strict=True))

    def _slots(self, chosen: Chosen) -> list[Slot]:
        """The slots before their samples are shown, with key and place."""
        found = [Slot("", -1, seed, np.zeros(2), np.zeros(4), np.ones(2), None) for seed in chosen.seed]
        for source in np.unique(chosen.source[chosen.source >= 0]).tolist():
            index, own = self.indexes[source], np.flatnonzero(chosen.source == source)
            samples = chosen.sample[own]
            columns = [index.column(name, samples) for name in ("lonlat", "bbox", "gsd")]
            keys = index.parts.keys(index.rows(samples))
            for i, key, lonlat, bbox, gsd in zip(own.tolist(), keys, *columns, strict=True):
                found[i] = Slot(key.decode(), source, chosen.seed[i], lonlat, bbox, gsd, None)
        return found

    def _filled(self, slot: Slot, shown: TileSample | CorruptSampleError | None, corrupt: list[str]) -> Slot:
        if isinstance(shown, CorruptSampleError):
            where = f"{self.indexes[slot.source].root}: " if len(self.indexes) > 1 else ""
            corrupt.append(f"{where}{slot.key}: {shown}")
            shown = None
        return replace(slot, sample=shown) if shown is not None else replace(slot, key="", source=-1)


def image_bands(index: Index) -> tuple[str, ...]:
    """Canonical names of the bands of a dataset, in the channel order of its first sample that has an image.

    Raises:
        DatasetError: none has one, or it cannot be read.
    """
    for sample in range(len(index)):
        images, _ = split_names(index.names(sample))
        if images:
            members = ShardReader(index).one(sample, [JSON])
            info = image_infos(bytes(members[JSON])).get(images[0]) if JSON in members else None
            return tuple(channels(info.names if info else RGB, f"{index.root}: {index.key(sample)}.{images[0]}"))
    raise DatasetError(f"{index.root} has no image among the selected samples; arch.bands=all needs one")

"""What the samples of a split say of themselves beside the pixels: read once a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from schemas.errors import CorruptSampleError
from schemas.sample import JSON, OSM_TOKENS, SampleMeta
from schemas.tokens import OsmTokens
from storage.ranges import CacheSettings
from trainers.stream.members.read import ShardReader
from trainers.stream.stream import GeoStream

#: Samples read at once.
_AT_ONCE = 64

Key = tuple[int, str]  # number of the dataset among those of the stream, key of the sample


def sizes(stream: GeoStream) -> dict[Key, tuple[float, float]]:
    """Metres from side to side along x and y, of the samples whose document can be read."""
    found = {}
    for part in _members(stream, JSON):
        for key, data in part:
            with suppress(CorruptSampleError):
                meta = SampleMeta.from_bytes(bytes(data))
                found[key] = (meta.footprint.width * meta.gsd[0], meta.footprint.height * meta.gsd[1])
    return found


def objects(stream: GeoStream) -> Iterator[tuple[Key, OsmTokens]]:
    """The objects of the samples whose tokens can be read."""
    for part in _members(stream, OSM_TOKENS):
        found = OsmTokens.from_buffers([data for _, data in part], ())
        yield from ((key, t) for (key, _), t in zip(part, found, strict=True) if isinstance(t, OsmTokens))


def _members(stream: GeoStream, name: str) -> Iterator[list[tuple[Key, bytes | memoryview]]]:
    """The member ``name`` of every sample that has it and can be read: the stream says of others what is wrong."""
    cache = CacheSettings(stream.settings.cache, stream.settings.cache_gb)
    for source, index in enumerate(stream.indexes):
        reader, keys = ShardReader(index, cache), index.keys()
        for first in range(0, len(keys), _AT_ONCE):
            samples = np.arange(first, min(len(keys), first + _AT_ONCE))
            held = zip(samples.tolist(), reader.read(samples, [[name]] * len(samples)), strict=True)
            yield [((source, keys[i]), m[name]) for i, m in held if not isinstance(m, CorruptSampleError) and name in m]

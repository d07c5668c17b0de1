"""A ``webdataset`` pipeline over the same shards, with the same decoding, for code that is built on webdataset.

It keeps none of the stream's laws: order, resume and ranks are webdataset's, which comes with the extra ``train``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigError, CorruptSampleError, DatasetError, DependencyError
from schemas.index import key_hashes
from schemas.sample import JSON, OSM_TOKENS, SampleMeta
from schemas.tokens import OsmTokens
from storage.urls import expand, is_local
from trainers.embed.features import TagTable
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import Slot, TileBatch, View, pack
from trainers.stream.catalog.index import load_index
from trainers.stream.members.levels import BandStatistics, read_statistics
from trainers.stream.members.read import Members
from trainers.stream.order import slot_seeds
from trainers.stream.sample import Decoder, Encoded


def wds_pipeline(
    root: str | Path,
    view: View,
    *,
    batch_size: int,
    tags: TagTable | None = None,
    augment: AugmentSettings | None = None,
    split: str = "train",
    shuffle: int = 1000,
    seed: int = 0,
    **options: Any,
) -> Any:
    """A ``webdataset.WebDataset`` of :class:`TileBatch`.

    Args:
        root: dataset directory on this machine.
        view: what the model takes.
        batch_size: samples a batch; the last is shorter.
        tags: features of tags, where the view takes tokens.
        augment: how samples are varied; as they are stored where None. Draws follow the key and ``seed``: each epoch
            shows the same, unless ``seed`` changes.
        split: samples of it are read, those of others skipped.
        shuffle: samples in webdataset's buffer; 0: none, and shards in their order.
        options: of ``webdataset.WebDataset``, e.g. ``nodesplitter``.

    Raises:
        DependencyError: webdataset is not installed.
        ConfigError: ``root`` is a URL.
        DatasetError: it holds no shard, or no sample of the split.
    """
    try:
        import webdataset
    except ImportError:
        raise DependencyError(
            "the webdataset pipeline needs webdataset; pip install 'geoshards[train]' brings it"
        ) from None
    if not is_local(str(root)):
        raise ConfigError(f"{root}: the webdataset pipeline reads local directories; GeoStream reads URLs")
    shards = sorted(str(p) for p in (Path(expand(root)) / "shards").glob("*.tar"))
    if not shards:
        raise DatasetError(f"{root}/shards holds no shard; give a dataset directory")
    given = {"shardshuffle": len(shards) if shuffle else False, "seed": seed, "empty_check": False} | options
    decoder = Decoder(view, augment or AugmentSettings(enabled=False))
    chosen = load_index(str(root), split=split).column("key_hash")
    dataset = webdataset.WebDataset(shards, **given).compose(partial(_of_split, chosen=chosen))
    if shuffle:
        dataset = dataset.shuffle(shuffle, seed=seed)
    known = read_statistics(str(root), view.levels)
    return dataset.batched(batch_size, collation_fn=partial(_batch, decoder=decoder, known=known, tags=tags, seed=seed))


def _of_split(
    samples: Iterable[dict[str, Any]], chosen: NDArray[np.uint64]
) -> Iterator[tuple[str, SampleMeta, Members]]:
    """Key, description and members of those samples whose key's hash is among ``chosen`` u64[n], which rise."""
    for held in samples:
        key = held["__key__"]
        own = key_hashes([key])[0]
        if own == chosen[min(np.searchsorted(chosen, own), len(chosen) - 1)]:
            meta = SampleMeta.from_bytes(held[JSON])
            yield key, meta, {n: memoryview(v) for n, v in held.items() if isinstance(v, bytes)}


def _batch(
    samples: list[tuple[str, SampleMeta, Members]],
    decoder: Decoder,
    known: BandStatistics,
    tags: TagTable | None,
    seed: int,
) -> TileBatch:
    words = [key.encode().ljust(8)[-8:] for key, *_ in samples]
    draws = slot_seeds(seed, np.frombuffer(b"".join(words), np.int64))
    encoded = []
    for (key, _, data), own in zip(samples, draws, strict=True):
        taken = {name: data[name] for name in decoder.wanted(tuple(data), own, True) if name in data}
        tokens = OsmTokens.from_bytes(taken[OSM_TOKENS], decoder.view.osm) if OSM_TOKENS in taken else None
        encoded.append(Encoded(tuple(data), taken, tokens, own, lambda _: {}, f"{known.root}: {key}", known))
    slots = []
    for (key, meta, _), own, shown in zip(samples, draws, decoder.decode(encoded), strict=True):
        if isinstance(shown, CorruptSampleError):
            raise CorruptSampleError(f"{key}: {shown}")
        slots.append(Slot(key, 0, own, np.array([meta.lon, meta.lat]), np.array(meta.bbox), np.array(meta.gsd), shown))
    return pack(slots, decoder.view, tags, 1.0, [])

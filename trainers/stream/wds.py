"""A ``webdataset`` pipeline over the same shards, with the same decoding, for code that is built on webdataset.

It keeps none of the stream's laws: order, resume and ranks are webdataset's. Needs ``pip install webdataset``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import ConfigError, DatasetError, DependencyError
from schemas.sample import JSON, OSM_TOKENS, SampleMeta
from schemas.tokens import OsmTokens
from trainers.stream.augment import AugmentSettings
from trainers.stream.batch import Slot, TileBatch, View, pack
from trainers.stream.order import slot_seeds
from trainers.stream.sample import Decoder
from trainers.stream.tagtable import TagTable


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
        DatasetError: it holds no shard.
    """
    try:
        import webdataset
    except ImportError:
        raise DependencyError("the webdataset pipeline needs webdataset: pip install webdataset") from None
    if "://" in str(root):
        raise ConfigError(f"{root}: the webdataset pipeline reads local directories; GeoStream reads URLs")
    shards = sorted(str(p) for p in (Path(root) / "shards").glob("*.tar"))
    if not shards:
        raise DatasetError(f"{root}/shards holds no shard; give a dataset directory")
    given = {"shardshuffle": len(shards) if shuffle else False, "seed": seed, "empty_check": False} | options
    slots = partial(_slots, decoder=Decoder(view, augment or AugmentSettings(enabled=False)), split=split, seed=seed)
    dataset = webdataset.WebDataset(shards, **given).compose(slots)
    if shuffle:
        dataset = dataset.shuffle(shuffle, seed=seed)
    return dataset.batched(batch_size, collation_fn=partial(_batch, view=view, tags=tags))


def _slots(samples: Iterable[dict[str, Any]], decoder: Decoder, split: str, seed: int) -> Iterator[Slot]:
    for held in samples:
        data = {name: memoryview(value) for name, value in held.items() if isinstance(value, bytes)}
        meta = SampleMeta.from_bytes(bytes(data[JSON]))
        if meta.split != split:
            continue
        key = str(held["__key__"])
        draws = slot_seeds(seed, np.frombuffer(key.encode().ljust(8)[-8:], np.int64))[0]
        names = tuple(data)
        taken = {name: data[name] for name in decoder.wanted(names, draws, True) if name in data}
        tokens = OsmTokens.from_bytes(bytes(taken[OSM_TOKENS])) if OSM_TOKENS in taken else None
        shown = decoder.decode(names, taken, tokens, draws, lambda _: {})
        place = np.array([meta.lon, meta.lat]), np.array(meta.bbox), np.array(meta.gsd)
        yield Slot(key, 0, draws, *place, shown)


def _batch(slots: list[Slot], view: View, tags: TagTable | None) -> TileBatch:
    return pack(slots, view, tags, 1.0, [])

"""A damaged dataset made whole: what is damaged goes, and the run that made it goes on."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace

from pipeline.driver.inputs import read_inputs
from pipeline.driver.shards import make_shards
from schemas.catalog import SHARDS_PER_FILE, catalog_file
from schemas.errors import DatasetError
from schemas.index import index_file
from storage.dataset import BEGUN, load_dataset, read_begun
from storage.locks import one_writer
from storage.manifest import MANIFEST
from storage.store import Store

#: Tables of a group of shards; the first marks it as folded.
_OF_A_GROUP = ("shards", "samples", "streetview", "drops")
#: What `Run` asks of a dataset that was begun, and what a repair must give again.
_IDENTITY = ("config", "sources", "footprints", "versions", "fingerprint")
_RESULT = ("name", "content_hash", "layout_hash")


def is_begun(store: Store) -> bool:
    """Whether a build or a repair of a dataset was stopped."""
    return not store.exists("dataset.json") and store.exists(BEGUN)


def repair(directory: str, files: Collection[str], workers: int = 0, cache: str = "", quiet: bool = False) -> None:
    """Build files of a dataset again, from the inputs that the cache knows; what is not of the dataset stays. A repair
    or a build that was stopped goes on.

    Args:
        directory: dataset.
        files: names in it, of files that are damaged or missing.
        workers: processes; 0: one a core.
        cache: of the run that made the dataset; empty: the default.
        quiet: no progress.

    Raises:
        DatasetError: dataset.json is damaged, or nothing is known of what the dataset was made from.
        GeoshardsError: an input is gone, or code or libraries are others than those that made it.
    """
    store = Store(directory)
    document = read_begun(store) if is_begun(store) else load_dataset(store)
    inputs = read_inputs(document.get("fingerprint"), cache)
    known = (*_IDENTITY, *_RESULT)
    with one_writer(store.root):
        store.write(BEGUN, json.dumps({n: document[n] for n in known if n in document}).encode())
        store.remove("dataset.json")  # until it is written again the dataset is not whole
        for name in _damaged(store, files):
            store.remove(name)
    paths = [inputs.base(n) for n in range(len(inputs.extracts))]
    config = replace(inputs.config, name=document.get("name", inputs.config.name), out=directory, workers=workers)
    made = make_shards(config, quiet, replace(inputs.region, extracts=paths)).document
    if any(made[name] != document.get(name, made[name]) for name in _RESULT):
        raise DatasetError(f"{directory} was built again, and is not what it was: an input has changed")


def _damaged(store: Store, files: Collection[str]) -> set[str]:
    """The files to remove, of each group of shards all tables if one of them must go."""
    gone = {name for name in files if name.startswith(("shards/", "catalog/"))} | {MANIFEST}
    every = bool(gone & {f"catalog/{table}" for table in _OF_A_GROUP})
    folded = store.names("catalog/shards")
    for name in folded:
        group = int(name.removeprefix("part-").removesuffix(".parquet"))
        own = {index_file(group), *(catalog_file(table, group) for table in _OF_A_GROUP)}
        tars = {f"shards/part-{n:07d}.tar" for n in range(group * SHARDS_PER_FILE, (group + 1) * SHARDS_PER_FILE)}
        if every or gone & (own | tars):
            gone |= own
    return gone.intersection(store.walk())

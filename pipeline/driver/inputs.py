"""What a dataset was made from, remembered in the cache for `geoshards update`.

The dataset itself holds no path of the machine that made it: `dataset.json` has a fingerprint, under which the cache
has the settings and files.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import shapely

from pipeline.driver.sources import Region
from pipeline.osm.stage import Features
from pipeline.samples.config import ShardsConfig
from schemas.config import build
from schemas.errors import DatasetError, InputError
from storage.files import file_sha256
from storage.nodes.copies import node_cache
from storage.nodes.held import held_name, is_held, local_copy
from storage.store import Store
from storage.urls import is_local, shared_cache


@dataclass(frozen=True)
class Inputs:
    """Settings, files and extracts of the run that made a dataset."""

    config: ShardsConfig
    region: Region
    extracts: list[dict[str, str]]  # name, sha256

    @property
    def given(self) -> dict[str, str]:
        """What was given as each extract, by its path in the cache: errors name the former."""
        kept = (str(_kept(self.config.cache, e["sha256"], e["name"])) for e in self.extracts)
        return dict(zip(kept, map(str, self.region.extracts), strict=True))

    def base(self, number: int) -> Path:
        """An extract as it was read: as kept in the cache, or where it lay; of what a bucket holds, a copy.

        Raises:
            InputError: none of them holds the same bytes any more.
        """
        name, digest = self.extracts[number]["name"], self.extracts[number]["sha256"]
        given = self.region.extracts[number]
        places = [_kept(self.config.cache, digest, name), given]
        if not is_local(self.config.cache):  # any machine may ask; the two above may be another's
            places.append(f"{shared_cache(self.config.cache)}/{held_name(digest, name)}")
        for place in places:
            if is_local(str(place)) or is_held(str(place)):
                path = local_copy(place)
                if path.is_file() and file_sha256(path) == digest:
                    return path
        raise InputError(
            f"extract {name} that the dataset was made from is gone: {given} has changed, and "
            "the cache does not keep it; give a newer extract instead of a change file"
        )


def keep_inputs(fingerprint: str, config: ShardsConfig, region: Region, features: Features | None) -> None:
    """Remember what the dataset of a fingerprint is made from; extracts are kept as hard links, which cost no space."""
    names, hashes = ([], []) if features is None else (features.names, features.hashes)
    extracts = [{"name": n, "sha256": h} for n, h in zip(names, hashes, strict=True)]
    for path, entry in zip(region.extracts, extracts, strict=True):
        if not isinstance(path, Path):
            continue  # the cache holds it
        kept = _kept(config.cache, entry["sha256"], entry["name"])
        with contextlib.suppress(OSError):  # another file system: the extract is looked for where it lay
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.link(path.resolve(), kept)
    settings = {k: v for k, v in asdict(config).items() if k not in ("out", "workers", "cache")}
    files = asdict(region) | {
        "extracts": [str(p.resolve() if isinstance(p, Path) else p) for p in region.extracts],
        "clip": None if region.clip is None else shapely.to_wkt(region.clip, rounding_precision=-1),
    }
    document = {"config": settings, "region": files, "extracts": extracts}
    store = Store(shared_cache(config.cache))
    store.write(_name(fingerprint), json.dumps(document, indent=1, sort_keys=True).encode())


def read_inputs(fingerprint: Any, cache: str) -> Inputs:
    """What ``keep_inputs`` remembered.

    Raises:
        DatasetError: nothing is remembered in that cache, or it cannot be read.
    """
    if not isinstance(fingerprint, str) or not fingerprint.isalnum():
        raise DatasetError("the dataset does not say what it was made from; build it again with `geoshards shards`")
    store = Store(shared_cache(cache))
    name = _name(fingerprint)
    if not store.exists(name):
        raise DatasetError(
            f"the cache {store.root} does not know what this dataset was made from; run where it was built, give that "
            "run's cache with --cache, or build the dataset again with `geoshards shards`"
        )
    try:
        document = json.loads(store.read(name))
        region = document["region"]
        region["extracts"] = [Path(p) if is_local(p) else p for p in region["extracts"]]
        region["clip"] = shapely.from_wkt(region["clip"]) if region["clip"] else None
        config = build(ShardsConfig, document["config"] | {"cache": cache})
        return Inputs(config, Region(**region), document["extracts"])
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{store.path(name)} cannot be read ({error!r}); build the dataset again") from None


def _name(fingerprint: str) -> str:
    return f"inputs/{fingerprint[:20]}.json"


def _kept(cache: str, digest: str, name: str) -> Path:
    return node_cache(cache) / "bases" / digest / name

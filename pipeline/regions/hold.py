"""Extracts of the web for a cluster: fetched once, by whichever node has the task, and held by the cache of all."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from hashlib import sha256

from pipeline.net.config import NetConfig, Refresh
from pipeline.regions.resolve import Extract, Selection, cached_extract, fetch
from schemas.errors import DatasetError
from storage.files import file_sha256
from storage.nodes.copies import scratch
from storage.nodes.held import Held, find_held, hold
from storage.store import Store


@dataclass(frozen=True)
class HoldJob:
    """An extract that all nodes are to have."""

    cache: str  # URL
    extract: Extract  # with its URL
    net: NetConfig
    refresh: Refresh


def hold_extract(job: HoldJob) -> Held:
    """The extract in the cache of all nodes, fetched unless it is there, or where what is newer is asked for.

    Raises:
        InputError: it cannot be had, or is no OSM file.
    """
    home, url = Store(job.cache), str(job.extract.url)
    note = f"extracts/{sha256(url.encode()).hexdigest()[:16]}.json"
    if job.refresh != "newer" and (found := _noted(home, note)) is not None:
        return found
    with scratch() as here:
        own = replace(job.extract, path=cached_extract(url, here))
        fetch(Selection("", [own]), job.net, job.refresh, quiet=True)
        digest = file_sha256(own.path)
        name = f"extracts/{digest[:20]}/{own.path.name}"
        held = hold(home, name, own.path, digest)
    home.write(note, json.dumps({"name": name}).encode())
    return held


def _noted(home: Store, note: str) -> Held | None:
    try:
        return find_held(home, str(json.loads(home.read(note))["name"]))
    except (DatasetError, ValueError, KeyError, TypeError):
        return None

"""``geoshards inspect DIR [KEY]``: what one sample holds, in words."""

from __future__ import annotations

import argparse
import difflib
import json
from collections import Counter
from typing import Any

from schemas.command import Command
from schemas.errors import DatasetError
from schemas.features import Kind
from schemas.relations import Relation
from schemas.sample import JSON, OSM_TOKENS, SampleMeta
from schemas.tokens import OsmTokens
from storage.dataset import load_dataset, read_catalog, read_samples, sample_rows
from storage.store import Store
from storage.text import visible


def describe(root: str, key: str) -> dict[str, Any]:
    """Members, place, objects, tags and relations of one sample.

    Raises:
        DatasetError: there is no such key; the message names a near one.
    """
    store = Store(root)
    rows = {r["key"]: r for r in sample_rows(store)}
    if key not in rows:
        near = difflib.get_close_matches(key, list(rows), 1)
        raise DatasetError(f"{root} has no sample {key!r}" + (f"; did you mean {near[0]}?" if near else ""))
    _, members = next(read_samples(store, [rows[key]]))
    meta = SampleMeta.from_bytes(members[JSON])
    result: dict[str, Any] = {
        "key": key, "shard": rows[key]["shard"], "members": {n: len(d) for n, d in members.items()}, "lon": meta.lon,
        "lat": meta.lat, "gsd": list(meta.gsd), "split": rows[key]["split"], "osm_edited": meta.osm_edited,
        "photos": [{"id": p.id, "x": p.x, "y": p.y, "heading": p.heading} for p in meta.streetview],
    }  # fmt: skip
    if OSM_TOKENS in members:
        tokens = OsmTokens.from_bytes(members[OSM_TOKENS])
        texts = dict(zip(*(read_catalog(store, "vocabulary")[c].to_pylist() for c in ("tag_id", "text")), strict=True))
        result["objects"] = dict(zip((k.name.lower() for k in Kind), tokens.counts(), strict=True))
        result["relations"] = {
            Relation(c).name.lower(): n for c, n in sorted(Counter(tokens.relation.tolist()).items())
        }
        counts = zip(tokens.region_tag_id.tolist(), tokens.region_count.tolist(), strict=True)
        result["tags"] = {texts.get(t, str(t)): n for t, n in sorted(counts, key=lambda p: (-p[1], p[0]))}
    return result


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="dataset directory or fsspec URL")
    parser.add_argument("key", nargs="?", help="sample key; without one, the dataset itself is described")


def _run(args: argparse.Namespace) -> int:
    found = describe(args.dataset, args.key) if args.key else load_dataset(Store(args.dataset))
    if args.json:
        print(json.dumps(found))
        return 0
    for name, value in found.items():
        inner = value if isinstance(value, dict) else {}
        print(f"{name}: {'' if inner else _text(value)}".rstrip())
        for k, v in list(inner.items())[:20]:
            print(f"  {visible(k)}: {_text(v)}")
        if len(inner) > 20:
            print(f"  … and {len(inner) - 20} more")
    return 0


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, list)) else visible(str(value))


COMMAND = Command("Show what a dataset or one of its samples holds", _configure, _run)

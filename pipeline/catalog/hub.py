"""Front matter of a dataset's card, by which the Hugging Face Hub and its package ``datasets`` read the shards.

Format: https://huggingface.co/docs/hub/datasets-cards and /datasets-manual-configuration. Features stand in it, as
``datasets`` otherwise guesses them from five samples, and fails at the first that has another member or value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from schemas.sample import JSON, SampleMeta

#: The one split of a dataset whose shards mix splits.
MIXED = "mixed"
#: Most shards that a card names one by one, to give each to its split.
_NAMED = 1000
#: Least number of samples of each size but the first (https://huggingface.co/docs/hub/datasets-cards).
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
#: Licences of the Hub by the names that sources use; any other is ``other``.
_LICENCES = {
    "odbl-1.0": "odbl", "odbl": "odbl", "pddl-1.0": "pddl", "odc-by-1.0": "odc-by", "cc0-1.0": "cc0-1.0",
    "cc-by-4.0": "cc-by-4.0", "cc-by-3.0": "cc-by-3.0", "cc-by-2.0": "cc-by-2.0", "cc-by-sa-4.0": "cc-by-sa-4.0",
    "cc-by-sa-3.0": "cc-by-sa-3.0", "cc-by-nc-4.0": "cc-by-nc-4.0", "cc-by-nc-sa-4.0": "cc-by-nc-sa-4.0",
    "etalab-2.0": "etalab-2.0", "mit": "mit", "apache-2.0": "apache-2.0",
}  # fmt: skip
_SCALARS = {str: "string", float: "float64", int: "int64", bool: "bool"}


@dataclass(frozen=True)
class Contents:
    """What the card says of the shards beside dataset.json."""

    members: Mapping[str, str]  # name of each member that a sample has, in tar order, and the type of an array's values
    shards: Sequence[tuple[str, str, int, int]]  # file, its split or MIXED, samples, bytes; in shard order


def splits_of(contents: Contents) -> dict[str, list[str]]:
    """Shards by split as ``datasets`` can tell them: by file. Where one shard mixes splits all are `MIXED`."""
    found: dict[str, list[str]] = {}
    for shard, split, _, _ in contents.shards:
        found.setdefault(split, []).append(f"shards/{shard}")
    if MIXED in found or len(contents.shards) > _NAMED:
        return {MIXED: ["shards/*.tar"]}
    return found


def front_matter(document: Mapping[str, Any], licences: Sequence[str], contents: Contents) -> str:
    """The YAML block, with its two lines of dashes.

    Args:
        document: dataset.json.
        licences: all of them.
        contents: of the shards.
    """
    known = sorted({_LICENCES.get(name.lower(), "other") for name in licences}) or ["unknown"]
    files = splits_of(contents)
    whole = MIXED in files
    splits = [
        {
            "name": split,
            "num_bytes": sum(size for _, own, _, size in contents.shards if whole or own == split),
            "num_examples": sum(count for _, own, count, _ in contents.shards if whole or own == split),
        }
        for split in files
    ]
    size = sum(document["samples"] >= 10**k for k in range(3, 10))
    said: dict[str, Any] = {"pretty_name": document["name"], "license": known if len(known) > 1 else known[0]}
    if "other" in known:
        said |= {"license_name": "several-see-attribution", "license_link": "ATTRIBUTION.md"}
    said |= {
        "size_categories": [_SIZES[size]],
        "tags": ["geospatial", "remote-sensing", "openstreetmap", "webdataset"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": name, "path": paths} for name, paths in files.items()]}
        ],
        "dataset_info": {
            "config_name": "default",
            "features": features(contents.members),
            "splits": splits,
            "download_size": document["bytes"],
            "dataset_size": document["bytes"],
        },
    }
    return f"---\n{yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=1000)}---\n"


def features(members: Mapping[str, str]) -> list[dict[str, Any]]:
    """Types of a sample as ``datasets`` reads it: pictures, bytes, arrays as lists, and the JSON document."""
    found = []
    for name, dtype in members.items():
        end = name.rpartition(".")[2]
        if name == JSON:
            found.append({"name": name, **_feature(SampleMeta)})
        elif end == "npy":
            found.append({"name": name, "list": {"list": {"list": dtype}}})
        else:
            found.append({"name": name, "dtype": "image" if end in ("jpg", "png") else "binary"})
    return [*found, {"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]


def _feature(kind: Any) -> dict[str, Any]:
    """A type of the JSON document: a class is a struct, a list or tuple a list of its first type; null is in each."""
    origin, inner = get_origin(kind), [a for a in get_args(kind) if a is not NoneType]
    if origin in (Union, UnionType):
        return _feature(inner[0])
    if origin in (list, tuple):
        of = _feature(inner[0])
        return {"list": of.get("dtype") or of.get("struct") or of}
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {"struct": [{"name": f.name, **_feature(hints[f.name])} for f in fields(kind)]}
    return {"dtype": _SCALARS[kind]}

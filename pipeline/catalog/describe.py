"""The documents of a dataset: dataset.json, README.md, ATTRIBUTION.md, croissant.json."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.croissant import croissant
from pipeline.catalog.hub import MIXED, Contents, front_matter, splits_of
from pipeline.formats.members import array_dtype
from schemas.catalog import COUNTS, SAMPLES, SCHEMA_VERSION, shard_name
from schemas.sample import layout_hash, member_order
from storage.dataset import read_catalog
from storage.manifest import write_manifest
from storage.store import Store
from storage.text import markdown

_MIXED_SPLITS = f"""
Shards follow the ground, not the splits, so `datasets` sees one split, `{MIXED}`. Which sample is in which says the
catalog (`key` and `split` of `catalog/samples`):

```py
import pyarrow.parquet as pq

split = dict(zip(*pq.read_table("catalog/samples", columns=["key", "split"]).to_pydict().values()))
train = whole["{MIXED}"].filter(lambda sample: split[sample["__key__"]] == "train")
```
"""
_PURE_SPLITS = """
Each shard holds samples of one split, so its splits are those of the catalog.
"""
#: Bytes of an array's file that hold its header.
_ARRAY_HEADER = 4096
#: Rows that are hashed at a time.
_ROWS = 1 << 16
_CREDIT = {
    "osm": "© OpenStreetMap contributors, https://www.openstreetmap.org/copyright. Tokens and class rasters are "
    "derived from OSM data: credit it wherever the dataset or what is made from it is "
    "shown, and share adapted data alike.",
}


def dataset_document(store: Store, name: str, identity: dict[str, Any]) -> dict[str, Any]:
    """The content of dataset.json, from the folded catalog; ``identity`` is what decided the dataset's bytes."""
    samples = read_catalog(store, "samples", set(SAMPLES.names) - {"key", "sha256", "split", *COUNTS})
    shards = read_catalog(store, "shards").sort_by("index")
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "content_hash": _content_hash(samples),
        "layout_hash": layout_hash(zip(shards["shard"].to_pylist(), shards["sha256"].to_pylist(), strict=True)),
        "samples": samples.num_rows,
        "shards": shards.num_rows,
        "bytes": int(sum(shards["bytes"].to_pylist())),
        "counts": {c: pc.sum(samples[c]).as_py() or 0 for c in COUNTS},
        "splits": dict(sorted((row["values"], row["counts"]) for row in samples["split"].value_counts().to_pylist())),
    } | identity


def _content_hash(samples: pa.Table) -> str:
    """`schemas.sample.content_hash` of a table, without its rows as objects."""
    ordered = samples.select(["key", "sha256"]).sort_by([("key", "ascending"), ("sha256", "ascending")])
    digest = sha256()
    for batch in ordered.to_batches(_ROWS):
        lines = pc.binary_join_element_wise(*batch.columns, " ").to_pylist()
        digest.update("".join(f"{line}\n" for line in lines).encode())
    return digest.hexdigest()


def fingerprint_of(identity: dict[str, Any]) -> str:
    """SHA-256 (hex) of what decides a dataset's bytes: its settings, sources, footprints and versions."""
    return sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def write_documents(store: Store, document: dict[str, Any]) -> None:
    """The four documents and the manifest; dataset.json last, as it says that the dataset is whole."""
    for name, text in described(store, document).items():
        store.write(name, text)
    shards = read_catalog(store, "shards")
    data = (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
    known = {f"shards/{n}": d for n, d in zip(*(shards[c].to_pylist() for c in ("shard", "sha256")), strict=True)}
    write_manifest(store, known | {"dataset.json": sha256(data).hexdigest()})
    store.write("dataset.json", data)


def described(store: Store, document: dict[str, Any]) -> dict[str, bytes]:
    """README.md, ATTRIBUTION.md and croissant.json of a dataset by its dataset.json and its catalog."""
    licences = sorted({x for row in read_catalog(store, "samples")["licences"].to_pylist() for x in row or ()})
    authors = sorted({a for a in read_catalog(store, "streetview")["author"].to_pylist() if a})
    classes = read_catalog(store, "classes").to_pylist()
    contents = read_contents(store)
    card = front_matter(document, licences, contents) + _card(document, licences, classes, MIXED in splits_of(contents))
    return {
        "README.md": card.encode(),
        "ATTRIBUTION.md": _attribution(document, licences, authors).encode(),
        "croissant.json": (json.dumps(croissant(document, licences), indent=1, sort_keys=True) + "\n").encode(),
    }


def read_contents(store: Store) -> Contents:
    """What the shards hold, by the catalog, a file of it at a time; of arrays the header of one is read."""
    members: dict[str, str] = {}
    splits: dict[str, str] = {}
    rest = set(SAMPLES.names) - {"shard", "split", "members"}
    for name in store.names("catalog/samples"):
        table = store.read_table(f"catalog/samples/{name}", rest).combine_chunks()
        for row in table.group_by("shard").aggregate([("split", "distinct")]).to_pylist():
            splits[row["shard"]] = row["split_distinct"][0] if len(row["split_distinct"]) == 1 else MIXED
        held, owner = pc.list_flatten(table["members"]).combine_chunks(), pc.list_parent_indices(table["members"])
        names = held.field("name")
        for member in pc.unique(names).to_pylist():
            if member not in members:
                at = pc.index(names, member).as_py()
                shard = table["shard"][owner[at].as_py()].as_py()
                start = held.field("offset")[at].as_py()
                end = start + min(held.field("size")[at].as_py(), _ARRAY_HEADER)
                array = member.endswith(".npy")
                members[member] = array_dtype(store.read_range(f"shards/{shard}", start, end), member) if array else ""
    rows = read_catalog(store, "shards").sort_by("index").select(["shard", "samples", "bytes"]).to_pylist()
    shards = [(r["shard"], splits[r["shard"]], r["samples"], r["bytes"]) for r in rows if r["shard"] in splits]
    return Contents({name: members[name] for name in sorted(members, key=member_order)}, shards)


def _card(d: dict[str, Any], licences: list[str], classes: list[dict[str, Any]], mixed: bool) -> str:
    c = d["counts"]
    splits = ", ".join(f"{k} {v:,}" for k, v in d["splits"].items())
    shards = shard_name(0).replace("0000000", f"{{0000000..{d['shards'] - 1:07d}}}")  # webdataset expands no asterisk
    return f"""# {markdown(d["name"])}

{d["samples"]:,} samples in {d["shards"]:,} WebDataset shards ({d["bytes"] / 1e6:,.1f} MB), made with geoshards.

| what | count |
|---|---|
| remote-sensing images | {c["n_rs"]:,} |
| OSM objects (points, lines, polygons) | {c["n_point"]:,}, {c["n_line"]:,}, {c["n_polygon"]:,} |
| relations between objects | {c["n_edges"]:,} |
| street-view photos | {c["n_streetview"]:,} |
| samples by split | {splits} |

- content hash `{d["content_hash"]}` (survives resharding)
- layout hash `{d["layout_hash"]}`
- licences: {", ".join(map(markdown, licences)) or "not stated"} (see ATTRIBUTION.md)

Any WebDataset reader reads it, here webdataset itself (`pip install webdataset`):

```python
import webdataset

for sample in webdataset.WebDataset("shards/{shards}.tar", shardshuffle=False):
    print(sample["__key__"], sorted(sample))
```

So does the package `datasets` of Hugging Face, with `streaming=True` or without; from a URL of the shards it takes the
types of this card:

```py
from pathlib import Path

from datasets import load_dataset, load_dataset_builder

folder = str(Path.cwd())  # that of this card, by a name: "." has none
whole = load_dataset(folder, streaming=True)
types = load_dataset_builder(folder).info.features
same = load_dataset("webdataset", data_files="shards/*.tar", features=types, streaming=True)
```
{_MIXED_SPLITS if mixed else _PURE_SPLITS}
The catalog is SQL tables:

```sh
geoshards query . "SELECT split, count(*) AS samples FROM samples GROUP BY split"
```
{_classes(classes)}"""


def _classes(classes: list[dict[str, Any]]) -> str:
    """What the pixels of the class raster mean; nothing without rasters."""
    if not classes:
        return ""
    rows = "\n".join(f"| {c['value']} | {markdown(c['name'])} | `{c['colour']}` |" for c in classes)
    return f"""
`osm.png` is a class raster of OSM at the size of the image: the value of a pixel is a number of this table, its colour
that of the PNG's palette. Tags, widths of lines and what covers the ground stand in `catalog/classes`. The built-in
rules paint what an image can show: nothing in tunnels, underground or indoors, nothing that is gone or only planned;
bridges and higher layers lie over what is below, and the sea to the right of the coastline is water.

| value | class | colour |
|---|---|---|
{rows}
"""


def _attribution(d: dict[str, Any], licences: list[str], authors: list[str]) -> str:
    unknown = "not stated; ask the provider before sharing"
    lines = ["# Attribution", "", "Sources of this dataset, each under its own licence:", ""]
    for s in d["sources"]:
        date = f", {s['date']}" if s.get("date") else ""
        name, licence = markdown(s["name"]), markdown(s.get("licence") or unknown)
        lines.append(f"- {s['kind']}: {name}{markdown(date)}. Licence: {licence}.")
    if any("ODbL" in x for x in licences):
        lines += ["", _CREDIT["osm"]]
    if authors:
        lines += ["", "Photos by: " + ", ".join(map(markdown, authors)) + "."]
    return "\n".join([*lines, "", "Photo by photo: `catalog/streetview` (author, licence).", ""])

"""Datasets: their files, members of samples, tokens, indexes; tag tables and checkpoints."""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import numpy as np
import torch

from pipeline.catalog.verify import find_problems
from pipeline.cli.inspect import describe
from pipeline.cli.preview import contact_sheet
from pipeline.cli.query import COMMAND as QUERY
from pipeline.cli.stats import write_statistics
from schemas.errors import CorruptSampleError, DatasetError
from schemas.index import IndexPart, index_file
from schemas.sample import JSON, OSM_TOKENS
from schemas.tokens import OsmTokens
from storage.dataset import sample_rows
from storage.manifest import MANIFEST, write_manifest
from storage.store import Store
from tests.fuzz.containers import by_array, by_list, by_picture, by_row, by_tar, by_tensor
from tests.fuzz.damage import Files, Rng, Target, best, by_bytes, by_value, ended, of_files, one_line
from tests.trainers import synthetic
from tests.trainers.synthetic import SyntheticSettings
from trainers.embed.table import EncoderInfo, open_table, write_table
from trainers.engine.checkpoint import KEYS, LAYOUT, load_checkpoint
from trainers.stream.batch import View
from trainers.stream.stream import GeoStream, StreamSettings

_FORMS = (
    SyntheticSettings(samples=2, size=32, photo_size=32),
    SyntheticSettings(samples=2, size=32, photo_size=32, form="npy", dtype="uint16", bands=("B4", "B3", "B2", "B8")),
    SyntheticSettings(samples=2, size=32, photo_size=32, form="png", photos=0),
)
_READING = (
    StreamSettings(workers=0, verify="sha256"), StreamSettings(workers=0, verify="none"),
    StreamSettings(workers=0, select="n_rs > 0"), StreamSettings(workers=0, tags="hash", shuffle="none"),
)  # fmt: skip
_SQL = "SELECT shard, count(*), max(lon) FROM samples GROUP BY shard"
_VIEW = View(image_size=32, osm=("objects", "relations", "patches", "region"), photos=2)


def by_kind(data: bytes, name: str, rng: Rng) -> bytes:
    """By the ending of a file."""
    ways: dict[str, Callable[[bytes, str, Rng], bytes]] = {
        "json": by_value, "safetensors": by_tensor, "parquet": by_row, "tar": by_tar, "sha256": by_list,
    }  # fmt: skip
    return ways.get(name.rpartition(".")[2], by_bytes)(data, name, rng)


def datasets() -> list[Files]:
    """Whole datasets of two samples."""
    made = []
    for settings in _FORMS[:2]:
        with TemporaryDirectory() as name:
            root = synthetic.write_dataset(Path(name) / "data", settings)
            write_manifest(Store(str(root)))
            files = {f"data/{p.relative_to(root)}": p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
        made.append({"data/dataset.json": files.pop("data/dataset.json"), **files})
    return made


def read_dataset(path: Path) -> str:
    """Verified, which names what is wrong, and read by the stream, which masks it; of two in three hashes say that
    nothing has changed.
    """
    root = path.parent
    os.environ["GEOSHARDS_CACHE"] = str(root.parent / "cache")
    own = crc32(b"".join(p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()))
    if own % 3:
        write_manifest(Store(str(root)))
    ends = set()
    with suppress(DatasetError):  # dataset.json is gone
        found = find_problems(str(root))
        assert all("\n" not in str(p) for p in found), found
        ends.add("dropped" if found else "read")

    def streamed() -> str:
        stream = GeoStream(str(root), _VIEW, batch_size=2, settings=_READING[own % len(_READING)])
        batches = list(stream)
        assert batches
        return "dropped" if stream.corrupt else "read"

    return ended(streamed, _known)


def _known(text: str) -> bool:
    return any(word in text for word in ("data", "corrupt", "stream.", "member", "osm.safetensors", "DuckDB", MANIFEST))


def read_by_commands(path: Path) -> str:
    """As `geoshards inspect`, `preview`, `query` and `stats` do."""
    root = str(path.parent)

    def inspected() -> str:
        for row in sample_rows(Store(root)):
            describe(root, row["key"])
        return "read"

    def shown() -> str:
        return "read" if contact_sheet(root, 2, 2, 64).size[0] else "dropped"

    def queried() -> str:
        words = argparse.Namespace(dataset=root, sql=_SQL, unsafe=False, json=True, csv=False)
        with redirect_stdout(io.StringIO()):
            QUERY.run(words)
        return "read"

    def measured() -> str:
        return "read" if write_statistics(root, "all", 1).num_rows else "dropped"

    ends = {ended(read, _known) for read in (inspected, shown, queried, measured)}
    return "refused" if "refused" in ends else best(ends)


@cache
def _whole_samples() -> list[tuple[Any, dict[str, bytes], OsmTokens]]:
    return [synthetic.make_sample(index, settings) for settings in _FORMS for index in (0, 1)]


def members() -> list[Files]:
    """Members of one sample each: what stands in its tar."""
    return [{JSON: made[JSON], **{n: d for n, d in made.items() if n != JSON}} for _, made, _ in _whole_samples()]


def by_member(data: bytes, name: str, rng: Rng) -> bytes:
    """By what it is."""
    if name == JSON:
        return by_value(data, "a.json", rng)
    if name.endswith(".npy"):
        return by_array(data, name, rng)
    return by_tensor(data, name, rng) if name == OSM_TOKENS else by_picture(data, name, rng)


def read_members(path: Path) -> str:
    """As a dataset whose catalog names these bytes: verified and streamed, and by the commands that show it."""
    data = {p.name: p.read_bytes() for p in sorted(path.parent.iterdir())}
    images = {name for name in data if name.startswith("rs.")}
    meta, _, tokens = next(s for s in _whole_samples() if images <= s[1].keys() and len(s[1]) == len(data))
    root = path.parent / "data"
    synthetic.write_samples(root, [[(meta, data, tokens)]], _FORMS[0])
    read_by_commands(root / "dataset.json")
    return read_dataset(root / "dataset.json")


def read_tokens(path: Path) -> str:
    """Parsed; what holds its laws is written as it was."""
    try:
        tokens = OsmTokens.from_bytes(path.read_bytes())
    except CorruptSampleError as error:
        one_line(error)
        return "refused"
    assert OsmTokens.from_bytes(tokens.to_bytes()).to_bytes() == tokens.to_bytes()
    assert sum(tokens.counts()) == len(tokens) == len(tokens.tag_offsets) - 1
    return "read"


def indexes() -> list[Files]:
    """An index of the catalog."""
    with TemporaryDirectory() as name:
        return [{"i.safetensors": (synthetic.write_dataset(Path(name), _FORMS[0]) / index_file(0)).read_bytes()}]


def read_index(path: Path) -> str:
    """Its arrays, none of which leads out of another."""
    data = path.read_bytes()

    def found() -> str:
        part = IndexPart.from_buffer(data, str(path))
        return "read" if len(part) else "dropped"

    return ended(found, of_files(path))


def tag_tables() -> list[Files]:
    """A tag embedding table."""
    with TemporaryDirectory() as name:
        path = Path(name) / "tags.safetensors"
        about = EncoderInfo("hash", "hash", "", "mean", True, 8, 16, "x 1")
        facts = {"vocabulary": "v", "content_hash": "c"}
        write_table(str(path), np.arange(5), about, facts, [np.ones((5, 8), np.float16)])
        return [{"tags.safetensors": path.read_bytes()}]


def read_tags(path: Path) -> str:
    """Rows of known and unknown tags."""

    def found() -> str:
        table = open_table(str(path))
        assert table is not None
        table.rows(np.array([0, 3, 99]))
        return "read" if sum(map(len, table.chunks(2))) else "dropped"

    return ended(found, of_files(path))


def checkpoints() -> list[Files]:
    """A trainer's."""
    state: dict[str, Any] = {key: {} for key in KEYS}
    state |= {"model": {"w": torch.ones(3, 4)}, "version": {"layout": LAYOUT}, "step": 3}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return [{"checkpoint.pt": buffer.getvalue()}]


def read_checkpoint(path: Path) -> str:
    """Tensors and plain values."""
    return ended(lambda: "read" if load_checkpoint(path) else "dropped", of_files(path))


def tokens_alone() -> list[Files]:
    """Tokens of each synthetic sample, and of one without objects."""
    made = [tokens for _, _, tokens in _whole_samples()]
    return [{"osm.safetensors": tokens.to_bytes()} for tokens in made]


TARGETS = {
    "dataset": Target(datasets, read_dataset, by_kind, cost=8),
    "commands": Target(datasets, read_by_commands, by_kind, cost=4),
    "members": Target(members, read_members, by_member, cost=4),
    "tokens": Target(tokens_alone, read_tokens, by_tensor), "index": Target(indexes, read_index, by_tensor),
    "tags": Target(tag_tables, read_tags, by_tensor), "checkpoint": Target(checkpoints, read_checkpoint),
}  # fmt: skip

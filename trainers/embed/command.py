"""``geoshards embed DIR --encoder …``: the tag embedding table of a dataset. No torch until an encoder needs it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.command import Command
from schemas.errors import DatasetError, InputError
from storage.dataset import load_dataset
from storage.locks import one_writer
from storage.manifest import amend_manifest
from storage.progress import Progress
from storage.store import Store
from trainers.embed.encoders import ENCODERS, Encoder, make_encoder
from trainers.embed.table import FILE_NAME, open_table, table_path, write_table
from trainers.embed.vocabulary import read_vocabulary

#: Rows whose vectors are in memory at a time: 100 MB at 768 features.
CHUNK = 1 << 16


@dataclass
class Work:
    """An encoder at work on a vocabulary; counts what it does.

    Attributes: ``encoded`` texts so far, ``cut`` texts over the encoder's length.
    """

    encoder: Encoder
    total: int
    quiet: bool
    encoded: int = 0
    cut: int = 0

    def __post_init__(self) -> None:
        self.progress = Progress("embed", self.total, "rows", self.quiet)

    def vectors(self, texts: Sequence[str]) -> Iterator[NDArray[np.float16]]:
        """f16[k,D] chunk by chunk, row by row; every text is encoded once.

        Raises:
            InputError: a vector is not finite in fp16.
        """
        for begin in range(0, len(texts), CHUNK):
            yield self._chunk(texts[begin : begin + CHUNK])

    def _chunk(self, texts: Sequence[str]) -> NDArray[np.float16]:
        tokens, cut = self.encoder.tokens(texts)
        self.cut += cut
        lengths = np.array([len(ids) for ids in tokens])
        result = np.empty((len(texts), self.encoder.info.width), np.float16)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            step = max(1, self.encoder.batch_tokens // int(length))
            for some in (rows[i : i + step] for i in range(0, len(rows), step)):
                with np.errstate(over="ignore"):
                    result[some] = self.encoder.encode(np.array([tokens[row] for row in some], np.int64))
                self.encoded += len(some)
                self.progress.advance(len(some))
        bad = ~np.isfinite(result).all(1)
        if bad.any():
            text = texts[int(np.flatnonzero(bad)[0])]
            raise InputError(f"{self.encoder.info.label} gives {text!r} values beyond fp16; choose another --encoder")
        return result


def embed(root: str, encoder: Encoder, out: str = "", force: bool = False, quiet: bool = True) -> dict[str, Any]:
    """Write the table of a dataset, if the one that is there does not fit.

    Args:
        root: dataset directory or URL.
        encoder: see ``make_encoder``.
        out: file or URL of the table; empty: ``tags.safetensors`` in ``root``.
        force: encode anew in any case.
        quiet: no progress on standard error.

    Returns:
        What the table says of itself, with ``table`` (its path), ``encoded`` rows, ``cut`` texts, ``written``,
        ``seconds`` and ``rows_per_second``.

    Raises:
        DatasetError: ``root`` is no dataset, or has no tags.
    """
    begin = time.perf_counter()
    root = root.rstrip("/")
    content_hash = load_dataset(Store(root))["content_hash"]
    vocabulary = read_vocabulary(root)
    if vocabulary is None or not len(vocabulary):
        raise DatasetError(f"{root} has no tags in catalog/vocabulary; only a dataset with OSM objects can be embedded")
    vocabulary.check_texts()
    path = out or table_path(root)
    held = None
    with suppress(DatasetError):  # damaged, or of another version: it is made anew
        held = None if force else open_table(path)
    same = held is not None and (held.encoder.identity, held.vocabulary) == (encoder.info.identity, vocabulary.digest)
    work = Work(encoder, len(vocabulary), quiet)
    written = not (same and held is not None and held.content_hash == content_hash)
    if written:
        # The samples may change while the tags do not: then only the name of the dataset in the file is renewed.
        chunks = held.chunks(CHUNK) if same and held is not None else work.vectors(vocabulary.texts.to_pylist())
        facts = {"vocabulary": vocabulary.digest, "content_hash": content_hash}
        with work.progress:
            write_table(path, vocabulary.tag_ids, encoder.info, facts, chunks)
        if not out:
            with one_writer(root):
                amend_manifest(Store(root), [FILE_NAME])
    table = open_table(path)
    assert table is not None  # it was there, or was written
    seconds = time.perf_counter() - begin
    return {
        "table": path, **table.describe(), "encoded": work.encoded, "cut": work.cut, "written": written,
        "seconds": round(seconds, 3), "rows_per_second": round(work.encoded / seconds, 1),
    }  # fmt: skip


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="dataset directory or fsspec URL")
    parser.add_argument("--encoder", required=True, metavar="NAME", help=f"one of {', '.join(ENCODERS)}")
    parser.add_argument("--width", type=int, help="features a tag of --encoder hash (default 512)")
    parser.add_argument("--device", default="auto", help="where a text encoder computes: auto, cpu or cuda")
    parser.add_argument("--out", default="", help="file of the table (default: tags.safetensors in the dataset)")
    parser.add_argument("--force", action="store_true", help="encode anew even if the table is up to date")
    parser.epilog = "encoders:\n" + "\n".join(f"  {name.ljust(10)} {text}" for name, text in ENCODERS.items())


def _run(args: argparse.Namespace) -> int:
    encoder = make_encoder(args.encoder, args.device, args.width)
    result = embed(args.dataset, encoder, args.out, args.force, args.quiet or args.json)
    if args.json:
        print(json.dumps(result))
    elif not args.quiet:
        print(_closing(result))
    return 0


def _closing(result: dict[str, Any]) -> str:
    size = f"{result['table']}: {result['rows']:,} tags × {result['width']} features"
    if not result["written"]:
        return f"{size}, up to date"
    if not result["encoded"]:
        return f"{size}, vectors kept: the tags are the same"
    cut = f", {result['cut']} texts cut at {result['max_tokens']} tokens" if result["cut"] else ""
    return f"{size}, {result['seconds']:.1f} s, {result['rows_per_second']:,.0f} rows/s{cut}"


COMMAND = Command("Encode a dataset's tags once, into tags.safetensors", _configure, _run)

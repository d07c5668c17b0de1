"""``geoshards card DIR``: the card and the other documents of a dataset, written anew or compared."""

from __future__ import annotations

import argparse
import json
import sys

from pipeline.catalog.describe import described
from schemas.command import Command
from storage.dataset import load_dataset
from storage.locks import one_writer
from storage.manifest import amend_manifest
from storage.store import Store
from storage.text import visible


def stale_documents(store: Store) -> dict[str, bytes]:
    """README.md, ATTRIBUTION.md and croissant.json as they should be, of those that are not.

    Raises:
        DatasetError: ``store`` holds no whole dataset.
    """
    right = described(store, load_dataset(store))
    return {name: text for name, text in right.items() if not store.exists(name) or store.read(name) != text}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="dataset directory or fsspec URL")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a document is out of date")


def _run(args: argparse.Namespace) -> int:
    store = Store(args.dataset)
    stale = stale_documents(store)
    if stale and not args.check:
        with one_writer(store.root):
            for name, text in stale.items():
                store.write(name, text)
            amend_manifest(store, stale)
    if args.json:
        print(json.dumps({"stale": sorted(stale), "written": bool(stale) and not args.check}))
    if stale and args.check:
        names = " and ".join(sorted(stale))
        print(visible(f"error: {names} of {args.dataset} are not those of its catalog; geoshards card writes them"),
              file=sys.stderr)  # fmt: skip
        return 1
    if not args.quiet and not args.json:
        print(f"{args.dataset}: {f'{len(stale)} documents written' if stale else 'every document is right'}")
    return 0


COMMAND = Command("Write a dataset's card, attribution and Croissant file anew, or check them", _configure, _run)

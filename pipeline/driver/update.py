"""``geoshards update``: a dataset brought up to a newer extract, or by change files, without repeating what stays.

The new version is built beside the old one, in its folder ``.next``: shards whose tiles have not changed are taken
over, the others are built. Then the two are exchanged. The result is, byte for byte, what a full build gives.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.driver.inputs import Inputs, read_inputs
from pipeline.driver.shards import Outcome, make_shards
from pipeline.osm.extracts.changes import apply_changes, is_change_file
from pipeline.samples.job import Previous
from schemas.command import Command
from schemas.errors import ConfigError, InputError
from storage.dataset import load_dataset
from storage.files import file_sha256, put
from storage.locks import one_writer
from storage.progress import report
from storage.store import Store
from storage.urls import cache_folder, is_local

_NEXT, _OLD = ".next", ".old"
_COMPLETE = ".complete.json"  # in .next: it is whole, and these of its entries take the place of the old ones
_TARGET = ".target.json"  # in .next: what it is being built from


def update(
    directory: str, files: list[Path], extract: str = "", workers: int = 0, cache: str = "", quiet: bool = False
) -> Outcome:
    """Bring the dataset in ``directory`` up to ``files``.

    Args:
        directory: a local dataset directory.
        files: change files (.osc, .osc.gz), in order, or one newer extract.
        extract: name of the extract to change, where the dataset has several.
        workers: processes; 0: one a core.
        cache: of the run that made the dataset; empty: the default.
        quiet: no progress.

    Raises:
        GeoshardsError: the directory is no dataset, what it was made from is unknown, or a file cannot be read.
    """
    if not is_local(directory):
        raise ConfigError(f"{directory} is remote; update a local copy, then upload what has changed")
    store = Store(directory)
    root = Path(store.root)
    with one_writer(store.root):
        finish_exchange(root)
        document = load_dataset(store)
        inputs = read_inputs(document["fingerprint"], cache)
        if not inputs.extracts:
            raise ConfigError(
                "the dataset was made of image chips and their vector files; build it again with `geoshards chips`"
            )
        if inputs.config.plan.snapshots == "image":
            raise ConfigError(
                "a dataset of several snapshots is not updated; build it again with the newer extract too"
            )
        number = _which(inputs, extract)
        newer = _newer_extract(inputs, number, files)
        extracts = [inputs.base(i) if i != number else newer for i in range(len(inputs.extracts))]
        region = replace(inputs.region, extracts=extracts)
        _prepare(root, extracts)
        config = replace(inputs.config, name=document["name"], out=str(root / _NEXT), workers=workers)
        outcome = make_shards(config, quiet, region, Previous(store.root, document["layout_hash"]))
        _exchange(root)
    return replace(outcome, out=store.root)


def _which(inputs: Inputs, extract: str) -> int:
    names = [e["name"] for e in inputs.extracts]
    if extract in names:
        return names.index(extract)
    if extract or len(names) > 1:
        raise ConfigError(f"say which extract changes with --extract: {', '.join(names)}")
    return 0


def _newer_extract(inputs: Inputs, number: int, files: list[Path]) -> Path:
    """The extract after the update: the one given, or the base with the changes applied, in the cache."""
    for path in files:
        if not path.is_file():
            raise InputError(f"{path} does not exist; give change files (.osc, .osc.gz) or a newer extract")
    changes = [p for p in files if is_change_file(p)]
    if not changes and len(files) == 1:
        return files[0]
    if len(changes) < len(files) or not files:
        raise ConfigError("give either change files (.osc, .osc.gz, in order) or one newer extract")
    base, entry = inputs.base(number), inputs.extracts[number]
    digest = sha256(" ".join([entry["sha256"], *(file_sha256(p) for p in changes)]).encode()).hexdigest()
    name = f"{entry['name'].split('.')[0]}.osm.pbf"
    target = cache_folder(inputs.config.cache) / "updated" / digest[:20] / name
    if not target.exists():
        apply_changes(base, changes, target)
    return target


def _prepare(root: Path, extracts: list[Path]) -> None:
    """Leave an unfinished update to the same extracts in .next, and nothing else."""
    wanted = json.dumps([file_sha256(p) for p in extracts])
    target = root / _NEXT / _TARGET
    if not target.exists() or target.read_text() != wanted:
        shutil.rmtree(root / _NEXT, ignore_errors=True)
        target.parent.mkdir(parents=True)
        target.write_text(wanted)


def _exchange(root: Path) -> None:
    """Put the finished new version in the place of the old one."""
    folder = root / _NEXT
    entries = sorted(p.name for p in folder.iterdir() if p.name not in (_TARGET, ".lock"))
    put(folder / _COMPLETE, json.dumps(entries))
    finish_exchange(root)


def finish_exchange(root: Path) -> None:
    """Exchange what an update has finished; one that was killed in the middle is done to its end."""
    folder, old = root / _NEXT, root / _OLD
    if not (folder / _COMPLETE).exists():
        return
    old.mkdir(exist_ok=True)
    for name in json.loads((folder / _COMPLETE).read_text()):
        if (folder / name).exists():
            if (root / name).exists():
                shutil.rmtree(old / name, ignore_errors=True)
                (root / name).rename(old / name)
            (folder / name).rename(root / name)
    shutil.rmtree(folder)
    shutil.rmtree(old)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", help="dataset directory")
    parser.add_argument(
        "files", nargs="+", type=Path, help="change files (.osc, .osc.gz) in order of time, or one newer extract"
    )
    parser.add_argument("--extract", default="", help="which extract changes, where the dataset was made from several")
    parser.add_argument("--cache", default="", help="cache of the run that made the dataset (default as there)")
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")


def _run(args: argparse.Namespace) -> int:
    described = Path(args.directory, "catalog", "statistics").exists()
    outcome = update(args.directory, args.files, args.extract, args.workers, args.cache, args.quiet or args.json)
    if described and not args.quiet:
        again = f"run `geoshards stats {args.directory}` again"
        print(f"the statistics of bands were those of the version before and are gone; {again}", file=sys.stderr)
    d = outcome.document
    result: dict[str, Any] = {
        "out": outcome.out, "shards": d["shards"], "kept": outcome.adopted, "built": d["shards"] - outcome.adopted,
        "samples": d["samples"], "content_hash": d["content_hash"], "layout_hash": d["layout_hash"],
    }  # fmt: skip
    shards = f"{result['kept']:,} of {d['shards']:,} shards kept, {result['built']:,} built"
    last = f"{outcome.out}: {shards}; {d['samples']:,} samples, content {d['content_hash'][:12]}"
    report(args, outcome.stages, result, last)
    return 0


COMMAND = Command("Bring a dataset up to a newer extract or change files, rebuilding what changed", _configure, _run)

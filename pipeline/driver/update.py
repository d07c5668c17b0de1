"""``geoshards update``: a dataset brought up to a newer extract, by change files or by OSM's replication, without
repeating what stays.

The new version is built beside the old one, in its folder ``.next``: shards whose tiles have not changed are taken
over, the others are built. Then the two are exchanged. The result is, byte for byte, what a full build gives.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.driver.inputs import Inputs, read_inputs
from pipeline.driver.replication import Replication, replicate
from pipeline.driver.shards import Outcome, make_shards, rehearse_shards
from pipeline.driver.sources import Region
from pipeline.osm.compare import difference, place_of, places_held, places_of
from pipeline.osm.extracts.changes import UnsortedError, apply_changes, is_change_file
from pipeline.regions.replication import parse_time
from pipeline.samples.config import ShardsConfig
from pipeline.samples.job import Previous
from schemas.command import Command
from schemas.errors import ConfigError, DatasetError, InputError, at_the_door
from storage.dataset import EXCHANGE, load_dataset, read_catalog, unfinished
from storage.files import file_sha256, put
from storage.locks import one_writer
from storage.nodes.copies import node_cache
from storage.nodes.held import name_of
from storage.progress import report
from storage.store import Store
from storage.text import visible
from storage.urls import is_local, local_path

_NEXT, _OLD = ".next", ".old"
_DOCUMENT = "dataset.json"
#: In .next: it is whole, and these of its entries take the place of the old ones.
_COMPLETE = EXCHANGE.rpartition("/")[2]
_TARGET = ".target.json"  # in .next: what it is being built from


def update(
    directory: str,
    files: list[Path] | Replication,
    extract: str = "",
    workers: int = 0,
    cache: str = "",
    quiet: bool = False,
) -> Outcome:
    """Bring the dataset in ``directory`` up to ``files``; one for which replication has no newer state stays as it is.

    Args:
        directory: a local dataset directory.
        files: change files (.osc, .osc.gz), in order, or one newer extract; or what is asked of replication.
        extract: name or path of the extract to change, where the dataset has several.
        workers: processes; 0: one a core.
        cache: of the run that made the dataset; empty: the default.
        quiet: no progress.

    Raises:
        GeoshardsError: the directory is no dataset, what it was made from is unknown, a file cannot be read, or the
            extract lies elsewhere.
    """
    store = _local(directory)
    with one_writer(store.root):
        finish_exchange(Path(store.root))
        goal = _goal(store, files, extract, workers, cache, quiet)
        if goal.newer == goal.base:
            return Outcome(store.root, goal.document, [], 0, int(goal.document["shards"]))
        _prepare(Path(store.root), goal.region.extracts)
        with _as_given(goal.given):
            outcome = make_shards(goal.config, quiet, goal.region, goal.previous)
        _exchange(Path(store.root))
    return replace(outcome, out=store.root)


@dataclass(frozen=True)
class Preview:
    """What an update would change."""

    out: str
    shards: dict[str, int]  # kept, built; gone: of the old ones
    samples: dict[str, int]  # built: footprints of those shards; new: of these; gone: with no footprint any more
    objects: dict[str, int] | None  # created, modified, deleted in the extract; None: not known
    unknown: str  # why not; empty where they are known


def preview_update(
    directory: str,
    files: list[Path] | Replication,
    extract: str = "",
    workers: int = 0,
    cache: str = "",
    quiet: bool = False,
) -> Preview:
    """What `update` with the same arguments would change. The dataset is left as it is; what is read, and what the
    changes are applied to, lands in the cache, where the update finds it.

    Raises:
        GeoshardsError: as `update`; an update before was stopped while it exchanged the versions.
    """
    store = _local(directory)
    if store.exists(EXCHANGE):
        raise DatasetError(str(unfinished(store)))
    goal = _goal(store, files, extract, workers, cache, quiet)
    with _as_given(goal.given):
        found = rehearse_shards(goal.config, quiet, goal.region, goal.previous)
    before = set(read_catalog(store, "samples")["key"].to_pylist())
    built = {key for keys in found.built for key in keys}
    objects, unknown = _changed(goal)
    return Preview(
        store.root,
        {"kept": found.kept, "built": len(found.built), "gone": int(goal.document["shards"]) - found.kept},
        {"built": len(built), "new": len(built - before), "gone": len(before - set(found.keys))},
        objects,
        unknown,
    )


def _changed(goal: _Goal) -> tuple[dict[str, int] | None, str]:
    """Objects that differ; or None, and why that is not known."""
    if goal.base is None:
        return None, "the extract that the dataset was made from is gone"
    try:
        with _as_given(goal.given):
            return dict(difference(goal.base, goal.newer)), ""
    except UnsortedError as error:
        return None, str(error)


@dataclass(frozen=True)
class _Goal:
    """What an update leads to."""

    document: dict[str, Any]  # dataset.json of the version that is there
    config: ShardsConfig  # of the build beside it
    region: Region
    previous: Previous
    base: Path | None  # the extract that changes, as it was; None: it is gone
    newer: Path
    given: dict[str, str]  # as Inputs.given


@contextmanager
def _as_given(given: dict[str, str]) -> Iterator[None]:
    """Let errors about an extract that the cache keeps name the file that was given."""
    try:
        yield
    except InputError as error:
        text = str(error)
        for kept, path in given.items():
            text = text.replace(kept, path)
        raise type(error)(text) from None


def _local(directory: str) -> Store:
    if not is_local(directory):
        raise ConfigError(f"{directory} is remote; update a local copy, then upload what has changed")
    return Store(directory)


def _goal(store: Store, files: list[Path] | Replication, extract: str, workers: int, cache: str, quiet: bool) -> _Goal:
    document = load_dataset(store)
    inputs = read_inputs(document.get("fingerprint"), cache)
    if not inputs.extracts:
        raise ConfigError(
            "the dataset was made of image chips and their vector files; build it again with `geoshards chips`"
        )
    if inputs.config.plan.snapshots == "image":
        raise ConfigError("a dataset of several snapshots is not updated; build it again with the newer extract too")
    number = _which(inputs, extract)
    base: Path | None
    with _as_given(inputs.given):
        if isinstance(files, Replication):
            base = inputs.base(number)
            newer = _replicated(inputs, number, base, files, quiet)
        else:
            newer, base = _newer_extract(inputs, number, files), _base(inputs, number)
            if newer == files[0]:
                _same_ground(store, inputs.region.extracts[number], base, newer)
    extracts = [inputs.base(i) if i != number else newer for i in range(len(inputs.extracts))]
    config = replace(inputs.config, name=document["name"], out=str(Path(store.root, _NEXT)), workers=workers)
    region, previous = replace(inputs.region, extracts=extracts), Previous(store.root, document["layout_hash"])
    return _Goal(document, config, region, previous, base, newer, inputs.given)


def _base(inputs: Inputs, number: int) -> Path | None:
    try:
        return inputs.base(number)
    except InputError:
        return None


def _same_ground(store: Store, was: Path | str, base: Path | None, newer: Path) -> None:
    """Refuse an extract of elsewhere: it would take the place of all that is there.

    It has nodes in half of the old one's places; or, where that is gone, in one of the samples'.
    """
    if base is not None:
        places = places_of(base)
    else:
        centres = read_catalog(store, "samples").select(["lon", "lat"]).to_pylist()
        places = {place_of(c["lon"], c["lat"]) for c in centres}
    enough = (len(places) + 1) // 2 if base is not None else 1
    held = places_held(newer, places, enough)
    if places and held < enough:
        raise InputError(
            f"{newer} is no newer state of {name_of(was)}: it has nodes in {held} of {len(places)} places of it, and "
            f"would replace it with all of its samples; to add a region, build a dataset of both (`geoshards "
            f"shards --region {was},{newer}`) or give one file of both (`osmium merge`)"
        )


def _which(inputs: Inputs, extract: str) -> int:
    names, paths = [e["name"] for e in inputs.extracts], [str(p) for p in inputs.region.extracts]
    given = {extract, str(Path(extract).resolve())} if extract else set(names)
    found = [n for n, called in enumerate(zip(names, paths, strict=True)) if given.intersection(called)]
    if len(found) == 1:
        return found[0]
    told = names if len(set(names)) == len(names) else paths
    raise ConfigError(f"say which extract changes with --extract: {', '.join(told)}")


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
    target = node_cache(inputs.config.cache) / "updated" / digest[:20] / _named(entry)
    if not target.exists():
        apply_changes(base, changes, target)
    return target


def _replicated(inputs: Inputs, number: int, base: Path, asked: Replication, quiet: bool) -> Path:
    """The extract in the state that is asked for; as it is where that is no newer."""
    entry, config = inputs.extracts[number], inputs.config
    return replicate(base, _named(entry), entry["sha256"], asked, config.net, node_cache(config.cache), quiet)


def _named(entry: dict[str, str]) -> str:
    return f"{entry['name'].split('.')[0]}.osm.pbf"


def _prepare(root: Path, extracts: Sequence[Path | str]) -> None:
    """Leave an unfinished update to the same extracts in .next, and nothing else."""
    wanted = json.dumps([file_sha256(Path(p)) for p in extracts])
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
    """Exchange what an update has finished; one that was killed in the middle is done to its end. Without dataset.json,
    which goes first and comes last, nobody takes what is there meanwhile for a dataset."""
    folder, old = root / _NEXT, root / _OLD
    if not (folder / _COMPLETE).exists():
        return
    old.mkdir(exist_ok=True)
    there = {p.name for p in folder.iterdir()}  # never a path that leads elsewhere
    with at_the_door(f"{folder / _COMPLETE} cannot be read", "run the same update again", DatasetError):
        names = [name for name in json.loads((folder / _COMPLETE).read_text()) if name in there]
    names.sort(key=lambda name: name == _DOCUMENT)
    for name in reversed(names):
        if (root / name).exists():
            shutil.rmtree(old / name, ignore_errors=True)
            (root / name).rename(old / name)
    for name in names:
        (folder / name).rename(root / name)
    shutil.rmtree(old)  # what says that the exchange began goes after it
    shutil.rmtree(folder)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", help="dataset directory")
    parser.add_argument(
        "files", nargs="*", type=local_path, help="change files (.osc, .osc.gz) in order of time, or one newer extract"
    )
    parser.add_argument(
        "--replication", nargs="?", const="", metavar="URL", help="in place of files: fetch the diffs of OSM's "
        "replication since the extract's state; URL is the folder of state.txt (default: that of the extract's header)",
    )  # fmt: skip
    parser.add_argument("--until", default="", help="with --replication: no diff after this time (2026-11-30T12:00Z)")
    parser.add_argument(
        "--extract", default="", help="which extract changes, by name or path, where the dataset was made from several"
    )
    parser.add_argument("--cache", default="", help="cache of the run that made the dataset (default as there)")
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and leave the dataset as it is")


def _asked(args: argparse.Namespace) -> list[Path] | Replication:
    """What the dataset is brought up to.

    Raises:
        ConfigError: nothing, both, or a time that is none.
    """
    files: list[Path] = args.files
    if args.replication is None:
        if not files or args.until:
            raise ConfigError("give change files, one newer extract, or --replication (with --until TIME, if at all)")
        return files
    if files:
        raise ConfigError(f"give either files or --replication; {visible(str(files[0]))} is a file")
    until = parse_time(args.until)
    if args.until and until is None:
        raise ConfigError(f"--until {visible(args.until)} is no time; write 2026-11-30 or 2026-11-30T12:00:00Z")
    return Replication(args.replication, until)


def _run(args: argparse.Namespace) -> int:
    if args.dry_run:
        return _run_dry(args)
    described = Path(args.directory, "catalog", "statistics").exists()
    outcome = update(args.directory, _asked(args), args.extract, args.workers, args.cache, args.quiet or args.json)
    if described and outcome.stages and not args.quiet:
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


def _run_dry(args: argparse.Namespace) -> int:
    quiet = args.quiet or args.json
    found = preview_update(args.directory, _asked(args), args.extract, args.workers, args.cache, quiet)
    if args.json:
        print(json.dumps(asdict(found)))
        return 0
    shards, samples, objects = found.shards, found.samples, found.objects
    print(f"{found.out} stays as it is; the update would change")
    print(f"  shards:  {shards['built']:,} built, {shards['kept']:,} kept, {shards['gone']:,} old ones gone")
    print(
        f"  samples: {samples['built']:,} in the built ones, {samples['new']:,} of these new; {samples['gone']:,} gone"
    )
    if objects is None:
        print(f"  objects: not known: {visible(found.unknown)}")
    else:
        print(f"  objects: {', '.join(f'{number:,} {what}' for what, number in objects.items())}")
    return 0


COMMAND = Command("Bring a dataset up to a newer extract or change files, rebuilding what changed", _configure, _run)

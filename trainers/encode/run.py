"""A dataset through a trained model into Parquet files: ``geoshards encode``."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from schemas.config import build
from schemas.errors import ConfigError, DatasetError
from schemas.index import SPLIT_CODES
from schemas.sample import canonical_json
from schemas.splits import BUFFER, SPLITS
from storage.dataset import load_dataset
from storage.files import file_sha256
from storage.locks import one_writer
from storage.progress import Display, Progress, StageRow
from storage.store import Store, place_of
from trainers.embed.features import require_tags, source_of
from trainers.encode import KINDS
from trainers.encode.encoders import Encoder, encoder_of
from trainers.encode.files import DROPS, PartFiles, Where, located
from trainers.encode.plan import Plan, batch_size, cut, part_name
from trainers.encode.work import Forward
from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.ranks import loader_workers, pick_device
from trainers.stream.augment import AugmentSettings
from trainers.stream.catalog.index import load_index
from trainers.stream.order import Place
from trainers.stream.sample import split_names
from trainers.stream.stream import GeoStream, StreamSettings

#: The document that says of what the files are.
DOCUMENT = "encode.json"
#: What of the stream's state decides the files.
_OF_DATASET = ("content_hash", "selection_hash", "split_hash", "statistics", "samples")
#: Dropped samples that are named at the terminal.
NAMED = 20


@dataclass(frozen=True)
class EncodeSettings:
    """What is encoded, and how."""

    what: tuple[str, ...] = ()  # kinds; none: all that the model gives
    split: str = "all"  # train, val, test, several by commas, or all
    select: str = ""  # SQL condition over the samples table
    batch: int = 64  # tiles a forward pass
    per_file: int = 65_536  # tiles a file, rounded up to whole batches
    device: str = "auto"  # auto, cpu or cuda
    precision: str = "fp32"  # fp32 or bf16
    normalised: bool = False  # whether embeddings have unit length
    workers: int | None = None  # loader processes; none: by the hardware

    def __post_init__(self) -> None:
        for name, option in (("batch", "--batch-size"), ("per_file", "--rows-per-file")):
            if getattr(self, name) < 1:
                raise ConfigError(f"{option}={getattr(self, name)} must be at least 1")
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"--precision={self.precision}: choose fp32 or bf16")
        unknown = [kind for kind in self.what if kind not in KINDS]
        if unknown:
            raise ConfigError(f"--what={unknown[0]}: choose of {', '.join(KINDS)}")

    @property
    def condition(self) -> str:
        """``split`` and ``select`` as one condition."""
        names = list(SPLITS) if self.split == "all" else self.split.split(",")
        wrong = [name for name in names if name not in SPLITS]
        if wrong:
            raise ConfigError(f"--split={wrong[0]}: choose of {', '.join(SPLITS)}, or all")
        one = f"split = '{names[0]}'" if len(names) == 1 else "split IN ({})".format(", ".join(f"'{n}'" for n in names))
        split = f"split <> '{BUFFER}'" if self.split == "all" else one  # this form needs no DuckDB
        return f"{split} AND ({self.select})" if self.select.strip() else split


@dataclass
class Outcome:
    """How a call ended."""

    out: str
    samples: int  # of the whole
    files: int  # of a kind, of the whole
    encoded: int = 0  # samples of this call
    rows: dict[str, int] = field(default_factory=dict)  # by kind, of this call
    drops: int = 0  # samples that could not be read, of the whole
    named: dict[str, str] = field(default_factory=dict)  # the first of them: key to reason
    stages: list[StageRow] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        shown = ("out", "samples", "files", "encoded", "rows", "drops", "named")
        return {name: getattr(self, name) for name in shown}

    def take(self, drops: Mapping[str, str]) -> None:
        """Count dropped samples."""
        self.drops += len(drops)
        left = NAMED - len(self.named)
        self.named |= dict(list(drops.items())[: max(0, left)])


def default_out(checkpoint: str, dataset: str) -> str:
    """Beside the checkpoint, by its name and that of the dataset.

    >>> default_out("runs/gair/best.pt", "data/demo/")
    'runs/gair/best-demo-embeddings'
    """
    return f"{checkpoint.removesuffix('.pt')}-{dataset.rstrip('/').rpartition('/')[2]}-embeddings"


def encode(checkpoint: str, dataset: str, out: str, settings: EncodeSettings, quiet: bool = True) -> Outcome:
    """Write the embeddings of a dataset; what is there of the same model and dataset is kept.

    Args:
        checkpoint, dataset, out: paths or URLs.
        settings: what is encoded.
        quiet: no progress on standard error.

    Raises:
        ConfigError: the model does not give what was asked for, or ``out`` is a dataset.
        DatasetError: no checkpoint, no dataset, nothing selected, or ``out`` is of something else.
        LockError: another process writes there.
    """
    begin = time.monotonic()
    device = pick_device(settings.device)
    condition = settings.condition
    held = load_checkpoint(checkpoint)
    encoder = encoder_of(held, checkpoint)
    kinds = _kinds(encoder, settings.what, checkpoint)
    load_dataset(Store(dataset))
    store = Store(out)
    if any(folder.exists("dataset.json") for folder in (store, place_of(out)[0])):
        raise ConfigError(f"{out} is in a dataset, which is never written to; give another --out")
    stream, plan = _open(encoder, kinds, held, dataset, condition, settings, device)
    about = _identity(checkpoint, held, stream, plan, kinds, settings, device)
    forward = Forward(encoder, kinds, device, settings.precision == "bf16", settings.normalised)
    encoder.model.to(device)
    with one_writer(out):
        _agree(store, about)
        store.sweep((*kinds, DROPS))
        outcome = _Run(store, stream, plan, forward, about, Display(quiet)).all()
    stage = StageRow.since(begin, "encode", outcome.encoded, "tiles", drops=outcome.drops)
    outcome.stages.append(stage)
    return outcome


def _kinds(encoder: Encoder, asked: Sequence[str], name: str) -> tuple[str, ...]:
    """Those asked for in the order of KINDS, else all that the model gives."""
    missing = [kind for kind in asked if kind not in encoder.widths]
    if missing:
        given = ",".join(kind for kind in KINDS if kind in encoder.widths)
        raise ConfigError(f"--what={missing[0]}: the model of {name} gives none; choose of --what={given}")
    return tuple(kind for kind in KINDS if kind in (asked or encoder.widths))


def _open(
    encoder: Encoder, kinds: Sequence[str], held: Mapping[str, Any], dataset: str, condition: str,
    settings: EncodeSettings, device: torch.device,
) -> tuple[GeoStream, Plan]:  # fmt: skip
    """The stream of the selected samples by key, read as the model was trained, and its cut.

    Raises:
        DatasetError: the tags have other vectors than those that the model was trained with.
    """
    config = held["config"]
    trained = build(StreamSettings, config["stream"])
    workers = loader_workers(settings.workers, device)
    reading = StreamSettings(
        select=condition, shuffle="none", workers=workers, cache=trained.cache,
        tags=source_of(trained.tags, held["stream"]["tags"]),
        tag_weight=trained.tag_weight, key_counts=trained.key_counts, max_corrupt=1 << 62,
        augment=AugmentSettings(enabled=False),
    )  # fmt: skip
    most = _most_photos(dataset, condition) if "photos" in encoder.widths else 0
    view, batch = encoder.view(kinds, max(1, most)), batch_size(settings.batch, most)
    stream = GeoStream(
        [dataset], view, batch_size=batch, settings=reading, place=Place(rank=0, world=1, workers=workers),
        pin_memory=device.type == "cuda", tag_weight=config["fidelity"],
    )  # fmt: skip
    if stream.tags:
        require_tags(stream.tags.identity, held["stream"]["tags"], dataset)
    return stream, cut(stream.samples, batch, settings.per_file)


def _most_photos(dataset: str, condition: str) -> int:
    """Photos of the tile of a dataset that has most."""
    layouts = load_index(dataset, condition).parts.layouts
    return max((len(split_names(names)[1]) for names in layouts), default=0)


def _identity(
    checkpoint: str, held: Mapping[str, Any], stream: GeoStream, plan: Plan, kinds: Sequence[str],
    settings: EncodeSettings, device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """What decides the bytes of the files, but for the machine."""
    store, name = place_of(checkpoint)
    local = not store.remote
    digest = file_sha256(Path(store.path(name))) if local else hashlib.sha256(store.read(name)).hexdigest()
    state, config = stream.state_dict(), held["config"]
    return {
        "format": 1, "checkpoint": digest, "model": config["task"], "fidelity": config["fidelity"],
        "step": held["step"], "dataset": {key: state[key] for key in _OF_DATASET}, "what": list(kinds),
        "tags": state["tags"], "batch": plan.batch, "per_file": plan.per_file, "normalised": settings.normalised,
        "precision": settings.precision, "device": device.type,
    }  # fmt: skip


def _agree(store: Store, about: Mapping[str, Any]) -> None:
    """Say in ``store`` of what its files are, or find that it says the same.

    Raises:
        DatasetError: they are of something else; the message names what.
    """
    if not store.exists(DOCUMENT):
        if any(store.names(kind) for kind in (*KINDS, DROPS)):
            raise DatasetError(f"{store.root} holds files without {DOCUMENT}; give another --out, or delete it")
        store.write(DOCUMENT, canonical_json(about))
        return
    try:
        theirs = json.loads(store.read(DOCUMENT))
        differ = [key for key in about if theirs.get(key) != about[key]]
    except (ValueError, AttributeError):
        raise DatasetError(f"{store.path(DOCUMENT)} is damaged; give another --out, or delete {store.root}") from None
    if differ:
        raise DatasetError(
            f"{store.root} was begun with another {' and '.join(differ)}; give another --out, or delete it"
        )


@dataclass
class _Run:
    """One call at work."""

    store: Store
    stream: GeoStream
    plan: Plan
    forward: Forward
    about: dict[str, Any]
    display: Display

    def all(self) -> Outcome:
        """Make the files that are missing."""
        outcome = Outcome(self.store.root, self.plan.samples, self.plan.files)
        outcome.rows = dict.fromkeys(self.forward.kinds, 0)
        done = self._done()
        for file in sorted(done):
            drops = self.store.read_table(part_name(DROPS, file))
            outcome.take(dict(zip(drops["key"].to_pylist(), drops["reason"].to_pylist(), strict=True)))
        left = [file for file in range(self.plan.files) if file not in done]
        before = sum(map(self.plan.size, done))
        steps = self.forward.run(self.stream.at(self.plan.starts(left)))
        with (
            closing(steps),  # ends the loader processes
            Progress("encode", self.plan.samples, "tiles", display=self.display, done=before) as progress,
        ):
            for file in left:
                self._file(file, steps, outcome, progress)
        for key, reason in outcome.named.items():
            self.display.note(f"left out: {key}: {reason}")
        return outcome

    def _done(self) -> set[int]:
        """Files that are there for every kind."""
        names = [set(self.store.names(kind)) for kind in (*self.forward.kinds, DROPS)]
        return {file for file in range(self.plan.files) if all(part_name("", file)[1:] in own for own in names)}

    def _file(self, file: int, steps: Iterator[Any], outcome: Outcome, progress: Progress) -> None:
        widths = {kind: self.forward.encoder.widths[kind] for kind in self.forward.kinds}
        with PartFiles(self.store, file, widths, self.about) as part:
            for start, batch, found in steps:
                where = self._where(start)
                part.drops |= located(batch, where.key)
                part.add(found, batch, where)
                count = sum(1 for key in where.key if key)
                outcome.encoded += count
                progress.advance(count)
                if self.plan.ends(start):
                    break
        for kind, count in part.rows.items():
            outcome.rows[kind] += count
        outcome.take(part.drops)

    def _where(self, start: int) -> Where:
        """What the index says of the batch that begins at ``start``."""
        index, samples = self.stream.indexes[0], self.stream.samples_at(start)
        real = samples[samples >= 0]
        keys = [key.decode() for key in index.parts.keys(index.rows(real))]
        split = [SPLIT_CODES[i] for i in index.column("split", real).tolist()]
        names = [index.parts.layouts[i] for i in index.column("layout", real).tolist()]
        rest = len(samples) - len(real)  # masked slots are the last of the last batch
        return Where([*keys, *[""] * rest], [*split, *[""] * rest], [*names, *[()] * rest])

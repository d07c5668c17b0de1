"""Settings of a training run: dataclasses whose comments are the help text, presets, files and overrides.

Order of precedence, weakest first: defaults, size (model=), fidelity=, recipe (preset=), --config FILE, key=value.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from schemas.bands import named
from schemas.config import at_least, build, merge, overlay, parse_yaml, path
from schemas.errors import ConfigError, nearest
from schemas.splits import SPLITS
from trainers.embed.features import find_vectors
from trainers.engine.evaluation import EvaluationReport
from trainers.stream.batch import View
from trainers.stream.catalog.index import load_index
from trainers.stream.load import image_bands
from trainers.stream.stream import StreamSettings


@dataclass(frozen=True)
class OptimSettings:
    """AdamW with a cosine schedule counted in samples."""

    lr: float = 1e-4  # peak learning rate
    min_lr: float = 0.0  # learning rate at the end of the run
    weight_decay: float = 0.05  # of matrices; biases, norms and tokens are not decayed
    beta1: float = 0.9  # decay of the mean of gradients
    beta2: float = 0.95  # decay of the mean of their squares
    warmup: float = 0.05  # share of the run in which the rate rises linearly
    warmup_samples: int | None = None  # the same as a number of samples; none: by the share
    clip: float = 1.0  # largest gradient norm; 0: no clipping

    def __post_init__(self) -> None:
        at_least(self, "optim.", lr=0, min_lr=0, weight_decay=0, warmup_samples=0, clip=0)
        for name in ("beta1", "beta2", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"setting optim.{name}={getattr(self, name)} must lie in [0, 1)")


@dataclass(frozen=True)
class LogSettings:
    """Where metrics go beside ``metrics.jsonl``."""

    tensorboard: bool | None = None  # event files in out/tensorboard; none: where the package is installed
    wandb: str = ""  # project of Weights & Biases; empty: off


@dataclass(frozen=True)
class EvalSettings:
    """Evaluation on the geographic validation split while training."""

    every: int | None = None  # steps between evaluations; none: at checkpoints and at the end; 0: never
    samples: int = 512  # most samples of the split, a fixed choice
    batch_size: int = 64  # samples a forward pass
    split: str = "val"  # samples on which is measured
    train_samples: int = 1024  # most training samples that the neighbours and the linear probe learn from
    photos: int = 8  # most photos a tile (gair)
    grid: int = 8  # places a side of the grid over a tile in which photos are looked for (gair)
    full: Literal["end", "always", "never"] = "end"  # when training samples are read for probes, too (gair)

    def __post_init__(self) -> None:
        at_least(self, "eval.", every=0, samples=1, batch_size=1, train_samples=1, photos=1, grid=1)
        if self.split not in SPLITS:
            raise ConfigError(f"setting eval.split={self.split}: {nearest(self.split, SPLITS)}")


@dataclass(frozen=True)
class TrainSettings:
    """A run. Trainers add ``arch`` and ``loss``."""

    data: str = ""  # dataset directory or URL; several by commas, with weights DIR:0.7,DIR2:0.3; empty: data/demo
    out: str = ""  # run directory or URL (s3://…); empty: runs/NAME-DATE-TIME
    preset: Literal["auto", "none", "tiny", "small_data", "one_gpu", "paper"] = (
        "auto"  # recipe, of those that the trainer has; auto: by hardware if no model=
    )
    model: Literal["auto", "tiny", "small", "base", "large"] = "auto"  # size; auto: what fits the hardware
    fidelity: Literal["ours", "paper", "released"] = (
        "ours"  # whose choice counts where they differ, data and recipe too
    )
    steps: int | None = None  # optimiser steps of the whole run
    epochs: int | None = None  # or epochs of the whole run
    batch_size: int = 256  # samples a step, over all ranks and accumulation
    accumulate: int = 1  # micro-batches a step and rank
    accumulate_contrast: bool = False  # whether they are one contrast, at the cost of a second pass (GAIR)
    seed: int = 0  # of weights, order, augmentation and masks
    stop_after: int | None = None  # stop with a checkpoint after so many steps of this call
    resume: str = path(
        "never", "never", "auto"
    )  # auto: go on from the checkpoint in out, if there is one; or path or URL of a checkpoint
    dry_run: bool = False  # show what would be done, run one batch forward, write nothing
    device: str = "auto"  # auto, cpu or cuda
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on cuda, fp32 on cpu
    threads: int | None = None  # CPU threads of torch; none: torch's own choice
    parallel: Literal["ddp", "fsdp"] = "ddp"  # several processes: a copy of the weights each, or shards of them
    compile: bool = False  # torch.compile of the model
    ray_workers: int | None = None  # processes inside a Ray job; none: one a GPU of the cluster, or one a CPU
    log_every: int = 10  # steps between lines of metrics.jsonl
    checkpoint_every: int = 500  # steps between checkpoints; one is always written at the end
    stream: StreamSettings = field(default_factory=StreamSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    log: LogSettings = field(default_factory=LogSettings)
    eval: EvalSettings = field(default_factory=EvalSettings)

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ConfigError("give steps=N or epochs=N, not both")
        at_least(
            self, "", steps=1, epochs=1, stop_after=1, batch_size=1, accumulate=1, threads=1, log_every=1,
            checkpoint_every=1, ray_workers=1, seed=0,
        )  # fmt: skip
        if self.seed >= 2**63:
            raise ConfigError(f"setting seed={self.seed} must be less than 2^63")


@dataclass(frozen=True)
class Presets:
    """Settings that a word of the user's stands for."""

    sizes: Mapping[str, Mapping[str, Any]]  # by model=
    recipes: Mapping[str, Mapping[str, Any]]  # by preset=
    fidelities: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by fidelity=, data and recipe of each


def read_presets(file: str) -> Presets:
    """Those of a task, from the YAML file beside its module ``file``."""
    beside = Path(file).with_suffix(".yaml")
    return Presets(**parse_yaml(beside.read_text("utf-8"), beside.name))


@dataclass(frozen=True)
class Task:
    """What the engine needs to know of a trainer."""

    name: str  # geolink | gair | joint
    summary: str  # one line
    settings: type[TrainSettings]
    presets: Presets
    select: str  # samples that the model can use
    #: Settings to a model whose forward maps a batch to {"loss": …, parts}, and whose ``gather`` says whether the mean
    #: of these over the processes is the loss of their samples as one batch, or each process is a micro-batch; and
    #: ``unused``, where it has it, whether weights that are trained can be without a gradient; ``begin`` is told before
    #: each step how many samples were consumed; ``notes`` are lines that a run shows. A part that is NaN is absent.
    build: Callable[[Any], nn.Module]
    view: Callable[[Any], View]  # settings to what the stream has to read
    #: Settings, dataset directories and device to what measures the models of a run: model and whether the run is done
    #: to a report; None where there is nothing to measure on. What does not change in a run it finds once.
    evaluation: Callable[[Any, Sequence[str], Any], Callable[[Any, bool], EvaluationReport | None]]


def resolve(task: Task, file: Mapping[str, Any], overrides: list[str], automatic: str) -> TrainSettings:
    """The settings of a run: size, then fidelity, then recipe, then ``file``, then ``overrides``.

    Args:
        task: the trainer.
        file, overrides: what the user gives.
        automatic: size that fits the hardware; ``tiny`` where there is no GPU.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, or a contradiction.
    """
    given = merge(file, overrides)
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in given and other not in given:
            given[other] = None  # a preset's length gives way to the user's
    recipe = str(given.get("preset", "auto"))
    if recipe == "auto":
        by_size = given.get("model", "auto") != "auto"
        recipe = "none" if by_size else "tiny" if automatic == "tiny" else "one_gpu"
    if recipe not in ("none", *task.presets.recipes):
        raise ConfigError(
            f"preset={recipe} is none of {task.name}; choose auto, none, {', '.join(task.presets.recipes)}"
        )
    held = task.presets.recipes.get(recipe, {})
    named = overlay(held, given)
    model, fidelity = (str(named.get(key, default)) for key, default in (("model", "auto"), ("fidelity", "ours")))
    name = automatic if model == "auto" else model
    layers = task.presets.sizes.get(name, {}), task.presets.fidelities.get(fidelity, {}), held
    settings = build(task.settings, overlay(functools.reduce(over, layers), given))
    if settings.stream.select is None:
        settings = dataclasses.replace(settings, stream=dataclasses.replace(settings.stream, select=task.select))
    return dataclasses.replace(settings, model=typing.cast(Any, name), preset=typing.cast(Any, recipe))


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``; its length of the run, in whichever unit, takes the place of the other."""
    if "epochs" in above or "steps" in above:
        below = {key: value for key, value in below.items() if key not in ("epochs", "steps")}
    return overlay(below, above)


def fit_tags(task: Task, settings: TrainSettings, roots: Sequence[str]) -> TrainSettings:
    """``settings`` with the model as wide as the vectors of the datasets' tag tables, if they have them.

    Raises:
        ConfigError: another width was asked for.
    """
    vectors = find_vectors(roots, settings.stream.tags) if task.view(settings).osm else []
    if not vectors:
        return settings
    full: Any = settings  # every trainer adds arch
    arch = full.arch
    width = vectors[0].encoder.width
    preset = task.presets.sizes.get(settings.model, {}).get("arch", {}).get("tag_width", type(arch)().tag_width)
    if arch.tag_width not in (preset, width):
        raise ConfigError(
            f"arch.tag_width={arch.tag_width}, but {vectors[0].path} has {width} features a tag; leave arch.tag_width "
            "out, or go on with stream.tags=hash"
        )
    return typing.cast(TrainSettings, dataclasses.replace(full, arch=dataclasses.replace(arch, tag_width=width)))


def fit_bands(settings: TrainSettings, roots: Sequence[str]) -> TrainSettings:
    """``settings`` with the canonical names of the model's bands; those of the datasets for ``arch.bands=all``.

    Raises:
        ConfigError: the datasets differ in their bands.
        DatasetError: no sample has an image.
    """
    full: Any = settings  # every trainer adds arch
    if full.arch.bands == "all":
        reading = settings.stream
        held = {root: image_bands(load_index(root, reading.select or "", reading.split)) for root in roots}
        (first, own), *rest = held.items()
        for root, other in rest:
            if set(other) != set(own):
                raise ConfigError(
                    f"arch.bands=all: {first} has {', '.join(own)}, but {root} {', '.join(other)}; name those that "
                    "both have with arch.bands=[…]"
                )
    else:
        own = named(full.arch.bands)
    return typing.cast(TrainSettings, dataclasses.replace(full, arch=dataclasses.replace(full.arch, bands=own)))

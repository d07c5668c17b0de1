"""The training loop: a task and its settings to a checkpoint and a summary."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from schemas.config import to_mapping
from schemas.errors import ConfigError, DatasetError, GeoshardsError
from storage.files import put
from storage.progress import Progress, StageRow
from storage.status import Status
from storage.store import place_of
from storage.text import visible
from storage.urls import expand
from trainers.engine import ranks
from trainers.engine.averages import of_step, of_window
from trainers.engine.checkpoint import (
    BEST_NAME,
    FILE_NAME,
    LAYOUT,
    code_version,
    has_checkpoint,
    load_checkpoint,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from trainers.engine.folder import RunFolder
from trainers.engine.grad_cache import cached_step, check, share_gradients
from trainers.engine.optim import CosineSchedule, make_optimizer
from trainers.engine.parallel import load_state, replicate, shard, state_of, whole, without_sync
from trainers.engine.report import Tracker, check_trackers, memory_mb, trackers
from trainers.engine.samples import check_samples, check_splits, nothing_to_learn
from trainers.engine.settings import Task, TrainSettings, fit_bands, fit_tags
from trainers.stream.batch import TileBatch
from trainers.stream.datasets import Datasets, parse_datasets
from trainers.stream.order import epoch_key
from trainers.stream.state import HASHES
from trainers.stream.stream import GeoStream

#: Steps between questions to the other ranks whether one of them was told to stop, where the answer makes a GPU wait.
ASK_EVERY = 10
#: What a run was, in its folder.
SUMMARY_NAME = "summary.json"
#: Keys of a batch that a message names.
_NAMED = 8


@dataclass
class StepResult:
    """What one step gave: values stay on the device until they are logged."""

    step: int
    keys: list[str]  # of this process's samples
    values: dict[str, Tensor]  # losses, NaN where one is absent, and the norm of the gradient


class Stopped(GeoshardsError):
    """A signal ended the run before its work was done; the checkpoint is written."""


@contextmanager
def stop_signal(told: list[int] | None = None) -> Iterator[list[int]]:
    """A list that receives the number of SIGTERM or SIGINT; a second signal acts as usual.

    Python lets the main thread alone handle signals: elsewhere, as in a worker of Ray Train, none is caught, and it is
    ``told`` that receives what another process was sent.
    """
    caught: list[int] = [] if told is None else told
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    before = {n: signal.signal(n, note) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Trainer:
    """One run on one process.

    Raises:
        GeoshardsError: the data, the checkpoint or the settings cannot be used; a loss is not finite.
    """

    def __init__(self, task: Task, settings: TrainSettings, data: Datasets, device: torch.device, quiet: bool) -> None:
        settings = fit_bands(settings, data.roots)
        settings = fit_tags(task, settings, data.roots)
        if data.weights and settings.steps is None:
            raise ConfigError("a mixture has no epoch: say how long to train, with steps=N")
        self.task, self.settings, self.device, self.quiet = task, settings, device, quiet
        self.status = Status("train")
        self.status.name, self.status.stage = task.name, "load"
        self.measure = task.evaluation(settings, data.roots, device)
        begin = time.perf_counter()
        torch.manual_seed(settings.seed)
        model = shard(task.build(settings).to(device), settings)
        self.plain_model = model
        self.stream = GeoStream(
            data, task.view(settings), batch_size=settings.batch_size, seed=settings.seed,
            settings=replace(settings.stream, workers=ranks.loader_workers(settings.stream.workers, device)),
            accumulate=settings.accumulate, pin_memory=device.type == "cuda", tag_weight=settings.fidelity,
        )  # fmt: skip
        check(model, settings)
        self.model = replicate(model, settings, device, getattr(model, "unused", False))
        self.total = self.stream.samples_in(settings.steps, settings.epochs)
        self.optimizer = make_optimizer(model, settings.optim, device)
        self.schedule = CosineSchedule(self.optimizer, settings.optim, self.total)
        self.step = 0
        self.bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda")
        self.load_seconds = time.perf_counter() - begin
        self.wait_seconds = 0.0
        self.last: dict[str, float] = {}
        self.evaluation: dict[str, Any] = {}
        self.best: float | None = None
        self.learned = False  # whether a loss of this call had a sample
        check_samples(task, self.stream)
        self.validation = check_splits(settings, self.stream, data.roots)

    @property
    def finished(self) -> bool:
        """Whether the whole run is done."""
        return self.stream.samples_seen >= self.total

    @property
    def unmeasured(self) -> bool:
        """Whether the step that the run stands at lacks the evaluation that it was due."""
        due = self._evaluation_due(self.finished or self.step % self.settings.checkpoint_every == 0)
        return self.step > 0 and due and self.evaluation.get("step") != self.step

    def state(self) -> dict[str, Any]:
        """The checkpoint."""
        stream = self.stream.state_dict()
        weights, moments = state_of(self.plain_model, self.optimizer)
        return {
            "model": weights,
            "optimizer": moments,
            "scheduler": self.schedule.state_dict(),
            "rng": rng_state(),
            "stream": stream,
            "dataset": {name: stream[name] for name in (*HASHES, "samples")},
            "config": {"task": self.task.name, **_recorded(self.settings)},
            "version": {"layout": LAYOUT, "code": code_version()},
            "step": self.step,
            "evaluation": {"best": self.best, **self.evaluation},
        }

    def restore(self, state: dict[str, Any], name: str) -> None:
        """Go on from a checkpoint called ``name``.

        Raises:
            ConfigError: it belongs to another model.
            DatasetError: it belongs to other data or another order.
        """
        mine, theirs = {"task": self.task.name, **_recorded(self.settings)}, state["config"]
        differ = [key for key in ("task", "fidelity", "arch") if mine[key] != theirs.get(key)]
        if differ:
            raise ConfigError(
                f"{name} was made with another {' and '.join(differ)}; give the same model=, fidelity= and arch.*, or "
                "start anew with another out=…"
            )
        if set(state["model"]) != set(self.plain_model.state_dict()):
            raise ConfigError(
                f"{name} was made with other losses, which have weights of their own; give the same loss.*"
            )
        self.stream.load_state_dict(state["stream"])
        load_state(self.plain_model, self.optimizer, state["model"], state["optimizer"])
        self.evaluation = {name: value for name, value in state["evaluation"].items() if name != "best"}
        self.best = state["evaluation"]["best"]
        set_rng_state(state["rng"])
        self.step = int(state["step"])
        # The length of a run is one of samples: at another batch size it keeps its schedule.
        same = all(mine[key] == theirs.get(key) for key in ("steps", "epochs"))
        left = None if self.settings.steps is None else max(0, self.settings.steps - self.step)
        self.total = state["scheduler"]["total"] if same else self.stream.samples_in(left, self.settings.epochs)
        self.schedule = CosineSchedule(self.optimizer, self.settings.optim, self.total)

    def save(self, out: RunFolder, name: str = FILE_NAME) -> None:
        """Write a checkpoint; every process takes part, the first one writes."""
        state = self.state()
        if ranks.is_first():
            save_checkpoint(out.local / name, state)
            out.send_soon()
        ranks.wait_for_all()

    def run(self, out: RunFolder, told: list[int] | None = None) -> dict[str, Any]:
        """Train to the end, to ``stop_after`` or to a signal (:func:`stop_signal`); returns the summary."""
        settings, first = self.settings, ranks.is_first()
        written = trackers(settings.log, out.local, _recorded(settings), self.step) if first else []
        progress = Progress("", self.total, "samples", self.quiet or not first, done=self.stream.samples_seen)
        begin, begun, epoch = time.perf_counter(), (self.step, self.stream.samples_seen), self.stream.epoch
        self.status.stage, self.status.line = "train", progress.reading()
        self.model.train()
        with stop_signal(told) as caught:
            batches = self.stream.batches(until=self.total)
            window: list[StepResult] = []
            stopped = False
            if self.unmeasured:  # the evaluation failed, or the run was killed in it
                self._evaluate(out, written)
            while not self.finished and not stopped:
                window.append(self._step(batches))
                done = self.step - begun[0]
                if self.step % settings.log_every == 0 or self.finished or done == settings.stop_after:
                    self._log(window, written, progress, begin, begun)
                    window = []
                if ranks.world() == 1 or self.device.type == "cpu" or self.step % ASK_EVERY == 0:
                    stopped = ranks.any_rank(bool(caught), self.device)
                ending = self.finished or stopped
                due = self.step % settings.checkpoint_every == 0
                measure = self._evaluation_due((due and not stopped) or self.finished)
                if measure or (due and not ending):
                    self._check(window, self.finished or self.stream.epoch > epoch)
                    self.save(out)
                if measure:  # after the checkpoint: if it fails, no step is lost
                    self._evaluate(out, written)
                    if not ending:
                        self.save(out)
                if done == settings.stop_after:
                    break
            if hasattr(batches, "close"):
                batches.close()
        self._check(window, self.finished and self.step > begun[0])
        self.save(out)
        for tracker in written:
            tracker.close()
        if stopped and not self.finished:
            name = signal.Signals(caught[0]).name if caught else "a signal to another process"
            raise Stopped(f"stopped by {name} after step {self.step}; go on with out={out.url} resume=auto")
        return self._summary(out, time.perf_counter() - begin, begun)

    def _step(self, batches: Iterator[TileBatch]) -> StepResult:
        """One optimiser step; its losses are weighted over the micro-batches."""
        result = StepResult(self.step + 1, [], {})
        losses = result.values
        key = epoch_key("dropout", "", "none", self.settings.seed, self.stream.samples_seen)
        if begin := getattr(self.plain_model, "begin", None):
            begin(self.stream.samples_seen)
        (self._one_contrast if self.settings.accumulate_contrast else self._micro_batches)(batches, result, key)
        if self.settings.optim.clip:
            norm = nn.utils.clip_grad_norm_(self.plain_model.parameters(), self.settings.optim.clip)
            losses["grad_norm"] = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.schedule.set(self.stream.samples_seen)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return result

    def _micro_batches(self, batches: Iterator[TileBatch], result: StepResult, key: int) -> None:
        """Gradients and losses of the step's micro-batches, each by itself."""
        accumulate, held, shares = self.settings.accumulate, [], []
        for micro in range(accumulate):
            batch = self._next(batches, result)
            with without_sync(self.model, micro == accumulate - 1), self._drawing(key, micro):
                parts = self.model(batch)
                shares.append(self._share(batch))
                (parts["loss"] * shares[-1]).backward()
            held.append({name: value.detach() for name, value in parts.items()})
        result.values.update(of_step(held, shares))

    def _one_contrast(self, batches: Iterator[TileBatch], result: StepResult, key: int) -> None:
        """Gradients and losses of the step's micro-batches as one contrast."""
        model: Any = self.plain_model  # `check` has seen that it is a Contrast
        held = [self._next(batches, result) for _ in range(self.settings.accumulate)]
        share = torch.stack([self._share(batch) for batch in held]).sum()
        parts = cached_step(model, held, share, lambda micro: self._drawing(key, micro))
        share_gradients(model)
        result.values.update({name: value.float() * share for name, value in parts.items()})

    def _next(self, batches: Iterator[TileBatch], result: StepResult) -> TileBatch:
        """The next micro-batch, on the device; its samples are noted in the result of the step."""
        waiting = time.perf_counter()
        batch = next(batches)
        self.wait_seconds += time.perf_counter() - waiting
        result.keys += [name for name in batch.key if name]
        return batch.to(self.device)

    def _drawing(self, key: int, micro: int) -> torch.autocast:
        """Precision and random draws of a micro-batch.

        Dropout follows the position, as every other draw does: a resumed run repeats it.
        """
        torch.manual_seed((key + micro * self.stream.place.world + self.stream.place.rank) % 2**63)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _share(self, batch: TileBatch) -> Tensor:
        """What a micro-batch's losses count in its step: its samples in those of the step, times the processes.

        Where the processes' samples are one batch, their losses are means over all of them already: what counts is the
        share of them all, the same on every process.
        """
        share = torch.full((), batch.weight / self.settings.accumulate, device=self.device)
        return ranks.mean_over_ranks(share) if self.plain_model.gather else share

    def _check(self, window: list[StepResult], long: bool = False) -> None:
        """Refuse a loss or a gradient that is not finite, before anything is kept of it.

        Args:
            window: steps that have not been logged.
            long: whether enough was read that a loss must have had a sample.

        Raises:
            GeoshardsError: names the step and the samples of this process in it.
            DatasetError: no loss has had a sample; names what is missing.
        """
        if window:
            checked = [[r.values[name] for name in ("loss", "grad_norm") if name in r.values] for r in window]
            finite = [torch.stack(values).isfinite().all() for values in checked]
            some = torch.stack([r.values["loss"] for r in window]).ne(0).any()
            *flags, learned = torch.stack([*finite, some]).tolist()
            self.learned |= learned
            if not all(flags):
                raise self._not_finite(window[flags.index(False)])
        if long and not ranks.any_rank(self.learned, self.device):
            raise DatasetError(nothing_to_learn(self.task, self.stream))

    def _not_finite(self, bad: StepResult) -> GeoshardsError:
        shown = {name: float(value) for name, value in bad.values.items()}
        more = f" and {len(bad.keys) - _NAMED} more" if len(bad.keys) > _NAMED else ""
        return GeoshardsError(
            f"not finite at step {bad.step}: {shown}; samples {', '.join(bad.keys[:_NAMED])}{more}. Look at these with "
            "`geoshards inspect`, lower optim.lr, or go on from the last checkpoint with another seed"
        )

    def _log(
        self, window: list[StepResult], written: list[Tracker], progress: Progress, begin: float, begun: tuple[int, int]
    ) -> None:
        self._check(window)
        shown = of_window([row.values for row in window])
        seconds = time.perf_counter() - begin
        seen = self.stream.samples_seen
        row = {
            "step": self.step, "samples": seen, "epoch": self.stream.epoch, **shown,
            "lr": self.optimizer.param_groups[0]["lr"], "seconds": round(seconds, 3),
            "samples_per_second": round((seen - begun[1]) / max(seconds, 1e-9), 2),
            "wait": round(self.wait_seconds / max(seconds, 1e-9), 4), "corrupt": len(self.stream.corrupt),
        }  # fmt: skip
        for tracker in written:
            tracker.write(row)
        self.last = shown
        progress.done = seen
        self.status.line, self.status.values = progress.reading(), {"step": self.step, **shown}
        parts = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        progress.display.note(f"step {self.step}  {parts}  {progress}")

    def _evaluation_due(self, checkpoint: bool) -> bool:
        every = self.settings.eval.every
        if every == 0:
            return False
        return checkpoint if every is None else self.step % every == 0 or self.finished

    def _evaluate(self, out: RunFolder, written: list[Tracker]) -> None:
        """Measure the model on the validation split; the best by its loss is kept beside the last.

        Raises:
            GeoshardsError: it cannot; the message says where the run goes on.
        """
        try:
            self._measure(out, written)
        except GeoshardsError as error:
            way_out = f"step {self.step} is kept: go on with out={out.url} resume=auto, or without with eval.every=0"
            raise type(error)(f"evaluation failed: {error}; {way_out}") from None

    def _measure(self, out: RunFolder, written: list[Tracker]) -> None:
        self.status.stage = "evaluate"
        with whole(self.plain_model), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            report = self.measure(self.plain_model, self.finished)
        self.status.stage = "train"
        if report is None:
            return
        self.evaluation = {"step": self.step, **report.scores}
        loss = report.scores["loss"]
        for tracker in written:
            tracker.write({"step": self.step, **{f"val/{name}": value for name, value in report.scores.items()}})
        if ranks.is_first():
            report.write(out.local, self.step)
            if not self.quiet:
                print(report.line(self.step), file=sys.stderr)
        if self.best is None or loss < self.best:
            self.best = loss
            self.save(out, BEST_NAME)

    def _summary(self, out: RunFolder, seconds: float, begun: tuple[int, int]) -> dict[str, Any]:
        peak = memory_mb(self.device)
        drops = len(self.stream.corrupt)
        done, samples = self.step - begun[0], self.stream.samples_seen - begun[1]

        stages = [
            StageRow("load", self.stream.samples, "samples", self.load_seconds, peak),
            StageRow("wait", samples, "samples", self.wait_seconds, peak, drops),
            StageRow("train", samples, "samples", seconds, peak, drops),
            StageRow("steps", done, "steps", seconds, peak),
        ]
        return {
            "trainer": self.task.name, "model": self.settings.model, "out": out.url, "step": self.step,
            "epoch": self.stream.epoch, "samples": self.stream.samples_seen, "finished": self.finished,
            "losses": self.last, "evaluation": self.evaluation, "corrupt": self.stream.corrupt, "tags": self._tags(),
            "stages": [stage.as_dict() for stage in stages],
        }  # fmt: skip

    def try_out(self) -> dict[str, Any]:
        """One batch forward without training: what a dry run shows."""
        batch = next(self.stream.batches(steps=1)).to(self.device)
        self.model.eval()
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            parts = self.plain_model(batch)
        return {
            "trainer": self.task.name, "model": self.settings.model, "device": str(self.device),
            "parameters": sum(p.numel() for p in self.plain_model.parameters()), "samples": self.stream.samples,
            "batch_size": self.settings.batch_size, "steps_per_epoch": self.stream.steps_per_epoch,
            "total_samples": self.total, "losses": of_window([{n: v.float() for n, v in parts.items()}]),
            "tags": self._tags(),
        }  # fmt: skip

    def notes(self) -> list[str]:
        """What the run says of its data when it starts."""
        near, same = self.stream.neighbours()
        order = (
            f"order: {self.stream.schedule.order.text}; of the pairs in a batch {near:.2%} lie within 1 km, "
            f"{same:.2%} in one block of 0.1 degrees"
        )
        begun = getattr(self.plain_model, "notes", ())
        said = [self.validation] if self.validation else []
        return [*begun, *(self.stream.tags.notes if self.stream.tags else ()), order, *said]

    def _tags(self) -> dict[str, Any]:
        """What the run says of its tag features; empty where it has none."""
        return self.stream.tags.describe() if self.stream.tags else {}


def _recorded(settings: TrainSettings) -> dict[str, Any]:
    """The settings as a checkpoint keeps them: without paths, which differ from machine to machine."""
    mapping = to_mapping(settings)
    return {key: value for key, value in mapping.items() if key not in ("data", "out", "resume")}


def train(
    task: Task, settings: TrainSettings, root: str, out: str | Path, quiet: bool, told: list[int] | None = None
) -> dict[str, Any]:
    """Run the task; returns the summary of the run, or of the dry run. ``told`` is as in :func:`stop_signal`.

    Raises:
        GeoshardsError: see :class:`Trainer`; ``out``, a path or URL, holds a checkpoint and ``resume`` is never, or it
            cannot be written; a package that ``log`` needs is missing.
    """
    check_trackers(settings.log)
    device = ranks.pick_device(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with ranks.process_group(device):
        folder = RunFolder(ranks.same_text(str(out)))
        path = folder.path(FILE_NAME) if settings.resume in ("auto", "never") else expand(settings.resume)
        exists = has_checkpoint(path)
        if settings.resume == "never" and exists and not settings.dry_run:
            raise ConfigError(f"{path} exists; go on with resume=auto, or choose another out=…")
        trainer = Trainer(task, settings, parse_datasets(root), device, quiet)
        if settings.resume != "never" and (exists or settings.resume != "auto"):
            trainer.restore(load_checkpoint(path), path)
        for note in trainer.notes():
            if ranks.is_first() and not quiet:
                print(visible(note), file=sys.stderr)
        if settings.dry_run:
            return trainer.try_out()
        if settings.resume == "auto" and exists and trainer.finished and not trainer.unmeasured:
            store, name = place_of(folder.path(SUMMARY_NAME))
            if store.exists(name):  # nothing is left to do: its records stay as they are
                return dict(json.loads(store.read(name)))
        said = yaml.safe_dump(to_mapping(trainer.settings), sort_keys=False)
        first = ranks.is_first()
        telling = trainer.status.telling(folder.url, stay=True, halts=(Stopped, KeyboardInterrupt))
        with folder.opened("config.yaml", said) if first else nullcontext(), telling if first else nullcontext():
            ranks.wait_for_all()
            summary = trainer.run(folder, told)
            if ranks.is_first():
                put(folder.local / SUMMARY_NAME, json.dumps(summary, indent=1))
        return summary

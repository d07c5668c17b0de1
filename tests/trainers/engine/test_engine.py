"""Promises of the trainers' command line, loop and checkpoints."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import DatasetError, InputError
from tests.trainers.engine import tail
from trainers.engine import report
from trainers.engine.checkpoint import KEYS, LAYOUT, load_checkpoint, save_checkpoint
from trainers.engine.cli import main, parse
from trainers.engine.optim import CosineSchedule, make_optimizer
from trainers.engine.report import Metrics
from trainers.engine.settings import OptimSettings, Task
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK
from trainers.tasks.joint import JOINT

ROOT = Path(__file__).resolve().parents[3]
TASKS = {"geolink": GEOLINK, "gair": GAIR, "joint": JOINT}
#: Words with which what a model remembers, or whose turn it is, differs from step to step.
CHANGING = {
    "geolink": ["arch.fusion_dropout=0.1"],
    "gair": [],
    "joint": ["arch.geolink.fusion_dropout=0.1", "loss.alternate=16", "loss.weighting=uncertainty"],
}


def run(task: Task, data: Path, out: Path, *words: str) -> int:
    return main(task, [f"data={data}", f"out={out}", "model=tiny", "batch_size=8", "--quiet", *words])


def parameters(out: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(out / "checkpoint.pt")["model"])


@pytest.mark.parametrize("name", TASKS)
def test_resume_is_bit_identical(dataset: Path, tmp_path: Path, name: str) -> None:
    task = TASKS[name]
    extra = CHANGING[name]
    assert run(task, dataset, tmp_path / "straight", "steps=10", *extra) == 0
    assert run(task, dataset, tmp_path / "split", "steps=10", "stop_after=5", *extra) == 0
    assert load_checkpoint(tmp_path / "split" / "checkpoint.pt")["step"] == 5
    assert run(task, dataset, tmp_path / "split", "steps=10", "resume=auto", *extra) == 0
    a, b = parameters(tmp_path / "straight"), parameters(tmp_path / "split")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_killed_run_goes_on_bit_for_bit(dataset: Path, tmp_path: Path) -> None:
    """40 steps are 20, kill -9, and 20 more."""
    words = [f"data={dataset}", "batch_size=8", "steps=40", "checkpoint_every=20", "arch.fusion_dropout=0.1"]
    words += ["eval.every=0", "log.tensorboard=false"]
    out = tmp_path / "killed"
    process = _start("geolink", *words, f"out={out}")
    path = out / "checkpoint.pt"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not path.exists():
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    assert load_checkpoint(path)["step"] == 20
    main_words = ["model=tiny", "--quiet", *words]
    assert main(GEOLINK, [*main_words, f"out={out}", "resume=auto"]) == 0
    assert main(GEOLINK, [*main_words, f"out={tmp_path}/straight"]) == 0
    a, b = (load_checkpoint(folder / "checkpoint.pt") for folder in (out, tmp_path / "straight"))
    assert a["step"] == b["step"] == 40
    assert all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])
    for name, moments in a["optimizer"]["state"].items():
        assert all(torch.equal(moments[k], b["optimizer"]["state"][name][k]) for k in moments)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 30, 40]


def _launch(count: int, *words: str) -> None:
    """``words`` under torchrun, on so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


_FOUR_STEPS = ["batch_size=8", "steps=4", "eval.every=0", "log.tensorboard=false", "optim.lr=1e-4"]
_FOUR_STEPS += ["stream.augment.enabled=false"]
#: Words of GAIR on two processes that are like those on one beside them.
_ALIKE = {
    "apart": (["loss.gather=false", "loss.secl=0", "optim.clip=0"], ["accumulate=2"]),
    "together": (["loss.gather=true"], []),
}


@pytest.fixture(scope="module")
def on_two_ranks(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made: `two-one-ddp`, the first half of a run; `one-two-ddp`, the second half of one that a
    process alone began; the same of fsdp; GAIR's runs; and the gradients of TAILS."""
    folder = tmp_path_factory.mktemp("two")
    assert run(GEOLINK, dataset, folder / "one-two", *_FOUR_STEPS, "stop_after=2") == 0
    runs: list[tuple[str, list[str]]] = []
    for parallel in ("ddp", "fsdp"):
        shutil.copytree(folder / "one-two", folder / f"one-two-{parallel}")
        for name, more in (("two-one", "stop_after=2"), ("one-two", "resume=auto")):
            runs.append(("geolink", [f"out={folder}/{name}-{parallel}", f"parallel={parallel}", *_FOUR_STEPS, more]))
    runs += [("gair", [f"out={folder}/{name}", "steps=4", "batch_size=8", *two]) for name, (two, _) in _ALIKE.items()]
    common = [f"data={dataset}", "model=tiny", "--quiet"]
    cases = {name: [case.trainer, case.two, case.gap] for name, case in TAILS.items()}
    words = [json.dumps([(name, common + words) for name, words in runs]), str(dataset), str(folder), json.dumps(cases)]
    _launch(2, "-m", "tests.trainers.engine.several", *words)
    return folder


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", ["two-one", "one-two"])
def test_another_number_of_processes_goes_on(
    dataset: Path, on_two_ranks: Path, tmp_path: Path, name: str, parallel: str
) -> None:
    """Two processes, then one, or the reverse: as one from the start; masks and order follow the position alone."""
    mixed = on_two_ranks / f"{name}-{parallel}"
    half = load_checkpoint((mixed if name == "two-one" else on_two_ranks / "one-two") / "checkpoint.pt")
    assert half["step"] == 2
    if name == "two-one":
        assert run(GEOLINK, dataset, mixed, *_FOUR_STEPS, "resume=auto") == 0
    assert load_checkpoint(mixed / "checkpoint.pt")["step"] == 4
    assert run(GEOLINK, dataset, tmp_path / "one", *_FOUR_STEPS) == 0
    a, b = parameters(tmp_path / "one"), parameters(mixed)
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[k], b[k], atol=3e-4) for k in a)
    # The tolerance is more than two steps move most weights: the way that they went since then is a finer measure.
    off, way = (sum((a[k] - other[k]).square().sum() for k in a) for other in (b, half["model"]))
    assert off < 1e-4 * way


def test_values_that_are_not_finite_name_the_samples(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(GEOLINK, dataset, tmp_path / "r", "steps=3", "stop_after=1", "eval.every=0") == 0
    state = load_checkpoint(tmp_path / "r" / "checkpoint.pt")
    state["model"]["tag_head.bias"][0] = float("nan")
    save_checkpoint(tmp_path / "r" / "checkpoint.pt", state)
    assert run(GEOLINK, dataset, tmp_path / "r", "steps=3", "resume=auto", "eval.every=0") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "not finite at step 2" in last
    assert "xyz-16-" in last
    assert load_checkpoint(tmp_path / "r" / "checkpoint.pt")["step"] == 1  # nothing is kept of it


def test_tensorboard_gets_the_same_numbers(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="optional; pip install tensorboard")
    assert run(GAIR, dataset, tmp_path / "r", "steps=2", "log_every=1") == 0
    assert list((tmp_path / "r" / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("log", ["log.wandb=geoshards", "log.tensorboard=true"])
def test_a_tracker_without_its_package_is_refused_before_anything_is_made(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, log: str
) -> None:
    name = log.partition("=")[0].partition(".")[2]
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    monkeypatch.setattr(report, "find_spec", lambda _: None)
    assert run(GEOLINK, dataset, tmp_path / "r", "steps=1", log) == 1
    assert capsys.readouterr().err == f"error: {log} needs the package {name}: pip install {name}\n"
    assert not (tmp_path / "r").exists()


def test_wandb_gets_the_same_numbers_in_one_run(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="optional; pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ["steps=2", "log_every=1", "log.wandb=p", "eval.every=0"]
    assert run(GEOLINK, dataset, tmp_path / "r", *words, "stop_after=1") == 0
    assert run(GEOLINK, dataset, tmp_path / "r", *words, "resume=auto") == 0
    folders = list((tmp_path / "r" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert {f.name.rpartition("-")[2] for f in folders} == {(tmp_path / "r" / "wandb.id").read_text()}
    for folder in folders:
        (record,) = folder.glob("run-*.wandb")
        # Its records are protocol buffers, whose text stands as it is.
        assert all(word in record.read_bytes() for word in (b"grad_norm", b"samples_per_second", b"fusion_dropout"))


@pytest.mark.parametrize("name", ["geolink", "joint"])
def test_a_compiled_model_trains(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    compiled = torch.compile

    def eager(*given: Any, **options: Any) -> Any:  # the same graphs without the time that a C++ compiler takes
        return compiled(*given, **options | {"backend": "eager", "fullgraph": True})

    monkeypatch.setattr(torch, "compile", eager)
    words = ["steps=1", "eval.every=0", "log.tensorboard=false", "compile=true"]
    assert run(TASKS[name], dataset, tmp_path / "r", *words) == 0


def test_accumulation_equals_one_batch_of_reconstruction(dataset: Path, tmp_path: Path) -> None:
    words = ["steps=8", "loss.cont=0", "loss.cst=0", "optim.clip=0", "stream.augment.enabled=false"]
    assert run(GEOLINK, dataset, tmp_path / "one", *words) == 0
    assert run(GEOLINK, dataset, tmp_path / "four", "accumulate=4", *words) == 0
    a, b = parameters(tmp_path / "one"), parameters(tmp_path / "four")
    assert all(torch.allclose(a[k], b[k], atol=2e-3) for k in a)


@pytest.mark.parametrize("name", ["geolink", "gair"])
def test_losses_fall(learnable: Path, tmp_path: Path, name: str) -> None:
    words = ["steps=60", "log_every=5", "batch_size=16"]
    words += ["loss.cont=0.5", "loss.cst=0.5"] if name == "geolink" else ["arch.photos=1"]
    assert main(TASKS[name], [f"data={learnable}", f"out={tmp_path}/r", "model=tiny", "--quiet", *words]) == 0
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    chance = torch.log(torch.tensor(16.0)).item()
    if name == "geolink":
        assert rows[-1]["rec"] < rows[0]["rec"] - 0.1
        assert rows[-1]["cst"] < rows[0]["cst"]
        assert sum(r["cont"] for r in rows[-3:]) / 3 < chance - 0.4
    else:
        assert sum(r["incl"] for r in rows[-3:]) / 3 < chance - 0.4


def test_a_checkpoint_has_its_parts_and_needs_no_unpickling(dataset: Path, tmp_path: Path) -> None:
    assert run(GAIR, dataset, tmp_path / "r", "epochs=1") == 0
    state = torch.load(tmp_path / "r" / "checkpoint.pt", weights_only=True)
    assert set(state) == set(KEYS)
    assert state["step"] == 6
    assert state["stream"]["epoch"] == 1
    assert state["stream"]["position"] == 0
    assert str(tmp_path) not in json.dumps(state["config"])
    assert (tmp_path / "r" / "config.yaml").exists()


def test_a_finished_run_resumed_does_nothing(dataset: Path, tmp_path: Path) -> None:
    assert run(GAIR, dataset, tmp_path / "r", "steps=2") == 0
    before = parameters(tmp_path / "r")
    assert run(GAIR, dataset, tmp_path / "r", "steps=2", "resume=auto") == 0
    assert all(torch.equal(before[k], v) for k, v in parameters(tmp_path / "r").items())


def test_another_batch_size_goes_on_from_the_same_sample(dataset: Path, tmp_path: Path) -> None:
    assert run(GAIR, dataset, tmp_path / "r", "epochs=2", "stop_after=3") == 0
    assert run(GAIR, dataset, tmp_path / "r", "epochs=2", "batch_size=4", "resume=auto") == 0
    state = load_checkpoint(tmp_path / "r" / "checkpoint.pt")
    count = state["dataset"]["samples"]
    assert state["step"] == 3 + -(-(count - 24) // 4) + -(-count // 4)
    assert state["scheduler"]["samples"] == 2 * count


@pytest.mark.parametrize("name", TASKS)
def test_bfloat16_trains(dataset: Path, tmp_path: Path, name: str) -> None:
    assert run(TASKS[name], dataset, tmp_path / "r", "steps=2", "precision=bf16") == 0
    assert all(value.isfinite().all() for value in parameters(tmp_path / "r").values())


def test_data_comes_from_the_environment(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEOSHARDS_DATA", str(dataset))
    assert main(GEOLINK, [f"out={tmp_path}/r", "device=cpu", "dry_run=true", "--json", "model=tiny"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 53


def test_a_run_is_not_overwritten(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(GAIR, dataset, tmp_path / "r", "steps=1") == 0
    assert run(GAIR, dataset, tmp_path / "r", "steps=1") == 1
    assert "resume=auto" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1"], "seed was 0, is 1"),
        (["arch.dim=32"], "another arch"),
        (["loss.dist=0.2"], "other losses"),
        (["stream.select=n_rs > 0 AND n_line > 0"], "selection_hash"),
    ],
)
def test_resume_with_other_settings_is_refused_by_name(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(GAIR, dataset, tmp_path / "r", "steps=4", "stop_after=1") == 0
    assert run(GAIR, dataset, tmp_path / "r", "steps=4", "resume=auto", *words) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_dry_run_writes_nothing(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"data={dataset}", f"out={tmp_path}/r", "model=tiny", "dry_run=true", "--json"]
    assert main(GEOLINK, words) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["samples"] == 53
    assert plan["parameters"] > 0
    assert plan["losses"]["loss"] > 0
    assert not (tmp_path / "r").exists()


def test_metrics_of_a_resumed_run_have_no_line_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    metrics = Metrics(path, 2)
    metrics.write({"step": 3})
    metrics.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_a_checkpoint_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, dict.fromkeys(KEYS, 1) | {"version": {"layout": LAYOUT}})

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(InputError, match="disk full"):
        save_checkpoint(path, dict.fromkeys(KEYS, 2))
    assert load_checkpoint(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_the_disk_does_not_take_is_one_line_and_the_old_one_stays(tmp_path: Path) -> None:
    """At any moment of it: torch's own end of the file fails in its turn."""
    path = tmp_path / "checkpoint.pt"
    state = dict.fromkeys(KEYS, 1) | {"version": {"layout": LAYOUT}}
    save_checkpoint(path, state)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (0, 100_000, 299_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            with pytest.raises(InputError, match=rf"{path} cannot be written: File too large; free space"):
                save_checkpoint(path, state | {"model": torch.zeros(75_000)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_checkpoint_says_so(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(DatasetError, match="damaged"):
        load_checkpoint(path)
    torch.save({"model": 1}, path)
    with pytest.raises(DatasetError, match="lacks optimizer"):
        load_checkpoint(path)


def test_the_schedule_counts_samples() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    schedule = CosineSchedule(optimizer, OptimSettings(lr=1.0, min_lr=0.1, warmup_samples=100), 1100)
    assert [schedule.rate(n) for n in (50, 100, 600, 1100, 2000)] == pytest.approx([0.5, 1.0, 0.55, 0.1, 0.1])


def test_biases_norms_and_tokens_do_not_decay() -> None:
    settings, _, _ = parse(GEOLINK, ["model=tiny"])
    model = GEOLINK.build(settings)
    groups = make_optimizer(model, settings.optim, torch.device("cpu")).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    plain = {names[id(p)] for p in groups[1]["params"]}
    assert {"vit.cls_token", "vit.norm.weight", "vit.blocks.0.attn.qkv.bias", "decoder.mask_token"} <= plain
    assert groups[1]["weight_decay"] == 0
    assert not any(n.endswith("qkv.weight") for n in plain)


def _start(name: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "trainers" / f"{name}.py"), "model=tiny", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")


def test_a_signal_saves_and_the_run_goes_on_from_it(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    words = [f"data={dataset}", f"out={out}", "batch_size=8", "steps=100000", "log_every=1"]
    process = _start("gair", *words)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (out / "metrics.jsonl").exists():
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("error: stopped by SIGTERM after step")
    assert "Traceback" not in err
    step = load_checkpoint(out / "checkpoint.pt")["step"]
    assert main(GAIR, [*words, "model=tiny", "resume=auto", "stop_after=2", "--quiet"]) == 0
    assert load_checkpoint(out / "checkpoint.pt")["step"] == step + 2


def test_the_script_runs_from_anywhere(dataset: Path, tmp_path: Path) -> None:
    assert os.access(ROOT / "trainers" / "geolink.py", os.X_OK)
    process = _start(
        "geolink", f"data={dataset}", f"out={tmp_path}/r", "steps=2", "batch_size=8", "stream.workers=1", "--json"
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert summary["step"] == 2
    assert {row["stage"] for row in summary["stages"]} == {"load", "wait", "train", "steps"}


@pytest.mark.parametrize("name", _ALIKE)
def test_two_ranks_train_as_one(dataset: Path, on_two_ranks: Path, tmp_path: Path, name: str) -> None:
    """Without gathering, ranks are micro-batches; with it, they are one large batch."""
    two, alone = _ALIKE[name]
    assert run(GAIR, dataset, tmp_path / "one", "steps=4", *two, *alone) == 0
    a, b = parameters(tmp_path / "one"), parameters(on_two_ranks / name)
    for state in (a, b):  # ranks push their places in another order
        state["queue.places"] = state["queue.places"].sort(0).values
    assert all(torch.allclose(a[k], b[k], atol=1e-4) for k in a)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_log_the_losses_of_both(on_two_ranks: Path, parallel: str) -> None:
    one, two = (
        json.loads((on_two_ranks / name / "metrics.jsonl").read_text().splitlines()[0])
        for name in ("one-two", f"two-one-{parallel}")
    )
    names = ("step", "samples", "loss", "rec", "cont", "cst", "grad_norm", "lr")
    assert {n: two[n] for n in names} == pytest.approx({n: one[n] for n in names}, rel=1e-4)


@dataclass(frozen=True)
class Tail:
    """A trainer, its words on two processes, and on one that must give the same gradients."""

    trainer: str
    two: list[str]
    one: list[str]
    gap: bool = True  # whether a sample cannot be read; micro-batches count the samples that they were to have


_KEPT = ["loss.dist=0.2", "arch.temperature_learned=true"]
_CACHED, _LOCAL = [*_KEPT, "accumulate=2", "accumulate_contrast=true"], ["loss.gather=false", "loss.secl=0"]
_EVERY = ["loss.task_weights.osm_photo=0.5", "loss.task_weights.osm_location=0.5", "loss.weighting=uncertainty"]
_PIXELS, _APART, _ODD = ["loss.cont=0", "loss.cst=0"], ["loss.gather=false"], ["stream.limit=45"]
TAILS = {
    "one batch": Tail("geolink", [], []),
    "means by sample": Tail("geolink", ["arch.cst_mean=sample"], ["arch.cst_mean=sample"]),
    "photos": Tail("gair", _ODD, _ODD),
    "one contrast": Tail("gair", [*_ODD, *_CACHED], [*_ODD, *_KEPT]),
    "one contrast a rank": Tail("gair", [*_ODD, *_CACHED, *_LOCAL], [*_ODD, *_KEPT, *_LOCAL, "accumulate=2"]),
    "both tasks": Tail("joint", _ODD, _ODD),
    "all four": Tail("joint", [*_ODD, *_EVERY], [*_ODD, *_EVERY]),
    "all four by turns": Tail("joint", [*_ODD, *_EVERY, "loss.alternate=8"], [*_ODD, *_EVERY, "loss.alternate=8"]),
    "shards of all four": Tail("joint", [*_ODD, *_EVERY, "parallel=fsdp"], [*_ODD, *_EVERY]),
    "ranks as micro-batches of both": Tail(
        "joint",
        [*_APART, *_ODD, *_EVERY, "loss.gair.secl=0"],
        [*_APART, *_ODD, *_EVERY, "loss.gair.secl=0", "accumulate=2"],
    ),
    "pixels of micro-batches": Tail("geolink", [*_PIXELS, "accumulate=2"], _PIXELS, gap=False),
    "micro-batches of ranks": Tail("geolink", [*_APART, "accumulate=2"], [*_APART, "accumulate=4"]),
    "micro-batches of ranks of photos": Tail(
        "gair",
        [*_APART, *_ODD, "loss.secl=0", "accumulate=2"],
        [*_APART, *_ODD, "loss.secl=0", "accumulate=4"],
    ),
    "ranks as micro-batches": Tail("geolink", _APART, [*_APART, "accumulate=2"]),
    "ranks as micro-batches of photos": Tail(
        "gair", [*_APART, *_ODD, "loss.secl=0"], [*_APART, *_ODD, "loss.secl=0", "accumulate=2"]
    ),
}


def test_the_last_batch_of_an_epoch_has_the_same_gradient_on_two_ranks(dataset: Path, on_two_ranks: Path) -> None:
    """Its samples are spread unevenly, and one cannot be read: each counts the same on whichever rank it is."""
    for name, case in TAILS.items():
        expected = tail.gradients(str(dataset), case.trainer, case.one, case.gap)
        found = torch.load(on_two_ranks / f"{name}.pt")
        assert {n for n, g in found.items() if g.any()} == {n for n, g in expected.items() if g.any()}
        error = torch.cat([(found[n] - g).flatten() for n, g in expected.items()]).norm()
        size = torch.cat([g.flatten() for g in expected.values()]).norm()
        assert error < 1e-5 * size, f"{name}: {error / size:.2g}"

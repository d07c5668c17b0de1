"""Promises of the trainers' command line: which settings its words give, what it refuses, what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.errors import ConfigError
from trainers.engine import cli
from trainers.engine.cli import _show, help_text, main, parse
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK

TASKS = {"geolink": GEOLINK, "gair": GAIR}


def test_settings_come_from_preset_file_and_overrides_in_that_order(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: tiny\nbatch_size: 4\noptim: {lr: 5e-4, clip: 2}\narch: {vit: {depth: 2}}\n")
    settings, quiet, _ = parse(GEOLINK, ["--config", str(file), "optim.lr=3e-4", "epochs=2", "--quiet"])
    assert quiet
    assert settings.model == "tiny"
    assert settings.batch_size == 4
    assert (settings.optim.lr, settings.optim.clip, settings.optim.beta2) == (3e-4, 2.0, 0.95)
    assert settings.epochs == 2
    assert settings.steps is None
    vit = settings.arch.vit  # type: ignore[attr-defined]  # of GeoLink
    assert (vit.depth, vit.dim) == (2, 96)


@pytest.mark.parametrize("name", TASKS)
def test_presets_build_and_help_names_the_settings(name: str) -> None:
    task = TASKS[name]
    for preset in task.presets.sizes:
        settings, _, _ = parse(task, [f"model={preset}"])
        assert task.view(settings).image_size % 8 == 0
    text = help_text(task)
    assert "stream.max_corrupt=100" in text


def test_recipes_are_files_and_the_hardware_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    for task in TASKS.values():
        assert {"tiny", "one_gpu", "paper"} <= set(task.presets.recipes) <= {"tiny", "small_data", "one_gpu", "paper"}
        for recipe in task.presets.recipes:
            assert parse(task, [f"preset={recipe}"])[0].preset == recipe
    with pytest.raises(ConfigError, match="preset=small_data is none of geolink; choose auto, none, tiny"):
        parse(GEOLINK, ["preset=small_data"])
    paper, _, _ = parse(GEOLINK, ["preset=paper"])
    assert (paper.model, paper.batch_size, paper.epochs, paper.steps) == ("large", 2640, 60, None)
    assert (paper.fidelity, paper.optim.lr, paper.precision) == ("paper", 1e-4, "bf16")
    assert parse(GEOLINK, ["preset=paper", "model=tiny", "epochs=1"])[0].model == "tiny"
    assert parse(GEOLINK, ["preset=paper", "steps=7"])[0].epochs is None
    gair, _, _ = parse(GAIR, ["preset=paper"])
    assert (gair.model, gair.fidelity, gair.epochs, gair.batch_size // gair.accumulate) == ("base", "paper", 300, 512)
    for found, recipe in (("tiny", "tiny"), ("base", "one_gpu")):
        monkeypatch.setattr(cli, "automatic_preset", lambda found=found: found)
        settings, _, _ = parse(GEOLINK, [])
        assert (settings.preset, settings.model) == (recipe, found)
        assert parse(GEOLINK, ["model=small"])[0].preset == "none"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stepz=3"], "did you mean steps"),
        (["steps=x"], "wrong type"),
        (["--fast"], "not understood"),
        (["20"], "not understood"),
        (["model=huge"], "choose one of"),
        (["steps=1", "epochs=1"], "not both"),
        (["arch.vit.patch=7"], "multiple of patch"),
        (["data=a:0.5,b"], "b has no weight"),
        (["--config"], "needs a file"),
        (["steps=0"], "at least 1"),
        (["stream.shuffle=globl"], "did you mean global"),
    ],
)
def test_a_wrong_call_exits_with_2(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(GEOLINK, words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_missing_data_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GEOLINK, [f"data={tmp_path}/none", "model=tiny", f"out={tmp_path}/r"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {tmp_path}/none/dataset.json does not exist")
    assert not (tmp_path / "r").exists()


def test_what_trainers_say_of_others_does_nothing_to_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(GEOLINK, [f"data={tmp_path}/\u202e", "model=tiny", f"out={tmp_path}/r"]) == 1
    _show({"steps": "\x1b[2J", "corrupt": ["\u202e"]}, quiet=False, as_json=False)
    said = "".join(capsys.readouterr())
    assert r"steps: \x1b[2J" in said
    assert r"unreadable: \u202e" in said
    assert not {"\x1b", "\u202e"} & set(said)


def test_unknown_settings_are_config_errors() -> None:
    with pytest.raises(ConfigError, match=r"did you mean optim.lr"):
        parse(GEOLINK, ["optim.lrr=1"])


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["data=none", "--help", "stepz=3"]])
def test_help_is_printed_whatever_else_is_asked(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GEOLINK, words) == 0
    assert capsys.readouterr() == (f"{help_text(GEOLINK)}\n", "")


def test_a_run_that_is_not_quiet_says_what_it_reads_measures_and_writes(
    split_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"data={split_dataset}", f"out={tmp_path}/r", "model=tiny", "batch_size=4", "steps=2", "eval.every=1"]
    assert main(GEOLINK, [*words, "log.tensorboard=false"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads((tmp_path / "r" / "evaluation.json").read_text())
    said = [line for line in err.splitlines() if line.startswith("validation at step ")]
    assert len(said) == len(rows) == 2
    for line, row in zip(said, rows, strict=True):
        assert line.startswith(f"validation at step {row['step']}  loss {row['loss']:.4g}  rec {row['rec']:.4g}  ")
    assert any(line.startswith("tags: hash, ") for line in err.splitlines())
    assert any(line.startswith("order: global") for line in err.splitlines())
    assert out.splitlines()[-1] == f"checkpoint: {tmp_path}/r/checkpoint.pt"


@pytest.mark.parametrize(
    "name",
    [
        "steps", "epochs", "stop_after", "batch_size", "accumulate", "threads", "log_every", "checkpoint_every",
        "ray_workers", "arch.mask_block", "arch.tag_rows", "arch.osm_nodes", "arch.osm_depth", "arch.fused_nodes",
    ],
)  # fmt: skip
def test_a_number_of_things_is_at_least_one(name: str) -> None:
    parse(GEOLINK, ["model=tiny", f"{name}=1"])
    for value in (0, -1):
        with pytest.raises(ConfigError, match=rf"{name}={value} must be at least 1"):
            parse(GEOLINK, ["model=tiny", f"{name}={value}"])


@pytest.mark.parametrize("name", ["optim.warmup", "arch.image_mask", "arch.node_mask"])
def test_a_share_that_leaves_nothing_is_refused(name: str) -> None:
    for value in (0, 0.99):
        parse(GEOLINK, ["model=tiny", f"{name}={value}"])
    for value in (-0.01, 1, 1.5):
        with pytest.raises(ConfigError, match=rf"{name}.* must lie in \[0, 1\)"):
            parse(GEOLINK, ["model=tiny", f"{name}={value}"])


@pytest.mark.parametrize("part", ["fusion_", "decoder_", "osm_", "vit."])
def test_heads_divide_their_width(part: str) -> None:
    words = [f"arch.{part}dim=52", f"arch.{part}heads=8"]
    with pytest.raises(ConfigError, match=r"dim=52 must be divisible by .*heads"):
        parse(GEOLINK, ["model=small", *words])
    parse(GEOLINK, ["model=small", words[0], f"arch.{part}heads=4"])


def test_a_fidelity_brings_data_and_recipe_between_size_and_preset() -> None:
    """Over the size, under the preset and the user; its length takes the place of the size's."""
    ours, paper, released = (
        parse(GAIR, ["model=tiny", f"fidelity={name}"])[0] for name in ("ours", "paper", "released")
    )
    rate = 1.5e-6 * 256 * 96 * 2 / 256
    for found in (paper, released):
        assert (found.optim.lr, found.optim.clip, found.optim.min_lr) == (pytest.approx(rate), 0, 1e-14)
        assert (found.optim.beta1, found.optim.beta2, found.optim.weight_decay) == (0.9, 0.95, 0.05)
        assert found.optim.warmup * 300 == pytest.approx(10)
        assert (found.epochs, found.steps, found.batch_size) == (300, None, 16)  # the batch is the size's
        assert len(found.arch.bands) == 10
        look = found.stream.augment
        assert (look.flip, look.crop, look.rotate, look.jitter, look.brightness, look.contrast) == (
            0,
            0,
            0,
            0.7,
            0.2,
            0.2,
        )
        assert (look.photo_flip, look.photo_jitter, look.photo_colour) == (0.5, 0.3, 0.1)
        assert found.arch.rs.dim == ours.arch.rs.dim
    assert paper.stream.augment.jitter_bands == ("B2", "B3", "B4")
    assert released.stream.augment.jitter_bands == ("B3", "B4", "B5")  # what channels 1, 2, 3 are once B1 is dropped
    assert (ours.epochs, ours.steps, ours.arch.bands, ours.optim.clip) == (None, 200, ("red", "green", "blue"), 1.0)
    words = ["fidelity=released", "optim.lr=1e-3", "stream.augment.flip=0.5", "arch.bands=[R,G,B]", "steps=5"]
    mine, _, _ = parse(GAIR, ["preset=tiny", *words])
    assert (mine.optim.lr, mine.stream.augment.flip, mine.arch.bands) == (1e-3, 0.5, ("R", "G", "B"))
    assert (mine.steps, mine.epochs, mine.stream.augment.jitter, mine.optim.clip) == (5, None, 0.7, 0)
    assert parse(GAIR, ["preset=tiny", "fidelity=paper"])[0].steps == 40
    assert parse(GEOLINK, ["model=tiny", "fidelity=paper"])[0].optim == parse(GEOLINK, ["model=tiny"])[0].optim

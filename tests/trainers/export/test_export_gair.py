"""Promises of exports of GAIR, against the model that was trained."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from schemas.errors import ConfigError
from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.cli import main
from trainers.export.load import load_encoder, load_multimodal
from trainers.export.weights import export
from trainers.models.gair.model import Gair
from trainers.models.gair.settings import GairInit
from trainers.tasks.gair import GAIR

_SMALL = (
    "model=tiny steps=1 batch_size=4 eval.every=0 log.tensorboard=false --quiet arch.rs.image_size=32 arch.rs.depth=1 "
    "arch.sv.image_size=32 arch.sv.depth=1 arch.queue=32 loss.dist=0.2 arch.decoder_depth=1"
)


@pytest.fixture(scope="module", params=["croma", "vit", "conv"])
def checkpoint(request: pytest.FixtureRequest, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step old, with decoders and first encoders, which only pretraining needs."""
    out = tmp_path_factory.mktemp("gair") / request.param
    words = [f"data={dataset}", f"out={out}", f"arch.rs_encoder={request.param}", *_SMALL.split()]
    words += ["arch.sv_encoder=conv"] if request.param == "conv" else ["loss.rec=0.5"]
    assert main(GAIR, words) == 0
    return out / "checkpoint.pt"


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Gair:
    state = load_checkpoint(checkpoint)
    model = Gair.of(state["config"])
    model.load_state_dict(state["model"])
    return model.eval()


def pixels(model: Gair, count: int = 3) -> torch.Tensor:
    side = model.settings.rs.image_size
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0)).float()


def test_the_image_encoder_has_the_names_of_its_origin_and_says_its_pixels(
    checkpoint: Path, model: Gair, tmp_path: Path
) -> None:
    kind = model.settings.rs_encoder
    if kind == "conv":
        with pytest.raises(ConfigError, match="is a convnet; give --format safetensors"):
            export(checkpoint, "timm", tmp_path / "none")
        return
    form, other = {"croma": ("croma", "timm"), "vit": ("timm", "croma")}[kind]
    path = tmp_path / "rs.safetensors"
    export(checkpoint, form, path)
    held = load_file(path)
    some = {"croma": "transformer.layers.0.0.to_qkv.weight", "vit": "blocks.0.attn.qkv.weight"}[kind]
    assert some in held
    assert held.keys() == {n.removeprefix("rs.") for n in model.state_dict() if n.startswith("rs.")}
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["config"])
    image = pixels(model)
    mean, std = (torch.tensor(facts[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    own = type(model.rs)(model.settings.rs, len(facts["bands"]))
    own.load_state_dict(held)
    torch.testing.assert_close(own((image / 255 - mean) / std), model.rs(model.rs_norm(image)), atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match=f"give --format {form}"):
        export(checkpoint, other, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_vit_that_was_exported_starts_another_model(checkpoint: Path, model: Gair, tmp_path: Path) -> None:
    if model.settings.rs_encoder != "vit":
        pytest.skip("CROMA's published weights have all twelve bands")
    export(checkpoint, "timm", tmp_path / "rs.safetensors")
    fresh = Gair(model.settings)
    fresh.load(GairInit(rs=f"{tmp_path}/rs.safetensors"))
    assert torch.equal(fresh.rs(fresh.rs_norm(pixels(model))), model.rs(model.rs_norm(pixels(model))))


def test_encoders_load_alone_and_equal_those_that_were_trained(checkpoint: Path, model: Gair, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    export(checkpoint, "multimodal", path)
    held = torch.load(path, weights_only=True)["model_state_dict"]
    parts = {name.split(".")[0] for name in held}
    assert parts == {"rs", "sv", "sv_head", "nili", "facing", "location"}
    encoders = {name: load_encoder(path, name) for name in ("image", "photo", "location")}
    image, photo = pixels(model), pixels(model)
    lonlat = torch.tensor([[9.5, 47.1], [-170.0, -44.0]], dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(encoders["image"](image), model.rs(model.rs_norm(image)))
        assert torch.equal(encoders["photo"](photo), model.sv_head(model.sv(model.sv_norm(photo))))
        assert torch.equal(encoders["location"](lonlat), model.location(lonlat))
    with pytest.raises(ConfigError, match=r"no encoder 'osm'; it has image, location, photo"):
        load_encoder(path, "osm")
    whole = load_multimodal(path)
    tokens = model.rs(model.rs_norm(image))
    at, cell = torch.full((3, 2), 0.3), torch.full((3,), 8.0)
    assert torch.equal(whole.nili(tokens, torch.arange(3), at, cell), model.nili(tokens, torch.arange(3), at, cell))


def test_scripted_and_whole_weights_equal_the_model(checkpoint: Path, model: Gair, tmp_path: Path) -> None:
    export(checkpoint, "torchscript", tmp_path / "rs.ts")
    scripted = torch.jit.load(str(tmp_path / "rs.ts"))
    image = pixels(model, 5)
    torch.testing.assert_close(scripted(image), model.rs(model.rs_norm(image)), atol=1e-5, rtol=1e-5)
    export(checkpoint, "safetensors", tmp_path / "all.safetensors")
    assert load_file(tmp_path / "all.safetensors").keys() == model.state_dict().keys()


@pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs onnxscript; pip install onnx onnxscript")
def test_onnx_equals_the_model_for_any_batch(checkpoint: Path, model: Gair, tmp_path: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    export(checkpoint, "onnx", tmp_path / "rs.onnx")
    image = pixels(model, 3)
    found = ReferenceEvaluator(str(tmp_path / "rs.onnx")).run(None, {"image": image.numpy()})[0]
    expected = model.rs(model.rs_norm(image)).detach()
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)

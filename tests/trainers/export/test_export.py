"""Promises of exports and of the downstream heads."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.cli.main import main as geoshards
from schemas.errors import ConfigError, DatasetError
from tests.trainers.batches import PLAIN, trained
from trainers.engine.checkpoint import load_checkpoint, save_checkpoint
from trainers.engine.cli import main
from trainers.engine.settings import Task
from trainers.evaluate.heads import ChangeHead, RegressionHead, UperNet, to_map
from trainers.export import FORMATS
from trainers.export import weights as weights_module
from trainers.export.load import load_encoder, load_multimodal
from trainers.export.weights import architecture, export
from trainers.models.gair.model import Gair
from trainers.models.geolink import GeoLink
from trainers.models.joint.model import Joint
from trainers.models.vit import SIZES, ViT, ViTSettings
from trainers.stream.batch import TileBatch
from trainers.stream.stream import GeoStream
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK
from trainers.tasks.joint import JOINT


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of timm's smallest named size, but four blocks deep, one step old."""
    out = tmp_path_factory.mktemp("export") / "run"
    words = [f"data={dataset}", f"out={out}", "model=tiny", "steps=1", "batch_size=4", "eval.every=0", "--quiet"]
    words += ["arch.vit.dim=192", "arch.vit.image_size=48", "arch.vit.depth=6", "log.tensorboard=false"]
    assert main(GEOLINK, words) == 0
    return out


@pytest.fixture(scope="module")
def checkpoint(run: Path) -> Path:
    return run / "checkpoint.pt"


@pytest.fixture(scope="module")
def batch(dataset: Path, checkpoint: Path) -> TileBatch:
    view = GeoLink.view(trained(checkpoint).settings)
    return next(GeoStream(str(dataset), view, batch_size=6, settings=PLAIN).batches())


def exported(checkpoint: Path, form: str, path: Path) -> Path:
    assert export(checkpoint, form, path) == path.stat().st_size
    return path


def timm_names(depth: int) -> set[str]:
    """Names of a plain ViT without a classifier, as timm has them."""
    block = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    names = {f"blocks.{i}.{b}.{p}" for i in range(depth) for b in block for p in ("weight", "bias")}
    return names | {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
        "norm.weight",
        "norm.bias",
    }


def test_the_vit_has_the_names_and_shapes_of_timm(checkpoint: Path, tmp_path: Path) -> None:
    path = exported(checkpoint, "timm", tmp_path / "vit.safetensors")
    weights = load_file(path)
    assert set(weights) == timm_names(6)
    assert weights["pos_embed"].shape == (1, 10, 192)
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["config"])
    assert facts["norm_eps"] == 1e-6
    assert facts["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert facts["std"] == pytest.approx([0.229, 0.224, 0.225])
    assert [architecture(s) for s in SIZES.values()] == [f"vit_{n}_patch16_224" for n in SIZES]
    assert architecture(ViTSettings(96, 16, 96, 3, 3)) == "custom"


@pytest.mark.parametrize("form", ["timm", "safetensors"])
def test_the_facts_in_a_file_are_those_of_its_weights(checkpoint: Path, tmp_path: Path, form: str) -> None:
    """What timm's class is called with, and what brings 8-bit pixels to what the ViT takes."""
    model, path = trained(checkpoint), exported(checkpoint, form, tmp_path / "w.safetensors")
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["config"])
    assert ViTSettings(**{f.name: facts[f.name] for f in fields(ViTSettings)}) == model.settings.vit
    assert facts["architecture"] == "custom"  # of timm's width, not of its depth
    assert facts["pos_embed_requires_grad"] is model.vit.pos_embed.requires_grad
    assert (facts["num_classes"], facts["global_pool"]) == (0, "")  # all tokens, no classifier
    assert tuple(facts["bands"]) == model.settings.bands
    image = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    mean, std = (torch.tensor(facts[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(model.norm(image), (image / 255 - mean) / std, atol=1e-5, rtol=1e-5)
    if form == "safetensors":
        other = GeoLink.of(facts["training"])
        other.load_state_dict(load_file(path))
        assert (other.settings, other.fidelity) == (model.settings, model.fidelity)


@pytest.mark.parametrize("form", [f for f in FORMATS if f != "croma" and (f != "onnx" or find_spec("onnxscript"))])
def test_the_command_writes_a_file_of_its_form_beside_the_checkpoint(
    checkpoint: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ending = {"timm": ".safetensors", "multimodal": ".pt", "torchscript": ".ts", "onnx": ".onnx"}
    path = checkpoint.with_name(f"checkpoint-{form}{ending.get(form, '.safetensors')}")
    assert geoshards(["export", str(checkpoint), "--format", form]) == 0
    assert capsys.readouterr().out == f"{path}: {FORMATS[form][1]}\n"
    held = path.read_bytes()
    other = checkpoint.with_name("other")
    assert geoshards(["export", str(checkpoint), "--format", form, "--out", str(other), "--json"]) == 0
    said = {"file": str(other), "format": form, "bytes": other.stat().st_size}
    assert json.loads(capsys.readouterr().out) == said
    if form not in ("torchscript", "onnx"):  # a trace names its parts as it likes
        assert other.read_bytes() == held
    assert geoshards(["export", str(checkpoint), "--format", form, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_timm_gives_the_same_features(checkpoint: Path, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="needs timm; pip install timm")
    weights = load_file(exported(checkpoint, "timm", tmp_path / "vit.safetensors"))
    peer = timm.models.vision_transformer.VisionTransformer(
        img_size=48, patch_size=16, embed_dim=192, depth=6, num_heads=3, num_classes=0, global_pool=""
    )
    peer.load_state_dict(weights, strict=True)
    model = trained(checkpoint)
    image = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(peer.eval()(image), model.vit(image), atol=1e-5, rtol=1e-5)


def test_the_multimodal_model_gives_the_same_hybrid_features(
    checkpoint: Path, tmp_path: Path, batch: TileBatch
) -> None:
    model = trained(checkpoint)
    blocks = model.settings.vit.hybrid_blocks
    other = load_multimodal(exported(checkpoint, "multimodal", tmp_path / "m.pt"))
    assert not hasattr(other, "decoder")
    mine, its = model.hybrid(batch, blocks=blocks), other.hybrid(batch, blocks=blocks)
    assert torch.equal(mine.patches, its.patches)
    assert torch.equal(mine.objects, its.objects)
    assert all(torch.equal(a, b) for a, b in zip(mine.levels, its.levels, strict=True))
    assert int(its.chosen.valid.sum()) == int(batch.node_valid.sum())  # all objects
    assert SIZES["large"].hybrid_blocks == (7, 11, 15)
    with pytest.raises(DatasetError, match="no multimodal export"):
        load_multimodal(tmp_path / "none.pt")


def test_scripted_and_whole_weights_equal_the_model(checkpoint: Path, tmp_path: Path) -> None:
    model = trained(checkpoint)
    weights = load_file(exported(checkpoint, "safetensors", tmp_path / "all.safetensors"))
    assert weights.keys() == model.state_dict().keys()
    scripted = torch.jit.load(str(exported(checkpoint, "torchscript", tmp_path / "v.ts")))
    image = torch.randint(0, 256, (3, 3, 48, 48)).float()
    torch.testing.assert_close(scripted(image), model.vit(model.norm(image)), atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs onnxscript; pip install onnx onnxscript")
def test_onnx_is_written(checkpoint: Path, tmp_path: Path) -> None:
    assert exported(checkpoint, "onnx", tmp_path / "v.onnx").stat().st_size > 1e6


def test_onnx_says_what_it_needs(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install onnx onnxscript"):
        export(checkpoint, "onnx", tmp_path / "v.onnx")
    assert list(tmp_path.iterdir()) == []


#: Tasks beside GeoLink, and the words that give them a ViT of the same size.
OTHERS: dict[str, tuple[Task, list[str]]] = {
    "gair": (GAIR, ["arch.rs_encoder=vit", "arch.rs.image_size=48"]),
    "croma": (GAIR, ["arch.rs.image_size=48"]),
    "joint": (JOINT, ["arch.vit.image_size=48"]),
}


@pytest.fixture(scope="module", params=OTHERS)
def other(request: pytest.FixtureRequest, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoint.pt of one step of the other tasks, in a folder called after them."""
    task, like = OTHERS[request.param]
    out = tmp_path_factory.mktemp("other") / request.param
    words = [f"data={dataset}", f"out={out}", "model=tiny", "steps=1", "batch_size=4", "eval.every=0", "--quiet"]
    assert main(task, [*words, *like, "log.tensorboard=false"]) == 0
    return out / "checkpoint.pt"


def whole_model(path: Path) -> Gair | Joint:
    """As it was trained."""
    state = load_checkpoint(path)
    model = (Joint if state["config"]["task"] == "joint" else Gair).of(state["config"])
    model.load_state_dict(state["model"])
    return model.eval()


def test_every_task_is_exported_in_every_form(other: Path, tmp_path: Path) -> None:
    model = whole_model(other)
    image = torch.randint(0, 256, (3, 3, 48, 48)).float()
    weights = load_file(exported(other, "safetensors", tmp_path / "all.safetensors"))
    assert weights.keys() == model.state_dict().keys()
    if isinstance(model, Joint):
        expected = model.geolink.vit(model.geolink.norm(image))
    else:
        expected = model.rs(model.rs_norm(image))
    scripted = torch.jit.load(str(exported(other, "torchscript", tmp_path / "v.ts")))
    torch.testing.assert_close(scripted(image), expected, atol=1e-5, rtol=1e-5)
    if other.parent.name == "croma":
        with pytest.raises(ConfigError, match="is CROMA's; give --format croma"):
            export(other, "timm", tmp_path / "x")
        assert not (tmp_path / "x").exists()
        return
    vit = ViT(ViTSettings(48, 16, 96, 3, 3))
    vit.load_state_dict(load_file(exported(other, "timm", tmp_path / "vit.safetensors")))
    tokens = vit((image - torch.tensor(_mean(tmp_path / "vit.safetensors", "mean"))) / torch.tensor(
        _mean(tmp_path / "vit.safetensors", "std")
    ))  # fmt: skip
    torch.testing.assert_close(tokens[:, -9:], expected[:, -9:], atol=1e-4, rtol=1e-4)


def _mean(path: Path, name: str) -> list[list[list[float]]]:
    """A statistic of the metadata, in 0..255 and of the shape of an image's."""
    with safe_open(path, "pt") as file:
        return [[[255 * value]] for value in json.loads(file.metadata()["config"])[name]]


def test_the_encoders_of_a_space_load_alone(other: Path, tmp_path: Path, dataset: Path) -> None:
    path = exported(other, "multimodal", tmp_path / "m.pt")
    model, whole = whole_model(other), load_multimodal(path)
    gair = model.gair if isinstance(model, Joint) else model
    names = {n.split(".")[1 if isinstance(model, Joint) else 0] for n in whole.state_dict()}
    assert not names & {"decoder", "tag_head", "queue", "first", "rs_decoder", "sv_decoder"}
    photos = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    lonlat = torch.tensor([[11.5, 48.1], [-70.0, -33.4]]).double()
    image = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    for name, given, expected in (
        ("photo", photos, gair.sv_head(gair.sv(gair.sv_norm(photos)))),
        ("location", lonlat, gair.location(lonlat)),
        ("image", image, gair.rs(gair.rs_norm(image))),
    ):
        alone = load_encoder(path, name)
        torch.testing.assert_close(alone(given), expected)
        assert sum(p.numel() for p in alone.parameters()) < sum(p.numel() for p in whole.parameters()) / 1.5
    if isinstance(model, Joint):
        view = Joint.view(model.settings)
        batch = next(GeoStream(str(dataset), view, batch_size=6, settings=PLAIN).batches())
        nodes = model.geolink.encode_nodes(batch, torch.zeros_like(batch.node_valid))
        region, _ = model.geolink.aggregate(nodes, batch)
        torch.testing.assert_close(load_encoder(path, "objects")(batch), model.geolink.graph_head(region))
    else:
        with pytest.raises(ConfigError, match="no encoder 'objects'; it has image, location, photo"):
            load_encoder(path, "objects")


def test_a_checkpoint_of_no_known_task_is_not_exported(checkpoint: Path, tmp_path: Path) -> None:
    state = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / "c.pt", state | {"config": state["config"] | {"task": "other"}})
    with pytest.raises(DatasetError, match="is of the task other; only those of geolink, gair, joint"):
        export(tmp_path / "c.pt", "timm", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_heads_learn_from_hybrid_features(checkpoint: Path, batch: TileBatch) -> None:
    model = trained(checkpoint)
    hybrid = model.hybrid(batch, blocks=model.settings.vit.hybrid_blocks)
    maps = [to_map(t).clone() for t in (*hybrid.levels, hybrid.patches)]
    widths = [m.shape[1] for m in maps]
    torch.manual_seed(0)
    image = batch.rs.float().mean(1)
    truth = (image > image.mean()).long()
    segment = UperNet(widths, 2, channels=16)
    change = ChangeHead(widths, channels=16)
    number = RegressionHead(widths[-1])
    density = image.mean((1, 2), keepdim=True).flatten(1) / 255
    heads = torch.nn.ModuleList([segment, change, number])
    optimizer = torch.optim.AdamW(heads.parameters(), 3e-3)
    later = [m.roll(1, 0) for m in maps]
    changed = (truth != truth.roll(1, 0)).long()
    history = []
    for _ in range(100):
        losses = torch.stack([
            torch.nn.functional.cross_entropy(segment(maps, 48), truth),
            torch.nn.functional.cross_entropy(change(maps, later, 48), changed),
            (number(hybrid.patches) - density).square().mean(),
        ])  # fmt: skip
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        history.append(losses.detach())
    assert bool((history[-1] < 0.8 * history[0]).all())
    change.eval()
    assert torch.equal(change(maps, later, 48), change(later, maps, 48))

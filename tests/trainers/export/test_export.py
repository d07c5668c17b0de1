"""Promises of exports and of the downstream heads."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from schemas.errors import ConfigError, DatasetError
from tests.trainers.batches import PLAIN, trained
from trainers.engine.cli import main
from trainers.evaluate.finetune import main as finetune
from trainers.evaluate.heads import ChangeHead, RegressionHead, UperNet, confusion, scores, to_map
from trainers.export import weights as weights_module
from trainers.export.load import load_multimodal
from trainers.export.models import architecture
from trainers.export.weights import export
from trainers.models.geolink import GeoLink
from trainers.models.vit import SIZES, ViTSettings
from trainers.stream.batch import TileBatch
from trainers.stream.stream import GeoStream
from trainers.tasks.geolink import GEOLINK


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


def test_upernet_has_the_size_of_the_released_head() -> None:
    """41.8 M parameters at nine classes on ViT-L with the fused map (docs/papers/geolink.md#downstream-heads)."""
    with torch.device("meta"):
        head = UperNet((1024, 1024, 1024, 256), 9)
    assert sum(p.numel() for p in head.parameters()) == pytest.approx(41.8e6, rel=2e-3)


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
    for _ in range(25):
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


def test_scores_of_a_known_confusion() -> None:
    true, named = torch.tensor([0, 0, 1, 1, 255]), torch.tensor([0, 1, 1, 1, 0])
    found = scores(confusion(named, true, 3))
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)  # class 2 neither occurs nor is named
    assert found["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_fine_tuning_on_tiles_in_the_released_layout(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for name in ("img", "label", "graph"):
        (tmp_path / name).mkdir()
    for i in range(8):
        label = np.repeat(np.repeat(rng.integers(0, 2, (3, 3)), 16, 0), 16, 1).astype(np.uint8)
        pixels = np.where(label[..., None] == 1, 200, 40) + rng.integers(0, 20, (48, 48, 3))
        label[:2] = 9 if i % 2 else 255  # "no class" in one city and in another
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "img" / f"t{i}.png")
        Image.fromarray(label).save(tmp_path / "label" / f"t{i}.png")
        (tmp_path / "graph" / f"t{i}.pt").write_bytes(b"a pickle that must not be opened")
    words = [str(checkpoint), str(tmp_path), "--epochs=20", "--batch=4", "--channels=16", "--lr=3e-3", "--freeze"]
    assert finetune(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["train"], found["test"]) == (4, 4)
    assert found["accuracy"] > 0.7
    (tmp_path / "label" / "t3.png").unlink()
    assert finetune(words) == 1
    assert "give each image its label" in capsys.readouterr().err

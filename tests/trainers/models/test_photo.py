"""The photo encoder against transformers' ViT, and files of weights name by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from schemas.bands import RGB
from schemas.errors import ConfigError
from trainers.models.gair.photo import PhotoEncoder
from trainers.models.vit import PatchViT, PixelNorm, ViT, ViTSettings

transformers = pytest.importorskip("transformers", reason="the judge of photo encoders; pip install transformers")

SIZE = ViTSettings(32, 8, 32, 3, 4)
Weights = dict[str, Tensor]


def config() -> transformers.ViTConfig:
    return transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128
    )


@pytest.fixture
def theirs() -> transformers.ViTModel:
    torch.manual_seed(0)
    model = transformers.ViTModel(config()).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape)
    return model


@pytest.fixture
def file(theirs: transformers.ViTModel, tmp_path: Path) -> Path:
    theirs.save_pretrained(tmp_path)
    return tmp_path / "model.safetensors"


@torch.no_grad()
def test_with_weights_of_transformers_a_photo_is_what_its_pooler_gives(
    theirs: transformers.ViTModel, file: Path
) -> None:
    image = torch.randn(2, 3, 32, 32)
    expected = theirs(image)
    ours = PhotoEncoder(SIZE).eval()
    ours.load(str(file))
    torch.testing.assert_close(ours(image), expected.pooler_output, atol=1e-5, rtol=1e-4)
    bare = PhotoEncoder(SIZE, pooler=False).eval()
    bare.load(str(file))
    torch.testing.assert_close(bare(image), expected.last_hidden_state[:, 0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_classifier_of_transformers_loads_without_its_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = transformers.ViTForImageClassification(config()).eval()
    theirs.save_pretrained(tmp_path)
    ours, image = PhotoEncoder(SIZE, pooler=False).eval(), torch.randn(1, 3, 32, 32)
    ours.load(str(tmp_path / "model.safetensors"))
    torch.testing.assert_close(ours(image), theirs.vit(image).last_hidden_state[:, 0], atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match=r"lacks pooler.bias, pooler.weight; .*arch.pooler=false"):
        PhotoEncoder(SIZE).load(str(tmp_path / "model.safetensors"))


def test_names_of_timm_are_ours(tmp_path: Path) -> None:
    """timm's own names, by its public model: a ViT's parameters, and pre_logits.fc for the pooler."""
    encoder = PhotoEncoder(SIZE)
    state = encoder.state_dict()
    timm = {n.removeprefix("vit.").replace("pooler.", "pre_logits.fc."): torch.randn(v.shape) for n, v in state.items()}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.2.attn.qkv.bias", "norm.weight"} <= timm.keys()
    torch.save({**timm, "head.weight": torch.zeros(10, 32), "head.bias": torch.zeros(10)}, tmp_path / "timm.pth")
    encoder.load(str(tmp_path / "timm.pth"))
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, timm[name.removeprefix("vit.").replace("pooler.", "pre_logits.fc.")])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("encoder.layer.1.attention.attention.key.bias"), "lacks vit.blocks.1.attn.qkv.bias"),
        (lambda w: w.update({"encoder.layer.0.lora.weight": torch.zeros(1)}), "unknown encoder.layer.0.lora.weight"),
        (
            lambda w: w.update({"embeddings.position_embeddings": torch.zeros(1, 5, 32)}),
            "another shape of vit.pos_embed",
        ),
        (lambda w: w.pop("layernorm.weight"), "lacks vit.norm.weight"),
    ],
)
def test_every_name_is_accounted_for(file: Path, tmp_path: Path, change: Callable[[Weights], None], said: str) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, tmp_path / "changed.safetensors")
    with pytest.raises(ConfigError, match=said) as caught:
        PhotoEncoder(SIZE).load(str(tmp_path / "changed.safetensors"))
    assert "\n" not in str(caught.value)


def test_every_parameter_learns_the_positions_among_them() -> None:
    encoder = PhotoEncoder(SIZE)
    encoder(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_at_base_size_it_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in PhotoEncoder(ViTSettings(224, 16, 768, 12, 12)).parameters())
    assert count / 1e6 == pytest.approx(86.39, abs=0.01)


def test_an_exported_image_encoder_loads_whole_or_not_at_all(tmp_path: Path) -> None:
    """As geoshards export writes it, with timm's names."""
    torch.manual_seed(0)
    theirs, ours = ViT(SIZE).eval(), PatchViT(SIZE).eval()
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    norm = PixelNorm((0.0,), (1.0,))
    ours.load(str(tmp_path / "vit.safetensors"), RGB, norm)
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(ours(image), theirs(image)[:, 1:])
    with pytest.raises(ConfigError, match=r"another shape of patch_embed.proj.weight .*4 arch.bands"):
        PatchViT(SIZE, 4).load(str(tmp_path / "vit.safetensors"), (*RGB, "nir"), norm)

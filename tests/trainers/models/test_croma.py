"""CROMA's optical encoder against its formulas written out, and its weights against a file in the published layout."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from schemas.errors import ConfigError
from trainers.models.gair.croma import Croma, alibi, slopes
from trainers.models.mae import gather_patches, patchify
from trainers.models.vit import PixelNorm, ViTSettings

SIZE = ViTSettings(24, 8, 16, 2, 4)
TWELVE = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
TEN = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")


def unit(bands: int) -> PixelNorm:
    """8 bits to 0 … 1."""
    return PixelNorm((0.0,) * bands, (255.0,) * bands)


Weights = dict[str, Tensor]


def croma(channels: int, size: ViTSettings = SIZE, seed: int = 0) -> Croma:
    torch.manual_seed(seed)
    return Croma(size, channels).eval()


def by_hand(w: Weights, image: Tensor, heads: int, depth: int, patch: int = 8) -> Tensor:
    """Tokens of one image f32[C,S,S] by loops and plain products, in double."""
    w = {name: value.double() for name, value in w.items()}
    n = image.shape[1] // patch
    cells = [(r, c) for r in range(n) for c in range(n)]
    rows = [image[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].reshape(-1).double() for r, c in cells]
    x = torch.stack(rows) @ w["linear_input.weight"].T + w["linear_input.bias"]

    def norm(v: Tensor, name: str) -> Tensor:
        centred = v - v.mean(1, keepdim=True)
        return (
            centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    width = x.shape[1] // heads
    for layer in range(depth):
        at = f"transformer.layers.{layer}"
        q, k, v = (norm(x, f"{at}.0.input_norm") @ w[f"{at}.0.to_qkv.weight"].T).chunk(3, 1)
        seen = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            score = q[:, own] @ k[:, own].T / math.sqrt(width)
            for i, a in enumerate(cells):
                for j, b in enumerate(cells):
                    score[i, j] -= 2.0 ** (-8 * (head + 1) / heads) * math.dist(a, b)
            seen.append(torch.softmax(score, 1) @ v[:, own])
        x = x + torch.cat(seen, 1) @ w[f"{at}.0.to_out.weight"].T + w[f"{at}.0.to_out.bias"]
        inner = norm(x, f"{at}.1.input_norm") @ w[f"{at}.1.net.0.weight"].T + w[f"{at}.1.net.0.bias"]
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        x = x + inner @ w[f"{at}.1.net.3.weight"].T + w[f"{at}.1.net.3.bias"]
    return norm(x, "transformer.norm_out")


def shaken(model: Croma) -> Croma:
    """The model with all of its weights off their first values."""
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape)
    return model


@torch.no_grad()
@pytest.mark.parametrize("side", [24, 40])
def test_the_tokens_are_those_of_the_formulas_at_any_size_of_image(side: int) -> None:
    model, image = shaken(croma(3)), torch.randn(2, 3, side, side)
    for tokens, one in zip(model(image), image, strict=True):
        torch.testing.assert_close(tokens.double(), by_hand(model.state_dict(), one, 4, 2), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_chosen_patches_attend_to_each_other_as_in_the_whole() -> None:
    """All of them in another order are the same tokens; of some, each is what an image gives with no others."""
    model, image = shaken(croma(3)), torch.randn(2, 3, 24, 24)
    order = torch.stack((torch.randperm(9), torch.randperm(9)))
    seen = model.encode_visible(gather_patches(patchify(image, 8), order), order)
    torch.testing.assert_close(seen, gather_patches(model(image), order), atol=1e-5, rtol=1e-4)
    few = order[:, :4]
    alone = model.encode_visible(gather_patches(patchify(image, 8), few), few)
    assert alone.shape == (2, 4, 16)
    assert (alone - seen[:, :4]).abs().max() > 1e-3


def test_slopes_are_the_published_ones() -> None:
    """Sixteen as in the specification; twelve as Press et al. choose them: of eight, then every other of sixteen."""
    assert slopes(16)[:4] == pytest.approx([0.7071, 0.5, 0.3536, 0.25], abs=1e-4)
    assert slopes(8) == [2.0**-k for k in range(1, 9)]
    assert slopes(12) == pytest.approx([2.0**-k for k in range(1, 9)] + [2.0 ** (-k / 2) for k in (1, 3, 5, 7)])
    assert slopes(3) == [2**-4, 2**-8, 2**-2]


def test_the_bias_falls_with_distance_on_the_grid() -> None:
    bias = alibi(16, 12)
    assert bias.shape == (16, 144, 144)
    assert float(bias[1, 0, 12 * 3 + 4]) == pytest.approx(-0.5 * 5)  # three rows down, four columns right
    assert torch.equal(bias, bias.transpose(1, 2))
    assert not bias.diagonal(dim1=1, dim2=2).any()


def test_the_published_names_and_sizes() -> None:
    """Those of s2_encoder of CROMA_base.pt; the specification's 85.52 M are those of ten bands and a final norm."""
    with torch.device("meta"):
        base = Croma(ViTSettings(96, 8, 768, 12, 16), 12).state_dict()
        ten = Croma(ViTSettings(96, 8, 768, 12, 16), 10)
    assert {name: list(value.shape) for name, value in base.items() if ".layers." not in name} == {
        "linear_input.weight": [768, 768], "linear_input.bias": [768],
        "transformer.norm_out.weight": [768], "transformer.norm_out.bias": [768],
    }  # fmt: skip
    at = "transformer.layers.11."
    assert {name.removeprefix(at): list(value.shape) for name, value in base.items() if name.startswith(at)} == {
        "0.to_qkv.weight": [2304, 768], "0.to_out.weight": [768, 768], "0.to_out.bias": [768],
        "0.input_norm.weight": [768], "0.input_norm.bias": [768],
        "1.net.0.weight": [3072, 768], "1.net.0.bias": [3072], "1.net.3.weight": [768, 3072], "1.net.3.bias": [768],
        "1.input_norm.weight": [768], "1.input_norm.bias": [768],
    }  # fmt: skip
    assert sum(p.numel() for p in ten.parameters()) / 1e6 == pytest.approx(85.52, abs=0.03)


def published(folder: Path, model: Croma) -> str:
    """A file laid out as CROMA_base.pt."""
    rest = {"linear.weight": torch.zeros(2, 2)}
    parts = {"s1_encoder": rest, "s1_GAP_FFN": rest, "s2_GAP_FFN": rest, "joint_encoder": rest}
    torch.save({**parts, "s2_encoder": model.state_dict()}, folder / "CROMA.pt")
    return str(folder / "CROMA.pt")


@torch.no_grad()
def test_a_model_of_ten_bands_sees_what_the_published_one_sees_where_the_others_are_dark(tmp_path: Path) -> None:
    theirs, ours = shaken(croma(12)), croma(10, seed=1)
    image = torch.rand(2, 12, 24, 24)
    image[:, [0, 9]] = 0
    ours.load(published(tmp_path, theirs), TEN, unit(10))
    kept = [TWELVE.index(band) for band in TEN]
    torch.testing.assert_close(ours(image[:, kept]), theirs(image))


@torch.no_grad()
def test_bands_in_another_order_and_pixels_of_another_norm_give_the_same_tokens(tmp_path: Path) -> None:
    theirs, norm = shaken(croma(12)), PixelNorm((127.5, 90.0, 12.0), (64.0, 30.0, 99.0))
    pixels = torch.randint(0, 256, (1, 12, 24, 24), dtype=torch.uint8)
    shown = [3, 2, 11]
    pixels[:, [i for i in range(12) if i not in shown]] = 0
    ours = croma(3, seed=1)
    ours.load(published(tmp_path, theirs), ("red", "green", "swir22"), norm)
    torch.testing.assert_close(ours(norm(pixels[:, shown])), theirs(pixels / 255), atol=1e-5, rtol=1e-4)


def test_the_encoder_alone_loads_as_safetensors_too(tmp_path: Path) -> None:
    theirs, ours = croma(12), croma(12, seed=1)
    save_file(theirs.state_dict(), tmp_path / "s2.safetensors")
    ours.load(str(tmp_path / "s2.safetensors"), TWELVE, unit(12))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def dropped(w: Weights) -> None:
    del w["transformer.norm_out.bias"]


def added(w: Weights) -> None:
    w["pos_embed"] = torch.zeros(3)


def reshaped(w: Weights) -> None:
    w["linear_input.bias"] = torch.zeros(17)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dropped, "lacks transformer.norm_out.bias"),
        (added, "unknown pos_embed"),
        (reshaped, r"linear_input.bias \[17\]"),
    ],
)
def test_weights_that_do_not_fit_are_one_line_and_change_nothing(
    tmp_path: Path, change: Callable[[Weights], None], said: str
) -> None:
    weights, ours = croma(12).state_dict(), croma(12, seed=1)
    change(weights)
    torch.save({"s2_encoder": weights}, tmp_path / "w.pt")
    before = [p.clone() for p in ours.parameters()]
    with pytest.raises(ConfigError, match=said) as caught:
        ours.load(str(tmp_path / "w.pt"), TWELVE, unit(12))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, ours.parameters(), strict=True))


def test_files_that_are_no_weights_are_one_line(tmp_path: Path) -> None:
    torch.save({"s2_encoder": PurePosixPath("code")}, tmp_path / "code.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("code.pt", "list.pt", "cut.safetensors", "empty.pt", "none.pt"):
        with pytest.raises(ConfigError, match=name) as caught:
            croma(12).load(str(tmp_path / name), TWELVE, unit(12))
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="CROMA has no band cirrus"):
        croma(1).load(published(tmp_path, croma(12)), ("cirrus",), unit(1))

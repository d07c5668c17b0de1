"""The embedding of a place: NILI and its baselines against torch, and against maps whose values are their places."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.gair.nili import LinearHead, MlpHead, Nili, Sampler, cell_size, cubic_kernel, query_module
from trainers.models.vit import grid_positions

N, DIM = 6, 5


def queries(count: int, within: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Samples of three, places and ground sizes."""
    noise = torch.Generator().manual_seed(seed)
    u = (2 * torch.rand(count, 2, generator=noise) - 1) * within
    return torch.randint(0, 3, (count,), generator=noise), u, 100 + 100 * torch.rand(count, generator=noise)


def image_of(tokens: Tensor) -> Tensor:
    return tokens.transpose(1, 2).reshape(len(tokens), -1, N, N)


def sampled(tokens: Tensor, sample: Tensor, u: Tensor, mode: str, padding: str = "border") -> Tensor:
    found = F.grid_sample(image_of(tokens)[sample], u[:, None, None], mode, padding, align_corners=False)
    return found[:, :, 0, 0]


def coordinates() -> Tensor:
    """Tokens of three tiles: each cell holds its own centre (x, y) in [-1, 1]."""
    return (2 * grid_positions(N, 0.5) / N - 1).expand(3, -1, -1)


def test_a_linear_nili_is_a_bilinear_sample_of_a_convolution() -> None:
    torch.manual_seed(0)
    nili = Nili(DIM, N, 4, 8, "released").double()
    tokens = torch.randn(3, N * N, DIM).double()
    sample, u, cell = queries(300, 1 - 1 / N)
    assert isinstance(nili.imnet, LinearHead)
    weight = nili.imnet.weight[:, : 9 * DIM].reshape(4, DIM, 3, 3)
    mapped = F.conv2d(image_of(tokens), weight, nili.imnet.bias, padding=1)
    expected = F.grid_sample(mapped[sample], u[:, None, None].double(), align_corners=False)[:, :, 0, 0]
    torch.testing.assert_close(nili(tokens, sample, u, cell).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_baselines_sample_as_torch_does(mode: str) -> None:
    """To the border and beyond it; the released bicubic kernel is torch's."""
    torch.manual_seed(0)
    sampler, tokens = query_module(mode, DIM, N, 4, 8, "released"), torch.randn(3, N * N, DIM)
    sample, u, cell = queries(400)
    expected = sampled(tokens, sample, u, mode)
    assert isinstance(sampler, Sampler)
    torch.testing.assert_close(sampler.sample(tokens, sample, u), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sampler(tokens, sample, u, cell), sampler.head(expected), atol=1e-5, rtol=1e-4)


def test_our_bicubic_kernel_is_that_of_antialiased_resizing() -> None:
    """torch's resize with antialias, as Pillow's, has -1/2; enlarged threefold its centres are known places."""
    sampler = query_module("bicubic", 1, N, 1, 8, "ours")
    tokens = torch.randn(3, N * N, 1)
    expected = F.interpolate(image_of(tokens), scale_factor=3, mode="bicubic", antialias=True)[0, 0, 6:-6, 6:-6]
    at = (2 * grid_positions(3 * N, 0.5) / (3 * N) - 1).view(3 * N, 3 * N, 2)[6:-6, 6:-6].reshape(-1, 2)
    assert isinstance(sampler, Sampler)
    found = sampler.sample(tokens, torch.zeros(len(at)).long(), at)
    torch.testing.assert_close(found.view(expected.shape), expected, atol=1e-5, rtol=1e-4)


class Reading(nn.Module):
    """A head that says where it is: the value of the middle tap, moved by the offset from it."""

    def forward(self, taps: Tensor, delta: Tensor, cell: Tensor) -> Tensor:
        return taps.view(len(taps), -1, 9)[:, :, 4] + delta / N


@pytest.mark.parametrize("variant", ["ours", "released"])
@pytest.mark.parametrize("kind", ["nili", "bilinear", "bicubic"])
def test_a_map_of_coordinates_gives_back_the_place(kind: str, variant: str) -> None:
    module = query_module(kind, 2, N, 2, 8, variant)  # type: ignore[arg-type]
    inner = 1.0
    if isinstance(module, Nili):
        module.imnet = Reading()
    else:
        nn.init.eye_(module.head.weight)
        nn.init.zeros_(module.head.bias)
        inner = 1 - (1 if kind == "bilinear" else 3) / N  # beyond it the border goes on
    sample, u, cell = queries(300, inner)
    # The released bicubic kernel bends a plane by up to a twentieth of a cell.
    bent = 0.06 * 2 / N if (kind, variant) == ("bicubic", "released") else 1e-5
    torch.testing.assert_close(module(coordinates(), sample, u, cell), u, atol=bent, rtol=0)


def test_the_middle_tap_of_a_linear_nili_gives_back_the_place() -> None:
    nili = Nili(2, N, 2, 8, "released")
    with torch.no_grad():
        nn.init.zeros_(nili.imnet.weight)  # type: ignore[arg-type]
        nn.init.zeros_(nili.imnet.bias)  # type: ignore[arg-type]
        for channel in range(2):
            nili.imnet.weight[channel, channel * 9 + 4] = 1  # type: ignore[index]
    sample, u, cell = queries(300, 1 - 1 / N)
    torch.testing.assert_close(nili(coordinates(), sample, u, cell), u, atol=1e-5, rtol=0)


def test_cubic_weights_sum_to_one_and_are_one_at_a_centre() -> None:
    t = torch.linspace(0, 0.999, 50)
    for a in (-0.5, -0.75):
        torch.testing.assert_close(cubic_kernel(t, a).sum(1), torch.ones(50))
    assert cubic_kernel(torch.zeros(1), -0.5).tolist() == [[0, 1, 0, 0]]


def test_ours_is_no_linear_function_between_patch_centres() -> None:
    torch.manual_seed(0)
    tokens, cell = torch.randn(1, N * N, DIM), torch.full((3,), 100.0)
    line = torch.stack((torch.linspace(-0.12, 0.12, 3), torch.full((3,), 0.05)), 1)
    bends = []
    for variant in ("ours", "released"):
        a, b, c = Nili(DIM, N, 4, 16, variant)(tokens, torch.zeros(3).long(), line, cell)
        bends.append(float(((a + c) / 2 - b).detach().abs().max()))
    assert bends[0] > 1e-3
    assert bends[1] < 1e-3 * bends[0] + 1e-6


def test_ours_tells_tiles_of_another_resolution_apart_and_the_released_does_not() -> None:
    torch.manual_seed(0)
    tokens, sample, u = torch.randn(1, N * N, DIM), torch.zeros(2).long(), torch.full((2, 2), 0.3)
    for variant, differs in (("ours", True), ("released", False)):
        near, far = Nili(DIM, N, 4, 16, variant)(tokens, sample, u, torch.tensor([5.0, 160.0]))
        assert bool((near - far).abs().max() > 1e-3) is differs


def test_ours_learns_where_in_a_cell_a_place_lies() -> None:
    """A field of a quarter of a cell's detail on tokens that are all alike: a linear head can at most give its mean."""
    tokens = torch.ones(1, N * N, DIM)
    left = []
    for variant in ("ours", "released"):
        torch.manual_seed(0)
        nili = Nili(DIM, N, 1, 64, variant)
        optimiser = torch.optim.Adam(nili.parameters(), 3e-3)
        for step in range(200):
            _, u, cell = queries(256, 0.6, step)
            truth = torch.cos(4 * math.pi * u[:, :1] * N / 2) * torch.cos(2 * math.pi * u[:, 1:] * N / 2)
            loss = (nili(tokens, torch.zeros(256).long(), u, cell) - truth).square().mean() / truth.square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        left.append(loss.item())
    assert left[0] < 0.3
    assert left[1] > 0.9


@pytest.mark.parametrize("u", [[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [1.5, -1.5], [1 / 3, 1 / 3]])
@pytest.mark.parametrize("kind", ["nili", "bilinear", "bicubic"])
def test_borders_and_places_beyond_are_finite(kind: str, u: list[float]) -> None:
    module = query_module(kind, DIM, N, 3, 8, "ours")  # type: ignore[arg-type]
    found = module(torch.randn(1, N * N, DIM), torch.zeros(1).long(), torch.tensor([u]), torch.zeros(1))
    assert found.isfinite().all()


@pytest.mark.parametrize("kind", ["nili", "bilinear", "bicubic"])
def test_a_query_does_not_depend_on_how_many_others_are_asked(kind: str) -> None:
    torch.manual_seed(0)
    module = query_module(kind, DIM, N, 3, 8, "ours")  # type: ignore[arg-type]
    tokens = torch.randn(3, N * N, DIM)
    sample, u, cell = queries(500)
    alone = torch.cat([module(tokens, sample[i : i + 1], u[i : i + 1], cell[i : i + 1]) for i in range(0, 500, 50)])
    torch.testing.assert_close(module(tokens, sample, u, cell)[::50], alone, atol=1e-5, rtol=1e-4)


def test_the_ground_size_of_a_patch_is_the_root_of_its_area() -> None:
    side = 1000 / 6371008.8 * 180 / math.pi  # a kilometre in degrees of latitude
    wide = side / math.cos(math.radians(60))
    bbox = torch.tensor(
        [[10, 60 - side / 2, 10 + wide, 60 + side / 2], [180 - wide / 2, 60, -180 + wide / 2, 60 + side]]
    )
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)
    assert cell_size(bbox.double(), whole, 10)[0].item() == pytest.approx(100, rel=1e-3)
    assert cell_size(bbox.double(), whole, 10)[1].item() == pytest.approx(100, rel=1e-3)  # across the date line
    half = torch.tensor([[0.25, 0.5, 0.75, 1.0]] * 2)
    assert cell_size(bbox.double(), half, 10)[0].item() == pytest.approx(50, rel=1e-3)
    assert cell_size(torch.zeros(1, 4).double(), whole[:1], 10).tolist() == [0.0]  # a masked slot


def test_heads_get_gradients_everywhere() -> None:
    head = MlpHead(DIM, 8, 3)
    head(torch.randn(4, 9 * DIM), torch.randn(4, 2), torch.full((4,), 80.0)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())

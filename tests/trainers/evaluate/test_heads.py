"""Downstream heads: what is fed to what, at which sizes, and what their scores count."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.evaluate.heads import ChangeHead, RegressionHead, UperNet, confusion, scores, to_map

WIDTHS = (8, 12, 16, 20)


def maps_of(side: int) -> list[Tensor]:
    return [torch.randn(2, width, side, side) for width in WIDTHS]


def test_upernet_has_the_size_of_the_released_head() -> None:
    """41.8 M parameters at nine classes on ViT-L with the fused map (docs/papers/geolink.md#downstream-heads)."""
    with torch.device("meta"):
        head = UperNet((1024, 1024, 1024, 256), 9)
    assert sum(p.numel() for p in head.parameters()) == pytest.approx(41.8e6, rel=2e-3)


@torch.no_grad()
def test_upernet_is_a_pooled_last_map_and_a_pyramid_over_all() -> None:
    """Its levels put together one by one (Xiao et al. 2018)."""
    head, maps = UperNet(WIDTHS, 3, channels=6).eval(), maps_of(12)

    def at(x: Tensor, side: int) -> Tensor:
        return F.interpolate(x, (side, side), mode="bilinear", align_corners=False)

    scaled = [scale(level) for scale, level in zip(head.scales, maps, strict=True)]
    assert [x.shape[-1] for x in scaled] == [48, 24, 12, 6]
    fine, middle, same, half = scaled
    pooled = [at(layer(F.adaptive_avg_pool2d(half, n)), 6) for n, layer in zip((1, 2, 3, 6), head.pools, strict=True)]
    top = head.bottleneck(torch.cat((half, *pooled), 1))
    third = head.laterals[2](same) + at(top, 12)
    second = head.laterals[1](middle) + at(third, 24)
    first = head.laterals[0](fine) + at(second, 48)
    levels = [smooth(x) for smooth, x in zip(head.smooth, (first, second, third), strict=True)]
    fused = head.fuse(torch.cat([at(x, 48) for x in (*levels, top)], 1))
    torch.testing.assert_close(head(maps, 96), at(head.classify(fused), 96))


def test_whole_channels_are_dropped_in_training_alone() -> None:
    head, maps = UperNet(WIDTHS, 3, channels=6, dropout=0.5), maps_of(4)
    seen: list[Tensor] = []
    head.classify.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    head.train()(maps, 8)
    off = (seen[0] == 0).flatten(2).all(2)
    assert off.any()
    assert not off.all()
    head.eval()
    assert torch.equal(head(maps, 8), head(maps, 8))


@torch.no_grad()
def test_a_change_is_seen_in_the_difference_of_two_dates_whichever_comes_first() -> None:
    head, before, after = ChangeHead(WIDTHS, 2, channels=6).eval(), maps_of(4), maps_of(4)
    found = head(before, after, 16)
    assert found.shape == (2, 2, 16, 16)
    assert torch.equal(found, head(after, before, 16))
    torch.testing.assert_close(found, head.head([(a - b).abs() for a, b in zip(before, after, strict=True)], 16))
    assert torch.equal(head(before, before, 16), head(after, after, 16))


@torch.no_grad()
def test_a_number_of_a_tile_is_that_of_its_mean_token() -> None:
    head, tokens = RegressionHead(8, hidden=5, outputs=2), torch.randn(3, 9, 8)
    found = head(tokens)
    assert found.shape == (3, 2)
    torch.testing.assert_close(found, head(tokens[:, torch.randperm(9)]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found, head(tokens.mean(1, keepdim=True).expand(-1, 4, -1)), atol=1e-5, rtol=1e-4)


def test_a_map_has_its_tokens_row_by_row() -> None:
    tokens = torch.arange(2 * 9 * 4).view(2, 9, 4)
    found = to_map(tokens)
    assert found.shape == (2, 4, 3, 3)
    assert all(torch.equal(found[:, :, y, x], tokens[:, 3 * y + x]) for y in range(3) for x in range(3))


def test_counts_are_those_of_a_loop_over_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    true, named = (torch.randint(0, 4, (2, 5, 5), generator=generator) for _ in range(2))
    true[0, 0] = 9
    expected = [[0] * 5 for _ in range(5)]  # class 4 neither occurs nor is named
    for t, n in zip(true.flatten().tolist(), named.flatten().tolist(), strict=True):
        if t != 9:
            expected[t][n] += 1
    assert confusion(named, true, 5, ignore=9).tolist() == expected


def test_scores_of_a_known_confusion() -> None:
    true, named = torch.tensor([0, 0, 1, 1, 255]), torch.tensor([0, 1, 1, 1, 0])
    found = scores(confusion(named, true, 3))
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)  # class 2 neither occurs nor is named
    assert found["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores(torch.zeros(3, 3).long())["accuracy"] == 0

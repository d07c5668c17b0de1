"""Several dates of a tile become one grid of tokens, and a missing one nothing at all."""

from __future__ import annotations

import pytest
import torch

from trainers.models.gair.dates import DatePool, DatePooling

PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])


def pool(kind: DatePooling) -> DatePool:
    torch.manual_seed(0)
    made = DatePool(8, kind)
    for p in made.parameters():
        torch.nn.init.normal_(p)
    return made


@pytest.mark.parametrize("kind", ["attention", "mean"])
def test_a_missing_date_has_no_influence_and_no_gradient(kind: DatePooling) -> None:
    made, tokens = pool(kind), torch.randn(4, 3, 5, 8, requires_grad=True)
    garbage = torch.where(PRESENT[:, :, None, None], tokens.detach(), torch.tensor(float("nan"))).requires_grad_()
    plain, foul = made(tokens, PRESENT), made(garbage, PRESENT)
    assert torch.equal(plain, foul)
    gradients = []
    for found, given in ((plain, tokens), (foul, garbage)):
        found.square().sum().backward()
        assert given.grad is not None
        assert not given.grad[~PRESENT].any()
        assert given.grad[PRESENT].any()
        gradients.append([p.grad.clone() for p in made.parameters() if p.grad is not None])
        made.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", ["attention", "mean"])
def test_one_date_is_itself_none_is_zero_and_the_order_does_not_count(kind: DatePooling) -> None:
    made, tokens = pool(kind), torch.randn(4, 3, 5, 8)
    found = made(tokens, PRESENT)
    torch.testing.assert_close(found[2], tokens[2, 1])
    assert not found[3].any()
    order = [2, 0, 1]
    torch.testing.assert_close(made(tokens[:, order], PRESENT[:, order]), found)


def test_attention_starts_as_the_mean() -> None:
    tokens = torch.randn(4, 3, 5, 8)
    found = DatePool(8, "attention")(tokens, PRESENT)
    torch.testing.assert_close(found, DatePool(8, "mean")(tokens, PRESENT))
    torch.testing.assert_close(found[1], (tokens[1, 0] + tokens[1, 2]) / 2)

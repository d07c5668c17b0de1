"""A step of GAIR reads no value of a tensor on the host, whatever is chosen: on a GPU each would make the host wait.

Tensors that have shapes and no values go forward and backward, so that a value that is asked for, a shape that depends
on one, and a copy to the host are errors.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from tests.trainers.batches import GAIR, PLAIN
from trainers.models.gair.model import Gair
from trainers.models.gair.settings import GairLoss, GairSettings
from trainers.stream.batch import TileBatch
from trainers.stream.stream import GeoStream

SETTINGS = replace(GAIR, decoder_dim=16, decoder_heads=2, location_degree=4)
#: By what is chosen otherwise: settings, losses, variant.
CHOSEN: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "ours": ({}, {}, "ours"),
    "paper": ({}, {}, "paper"),
    "released": ({"photos": 1}, {}, "released"),
    "vit, bilinear, harmonics": (
        {"rs_encoder": "vit", "query": "bilinear", "location": "sh_siren"}, {"hard_negatives": 0}, "ours",
    ),
    "bicubic, dates, attention": ({"query": "bicubic", "dates": 2}, {"rec": 1.0, "dist": 0.2}, "ours"),
    "dates, mean, learned temperature": (
        {"dates": 2, "date_pool": "mean", "temperature_learned": True}, {"hard_negatives": 9}, "ours",
    ),
    "vit, dates, released losses": ({"rs_encoder": "vit", "dates": 3, "pooler": False}, {"dist": 0.2}, "released"),
    "masked images alone": ({}, {"incl": 0.0, "secl": 0.0, "rec": 1.0}, "ours"),
    "without location": ({}, {"secl": 0.0}, "ours"),
    "convnets": ({"rs_encoder": "conv", "sv_encoder": "conv"}, {}, "ours"),
    "no headings": ({"heading": False}, {}, "ours"),
}  # fmt: skip


def batch_of(dataset: Path, settings: GairSettings, variant: str) -> TileBatch:
    return next(GeoStream(str(dataset), Gair.view(settings, variant), batch_size=8, settings=PLAIN).batches())


def step(model: Gair, batch: TileBatch) -> None:
    """Forward and backward on tensors without values."""
    mode = FakeTensorMode()
    held = {f.name: getattr(batch, f.name) for f in fields(batch)}
    fake = {name: mode.from_tensor(value) if isinstance(value, Tensor) else value for name, value in held.items()}
    weights = {n: mode.from_tensor(t) for n, t in (*model.named_parameters(), *model.named_buffers())}
    with mode:
        torch.func.functional_call(model, weights, (replace(batch, **fake),))["loss"].backward()


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize("nodata", [False, True])
def test_a_step_asks_for_no_value(dataset: Path, name: str, nodata: bool) -> None:
    arch, loss, variant = CHOSEN[name]
    settings = replace(SETTINGS, **arch)
    batch = batch_of(dataset, settings, variant)
    if nodata:
        batch = replace(batch, rs_valid=torch.full_like(batch.rs.select(-3, 0), 255))
    step(Gair(settings, variant, GairLoss(**loss)), batch)


@pytest.mark.parametrize("ask", [lambda t: t.detach().sum().item(), lambda t: t.nonzero(), lambda t: t[t > 0]])
def test_a_value_that_is_asked_for_is_noticed(dataset: Path, ask: Any) -> None:
    model = Gair(SETTINGS)
    model.sv_head.register_forward_hook(lambda *given: ask(given[-1]) and None)
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        step(model, batch_of(dataset, SETTINGS, "ours"))


@pytest.mark.parametrize("name", ["released", "vit, bilinear, harmonics", "dates, mean, learned temperature"])
def test_a_step_is_one_graph(dataset: Path, name: str) -> None:
    arch, loss, variant = CHOSEN[name]
    settings = replace(SETTINGS, **arch)
    model, batch = Gair(settings, variant, GairLoss(**loss)).eval(), batch_of(dataset, settings, variant)
    plain = float(model(batch)["loss"].detach())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert float(compiled(batch)["loss"].detach()) == pytest.approx(plain, rel=1e-4)
    torch.compiler.reset()

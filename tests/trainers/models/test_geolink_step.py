"""The step of GeoLink: sizes, no host synchronisation, no loop over graphs, no graph break."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_geolink import flops, main
from tests.trainers.batches import GEOLINK, geolink_batch
from trainers.models.geolink import GeoLink, GeoLinkLoss
from trainers.models.geolink_settings import VARIANTS, Choices, GeoLinkSettings, choices
from trainers.models.mae import gather_patches, mask_patches, patchify
from trainers.models.vit import SIZES, ViTSettings

#: Operators that must know values on the host: each would stop a GPU's queue.
SYNCHRONISE = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "equal")


class Operators(TorchDispatchMode):
    """Counts what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype is torch.bool for i in args[1]
        ):
            name = "nonzero"  # what indexing by a mask comes to
        self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def operators(settings: GeoLinkSettings, variant: str, dataset: Path, size: int) -> Counter[str]:
    model = GeoLink(settings, variant, GeoLinkLoss(1.0, 1.0, 1.0))
    batch = geolink_batch(dataset, size)
    with Operators() as found:
        model(batch)["loss"].backward()
    return found.seen


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("encoder", ["gat", "gcn", "transformer"])
def test_a_step_never_waits_for_the_device(dataset: Path, encoder: str, variant: str) -> None:
    settings = replace(GEOLINK, osm_encoder=encoder)
    found = operators(settings, variant, dataset, 8)
    assert sum(found.values()) > 100
    assert not {name for name in SYNCHRONISE if found[name]}
    # As many operators for four times the graphs: nothing is looped over them, their nodes or their edges.
    assert found == operators(settings, variant, dataset, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_a_gpu_never_synchronises(dataset: Path) -> None:
    model = GeoLink(GEOLINK, "ours", GeoLinkLoss(1.0, 1.0, 1.0)).cuda()
    batch = geolink_batch(dataset, 16).to("cuda")
    model(batch)["loss"].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(batch)["loss"]
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_hot_path_has_no_graph_break(dataset: Path) -> None:
    model = GeoLink(GEOLINK, "ours", GeoLinkLoss(1.0, 1.0, 1.0))
    batch = geolink_batch(dataset, 8)
    plain = model(batch)["loss"]
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(batch)["loss"], plain)


def test_recomputing_activations_changes_nothing(dataset: Path) -> None:
    batch, grads = geolink_batch(dataset, 8), []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = GeoLink(replace(GEOLINK, checkpoint=recompute), "ours", GeoLinkLoss(1.0, 1.0, 1.0))
        model(batch)["loss"].backward()
        grads.append(model.vit.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*grads)


def test_parameter_counts_are_those_of_the_release_but_for_what_is_dead_or_fixed() -> None:
    """313,594,369 with ViT-L, its ViT 303,301,632, the OSM encoder 593,280: docs/papers/geolink.md#image-encoder."""
    with torch.device("meta"):
        model = GeoLink(GeoLinkSettings(vit=SIZES["large"]), "released")
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    vit = SIZES["large"]
    assert count["vit"] == 303_301_632
    assert count["osm"] == 593_280 + 2 * 3 * 128  # its norms are counted apart in the specification
    dead = vit.dim + 197 * vit.dim + 2 * vit.dim  # timm's own class token, positions and norm, which nothing uses
    fixed = 197 * 512 + 197 * 256  # sin-cos positions of decoder and fusion: buffers here, parameters there
    unfelt = 3 * 256 + 1  # biases of attention keys, and of the attention over kinds: no softmax feels them
    assert sum(p.numel() for p in model.parameters()) + dead + fixed + unfelt == 313_594_369


def test_every_choice_can_be_overridden_and_fidelity_sets_the_rest() -> None:
    other = {
        "edges": "attention", "node_norm": "batch", "kind_weights": "sum", "mask_count": "at_least_one",
        "anchors": "centroid", "patch_centre": 0.25, "fused_nodes": 3, "fusion_last": "none",
        "fusion_positions": "none", "fusion_values": "original", "cst_mean": "sample", "image_eps": 1e-3,
    }  # fmt: skip
    for name, value in other.items():
        for variant, base in VARIANTS.items():
            found = choices(replace(GeoLinkSettings(), **{name: value}), variant)
            assert found == replace(base, **{name: value})
    assert choices(GeoLinkSettings(), "paper") == VARIANTS["paper"]
    assert set(Choices.__dataclass_fields__) == {*other, "gather"}


def test_the_gpu_benchmark_runs_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--device=cpu", "--model=tiny", "--batch=4", "--steps=1", "--objects=6"])
    found = json.loads(capsys.readouterr().out)
    assert found["samples_per_second"] > 0
    assert found["mfu"] is None  # no peak is known of this device
    assert set(found) >= {"objects_cost", "released_over_ours", "checkpointing", "stream"}


def test_the_flops_formula_equals_a_count_of_the_model() -> None:
    settings = GeoLinkSettings(vit=ViTSettings(64, 8, 64, 2, 2), decoder_dim=32, decoder_depth=1, decoder_heads=2)
    model = GeoLink(settings, "ours", GeoLinkLoss(1.0, 0.0, 0.0))
    seed, image = torch.arange(2), torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    # The counter knows the plain form of attention alone.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        mask = mask_patches(seed, 8, 0.75)
        seen = model.norm.patches(gather_patches(patchify(image, 8), mask.keep))
        tokens = model.vit.encode(model.vit.embed_patches(seen, mask.keep))
        model.decoder(tokens[:, :1], tokens[:, 1:], mask)
    assert 2 * flops(settings) / 3 == pytest.approx(counter.get_total_flops(), rel=0.02)

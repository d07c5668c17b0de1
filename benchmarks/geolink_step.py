"""What the objects add to a training step of GeoLink, on a CPU: ours against the composition of the release.

``python benchmarks/geolink_step.py [--sizes tiny,small,large] [--batch N] [--rounds N] [--threads N]`` prints one JSON
line. Both sides get the same batch, the encodings of its visible patches and the same widths, draw their masks and go
forward and backward to every weight and to the patches: node masks, graph attention, region, contrast, fusion, tag
prediction. The ViT and its pixel decoder are the same blocks on both sides and are left out. Ours runs as ``released``,
which has the same losses and gradients (tests/trainers/models/test_geolink_released.py), and as ``ours``.
The peer (tests/trainers/models/geolink_reference.py) gets its graphs collated and its node features multiplied out
beforehand; ours does the latter in the step. torch_geometric is needed (the dev extra).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from tests.trainers.models.geolink_reference import Reference, Sizes, graphs  # noqa: E402
from tests.trainers.synthetic import SyntheticSettings, write_dataset  # noqa: E402
from trainers.models.geolink import GeoLink, GeoLinkLoss, ImageState  # noqa: E402
from trainers.models.geolink_settings import GeoLinkSettings  # noqa: E402
from trainers.models.mae import mask_patches  # noqa: E402
from trainers.models.nodes import node_features  # noqa: E402
from trainers.models.vit import SIZES, ViTSettings  # noqa: E402
from trainers.stream.augment import AugmentSettings  # noqa: E402
from trainers.stream.batch import TileBatch  # noqa: E402
from trainers.stream.stream import GeoStream, StreamSettings  # noqa: E402

#: Mean objects a sample (docs/papers/geolink.md#objects), tags an object, distinct tags of the batch of 256: 7,500
#: random objects of Liechtenstein carry 23,734 tags, 2,751 of them distinct.
OBJECTS, TAGS, DISTINCT = 29, 3, 2_750
#: By name: `tiny` is the preset for a CPU, the others are the named ViTs with the release's widths.
MODELS: dict[str, GeoLinkSettings] = {
    "tiny": GeoLinkSettings(
        vit=ViTSettings(96, 16, 96, 3, 3), tag_width=64, osm_dim=32, fusion_dim=64, fusion_heads=4, fusion_dropout=0.0
    ),
    "small": GeoLinkSettings(vit=SIZES["small"]),
    "large": GeoLinkSettings(vit=SIZES["large"]),
}


def make_batch(settings: GeoLinkSettings, size: int) -> TileBatch:
    """Synthetic samples, all with objects, with as many tags and distinct tags as real ones."""
    with tempfile.TemporaryDirectory() as folder:
        made = SyntheticSettings(samples=size * 17 // 16 + 2, size=32, photos=0, objects=OBJECTS, samples_per_shard=64)
        plain = StreamSettings(select="n_polygon > 0", workers=0, augment=AugmentSettings(enabled=False))
        stream = GeoStream(str(write_dataset(folder, made)), GeoLink.view(settings), batch_size=size, settings=plain)
        batch = next(iter(stream))
    rng = np.random.default_rng(0)
    nodes = batch.node_valid.nonzero().flatten().repeat_interleave(TAGS)
    distinct = DISTINCT * size // 256
    row = rng.permutation(np.concatenate((np.arange(distinct), rng.integers(0, distinct, len(nodes) - distinct))))
    return replace(
        batch, tag_node=nodes, tag_row=torch.from_numpy(row), tag_weight=torch.full((len(nodes),), 1 / TAGS),
        tag_id=torch.arange(distinct), tag_features=torch.randn(distinct, settings.tag_width).half(),
    )  # fmt: skip


def ours(settings: GeoLinkSettings, variant: str, batch: TileBatch, tokens: Tensor) -> Callable[[], None]:
    """A step of our model."""
    model = GeoLink(settings, variant, GeoLinkLoss(1.0, 1.0, 1.0))
    valid = batch.valid & batch.has_rs

    def step() -> None:
        mask = mask_patches(batch.seed, settings.vit.grid, settings.image_mask)
        token, patches = tokens.split((1, tokens.shape[1] - 1), 1)
        parts = model.graph_losses(ImageState(token, patches, mask), batch, valid)
        (parts["cont"] + parts["cst"]).backward()

    return step


def released(settings: GeoLinkSettings, batch: TileBatch, tokens: Tensor) -> Callable[[], None]:
    """A step of the composition of the release."""
    s, vit = settings, settings.vit
    model = Reference(
        Sizes(
            vit.image_size, vit.patch, vit.dim, tag_width=s.tag_width, osm_dim=s.osm_dim, fusion_dim=s.fusion_dim,
            fusion_heads=s.fusion_heads, dropout=s.fusion_dropout, contrast_dim=s.contrast_dim,
        ), with_vit=False,
    )  # fmt: skip
    graph = graphs(batch, node_features(batch), torch.rand(len(batch.node_valid), 2))

    def step() -> None:
        keep, _ = model.draw_patches(torch.rand(len(batch), vit.grid**2))
        contrast, consistency = model.graph_losses(tokens, keep, graph)
        (contrast + consistency).backward()

    return step


def race(settings: GeoLinkSettings, size: int, rounds: int) -> dict[str, float]:
    """Median seconds a step of each side, taken in turn, and the ratios."""
    torch.manual_seed(0)
    batch = make_batch(settings, size)
    visible = mask_patches(batch.seed, settings.vit.grid, settings.image_mask).keep.shape[1]
    tokens = torch.randn(size, 1 + visible, settings.vit.dim, requires_grad=True)
    steps = {
        "peer": released(settings, batch, tokens),
        "released": ours(settings, "released", batch, tokens),
        "ours": ours(settings, "ours", batch, tokens),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            tokens.grad = None
            begin = time.perf_counter()
            step()
            if number:  # the first warms up
                seconds[name].append(time.perf_counter() - begin)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = {f"ratio_{name}": round(median["peer"] / median[name], 2) for name in ("released", "ours")}
    return {"nodes": int(batch.node_valid.sum()), "tags": len(batch.tag_id),
            **{f"{name}_seconds": round(value, 4) for name, value in median.items()}, **ratio}  # fmt: skip


def main() -> None:
    """Run the race and print its line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="tiny,small,large")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {name: race(MODELS[name], options.batch, options.rounds) for name in options.sizes.split(",")}
    print(json.dumps({
        "race": "geolink_step", "batch": options.batch, "rounds": options.rounds, "threads": options.threads, **results
    }))  # fmt: skip


if __name__ == "__main__":
    main()

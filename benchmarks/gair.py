"""A training step of GAIR, on a CPU: ours against the composition of the release, forward and backward in fp32.

``python benchmarks/gair.py [--model small] [--photos 8,1] [--samples 16] [--rounds N] [--threads N]`` prints one line
of JSON: for each number of photos a tile the median, over rounds in which both sides take a step in turn, of the
peer's CPU seconds over ours. Both hold the same weights and get the same batch of ``samples`` photos and the tiles they
need; their losses must agree to 1e-4 in every round, queue included, or the race is void.

The peer follows docs/papers/gair.md#losses: a sample is one photo with its tile, so a tile is encoded once for each of
its photos; attention with its matrix of scores; the whole map of each photo unfolded to 3 × 3 neighbourhoods, of which
four are read; the queue encoded anew apart from the batch's places; cross entropies without masks. Patch embedding,
norms, MLPs and location encoder are the same modules on both sides.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from schemas.footprint import gair_query  # noqa: E402
from tests.trainers.synthetic import SyntheticSettings, write_dataset  # noqa: E402
from trainers.engine.cli import parse  # noqa: E402
from trainers.models.gair.model import Gair  # noqa: E402
from trainers.models.gair.settings import GairLoss, GairSettings  # noqa: E402
from trainers.stream.augment import AugmentSettings  # noqa: E402
from trainers.stream.batch import TileBatch  # noqa: E402
from trainers.stream.stream import GeoStream, StreamSettings  # noqa: E402
from trainers.tasks.gair import GAIR  # noqa: E402

AGREEMENT = 1e-4  # largest difference of the sides' losses


class PlainAttention(nn.Module):
    """Attention by its matrix of scores, with the weights of one of ours."""

    def __init__(self, norm: nn.Module, qkv: nn.Module, out: nn.Module, heads: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out, self.heads = norm, qkv, out, heads

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [B,P,D]; bias, if any, f32[1,heads,P,P]."""
        width = x.shape[2] // self.heads
        q, k, v = (t.unflatten(2, (self.heads, width)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, 2))
        scores = q @ k.transpose(2, 3) * width**-0.5
        mixed = (scores if bias is None else scores + bias).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Released(nn.Module):
    """The step as released, with copies of the weights of ``model``."""

    def __init__(self, model: Gair) -> None:
        super().__init__()
        self.model = own = copy.deepcopy(model)
        for pair in own.rs.transformer.layers:
            a = pair[0]
            pair[0] = PlainAttention(a.input_norm, a.to_qkv, a.to_out, a.heads)
        for block in own.sv.vit.blocks:
            block.attn = PlainAttention(nn.Identity(), block.attn.qkv, block.attn.proj, block.attn.heads)

    def localise(self, tokens: Tensor, u: Tensor) -> Tensor:
        """Tokens [Q,P,D] of a map a photo and queries f32[Q,2] to [Q,dim]."""
        n, head = self.model.settings.rs.grid, self.model.nili.imnet
        unfolded = F.unfold(tokens.transpose(1, 2).unflatten(2, (n, n)), 3, padding=1).unflatten(2, (n, n))
        axis = (2 * torch.arange(n, dtype=u.dtype, device=u.device) + 1) / n - 1
        centres = torch.stack(torch.meshgrid(axis, axis, indexing="xy")).expand(len(u), -1, -1, -1)
        found, areas = [], []
        for vy in (-1, 1):
            for vx in (-1, 1):
                at = (u + u.new_tensor([vx, vy]) / n + 1e-6).clamp(-1 + 1e-6, 1 - 1e-6)[:, None, None]
                taps, centre = (
                    F.grid_sample(t, at, mode="nearest", align_corners=False)[:, :, 0, 0] for t in (unfolded, centres)
                )
                delta = (u - centre) * n
                found.append(F.linear(torch.cat((taps, delta), 1), head.weight, head.bias))
                areas.append(delta.prod(1).abs() + 1e-9)
        total = torch.stack(areas).sum(0)
        return torch.stack([p * (a / total)[:, None] for p, a in zip(found, reversed(areas), strict=True)]).sum(0)

    def forward(self, batch: TileBatch) -> dict[str, Tensor]:
        """``incl``, ``secl`` and their sum; the queue then takes the places in."""
        m, lonlat = self.model, batch.photo_lonlat
        tokens = m.rs(m.rs_norm(batch.rs[batch.photo_sample]))
        photo = F.normalize(m.sv_head(m.sv(m.sv_norm(batch.photos))), dim=1)
        place = F.normalize(self.localise(tokens, gair_query(batch.photo_xy)), dim=1)
        own, queue = F.normalize(m.location(lonlat), dim=1), F.normalize(m.location(m.queue.places.clone()), dim=1)
        temperature, first = m.settings.temperature, torch.zeros(len(photo), dtype=torch.long, device=photo.device)
        scores, number = photo @ place.T / temperature, torch.arange(len(photo), device=photo.device)
        incl = (F.cross_entropy(scores, number) + F.cross_entropy(scores.T, number)) / 2
        sides = [torch.cat(((a * own).sum(1, keepdim=True), a @ queue.T), 1) / temperature for a in (photo, place)]
        secl = (F.cross_entropy(sides[0], first) + F.cross_entropy(sides[1], first)) / 2
        places = torch.cat((m.queue.places, lonlat))[-m.queue.size :]
        m.queue.places.copy_(places)
        return {"loss": incl + secl, "incl": incl, "secl": secl}


def make_batch(settings: GairSettings, samples: int) -> TileBatch:
    """``samples`` photos, ``settings.photos`` in each tile, without padding."""
    k, tiles = settings.photos, samples // settings.photos
    with tempfile.TemporaryDirectory() as folder:
        made = SyntheticSettings(samples=tiles, size=64, photos=1, objects=2)
        plain = StreamSettings(workers=0, augment=AugmentSettings(enabled=False))
        view = Gair.view(settings, "released")
        batch = next(GeoStream(str(write_dataset(folder, made)), view, batch_size=tiles, settings=plain).batches())
    generator = torch.Generator().manual_seed(0)
    sample = torch.arange(tiles).repeat_interleave(k)
    xy = torch.rand(samples, 2, generator=generator)
    west, south, east, north = batch.bbox[sample].unbind(1)
    lonlat = torch.stack((west + xy[:, 0] * (east - west), north - xy[:, 1] * (north - south)), 1)
    size = settings.sv.image_size
    photos = torch.randint(0, 256, (samples, 3, size, size), dtype=torch.uint8, generator=generator)
    return replace(
        batch, photos=photos, photo_valid=torch.ones(samples, dtype=torch.bool), photo_sample=sample, photo_xy=xy,
        photo_lonlat=lonlat, photo_frame=torch.full((samples, 2, 2), torch.nan),
    )  # fmt: skip


def agree(losses: Mapping[str, Mapping[str, float]]) -> None:
    """That the sides computed the same, by side and loss.

    Raises:
        ValueError: they did not: what was timed is no race.
    """
    for name, value in losses["peer"].items():
        if not abs(value - losses["ours"][name]) < AGREEMENT:
            raise ValueError(f"{name} is {losses['ours'][name]} here and {value} of the composition as released")


def race(settings: GairSettings, samples: int, rounds: int) -> dict[str, float]:
    """Medians of CPU seconds a step and of their ratios."""
    torch.manual_seed(0)
    ours, batch = Gair(settings, "released", GairLoss()), make_batch(settings, samples)
    sides: dict[str, nn.Module] = {"peer": Released(ours), "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        losses = {}
        for name, model in sides.items():
            model.zero_grad(set_to_none=True)
            begin = time.process_time()
            parts = model(batch)
            parts["loss"].backward()
            if number:  # the first warms up
                seconds[name].append(time.process_time() - begin)
            losses[name] = {n: float(v.detach()) for n, v in parts.items()}
        agree(losses)
    ratios = [a / b for a, b in zip(seconds["peer"], seconds["ours"], strict=True)]
    medians = {f"{name}_cpu_seconds": round(statistics.median(values), 4) for name, values in seconds.items()}
    spread = {"least": round(min(ratios), 3), "most": round(max(ratios), 3)}
    return {**medians, "ratio": round(statistics.median(ratios), 3), **spread}


def main() -> None:
    """Run the races and print their line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", choices=("tiny", "small", "base", "large"))
    parser.add_argument("--photos", default="8,1", help="photos a tile")
    parser.add_argument("--samples", type=int, default=16, help="photos a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings, _, _ = parse(GAIR, [f"model={options.model}"])
    arch: GairSettings = settings.arch  # type: ignore[attr-defined]  # of GAIR
    results = {
        k: race(replace(arch, photos=int(k)), options.samples, options.rounds) for k in options.photos.split(",")
    }
    print(json.dumps({
        "race": "gair", "model": options.model, "samples": options.samples, "rounds": options.rounds,
        "threads": options.threads, "photos": results,
    }))  # fmt: skip


if __name__ == "__main__":
    main()

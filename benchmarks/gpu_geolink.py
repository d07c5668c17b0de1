"""GeoLink on one GPU, all of it in one call under eight minutes; prints one JSON line.

``python benchmarks/gpu_geolink.py [--model large] [--batch 660] [--steps N] [--budget SECONDS] [--device cuda|cpu]``

Samples are synthesised from ``schemas`` alone. With the same batches of the same size it times, in bf16 with fused
attention and ``torch.compile``: a whole step (forward, backward, clipping, AdamW) of reconstruction only and of all
three losses (the ratio is what the objects cost; the paper's figure is 1.18), the composition of the release
(tests/trainers/models/geolink_reference.py, needs torch_geometric; not run where it is missing), and training from the
stream with loader processes, for the share of time spent waiting for data. A part that no time is left for is ``null``.

MFU counts what the visible tokens need, forward and backward, and nothing recomputed:
  block(d, n) = 24 n d² + 4 n² d         two a multiply-add: qkv, projection and MLP (12 n d²), attention (2 n² d)
  encoder     = depth block(dim, 1 + V) + 2 V 3 patch² dim
  decoder     = decoder_depth block(decoder_dim, 1 + P) + 2 (1 + V) dim decoder_dim + 2 M decoder_dim 3 patch²
  FLOPs a sample = 3 (encoder + decoder), over peak dense bf16 FLOP/s of the card
with V visible, M hidden of P patches. The OSM branch is left out of the numerator and not of the time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch  # noqa: E402

from tests.trainers.synthetic import SyntheticSettings, write_dataset  # noqa: E402
from trainers.engine.cli import parse  # noqa: E402
from trainers.engine.optim import make_optimizer  # noqa: E402
from trainers.models.geolink import GeoLink, GeoLinkLoss  # noqa: E402
from trainers.models.geolink_settings import GeoLinkSettings  # noqa: E402
from trainers.models.nodes import node_features  # noqa: E402
from trainers.stream.augment import AugmentSettings  # noqa: E402
from trainers.stream.batch import TileBatch  # noqa: E402
from trainers.stream.stream import GeoStream, StreamSettings  # noqa: E402
from trainers.tasks.geolink import GEOLINK  # noqa: E402

#: Peak dense bf16 FLOP/s by a part of the card's name (the makers' data sheets).
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
ALL, ONLY_IMAGE = GeoLinkLoss(1.0, 0.01, 0.01), GeoLinkLoss(1.0, 0.0, 0.0)


def block(dim: int, tokens: int) -> float:
    """FLOPs of one transformer block, forward."""
    return 24 * tokens * dim**2 + 4 * tokens**2 * dim


def flops(s: GeoLinkSettings) -> float:
    """FLOPs a sample, forward and backward, of the visible tokens alone."""
    vit = s.vit
    patches = vit.grid**2
    visible = max(1, int(patches * (1 - s.image_mask)))
    pixels = vit.patch**2 * len(s.bands)
    encoder = vit.depth * block(vit.dim, 1 + visible) + 2 * visible * pixels * vit.dim
    decoder = s.decoder_depth * block(s.decoder_dim, 1 + patches)
    decoder += 2 * (1 + visible) * vit.dim * s.decoder_dim + 2 * (patches - visible) * s.decoder_dim * pixels
    return 3 * (encoder + decoder)


class Bench:
    """One machine and one size."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.cuda = self.device.type == "cuda"
        self.steps, self.batch = options.steps, options.batch
        self.end = time.perf_counter() + options.budget
        self.compile = self.cuda and not options.eager
        settings, _, _ = parse(GEOLINK, [f"model={options.model}"])
        self.arch: GeoLinkSettings = settings.arch  # type: ignore[attr-defined]  # of GeoLink
        self.optim = settings.optim

    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.end - time.perf_counter()

    def cast(self) -> Any:
        """bf16 where it is fast."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.cuda else nullcontext()

    def wait(self) -> None:
        """Until the device is idle."""
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, step: Callable[[int], None]) -> float:
        """Median seconds of a step after warming up."""
        for number in range(3 if self.cuda else 1):
            step(number)
        times = []
        for number in range(self.steps):
            self.wait()
            begin = time.perf_counter()
            step(number)
            self.wait()
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    def batches(self, root: Path) -> list[TileBatch]:
        """A few batches on the device."""
        plain = StreamSettings(select="n_polygon > 0", workers=0, augment=AugmentSettings(enabled=False))
        stream = GeoStream(str(root), GeoLink.view(self.arch), batch_size=self.batch, settings=plain)
        source = stream.batches()
        return [next(source).to(self.device) for _ in range(2)]

    def ours(self, batches: list[TileBatch], loss: GeoLinkLoss, recompute: bool = False) -> dict[str, Any]:
        """Our step, with its memory."""
        model: Any = GeoLink(replace(self.arch, checkpoint=recompute), "ours", loss).to(self.device)
        optimizer = make_optimizer(model, self.optim, self.device)
        if self.compile:
            model.compile()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

        def step(number: int) -> None:
            with self.cast():
                value = model(batches[number % len(batches)])["loss"]
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        seconds = self.seconds(step)
        if self.cuda:
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")  # any host synchronisation in the step is an error
            try:
                with self.cast():
                    model(batches[0])["loss"].backward()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.cuda else 0.0
        return {"seconds": seconds, "peak_gib": round(peak, 1)}

    def released(self, batches: list[TileBatch]) -> float | None:
        """Seconds of a step of the composition of the release."""
        if find_spec("torch_geometric") is None:
            return None
        from tests.trainers.models.geolink_reference import Reference, Sizes, graphs

        s, vit = self.arch, self.arch.vit
        sizes = Sizes(
            vit.image_size, vit.patch, vit.dim, vit.depth, vit.heads, s.decoder_dim, s.decoder_depth, s.decoder_heads,
            s.tag_width, s.osm_dim, s.fusion_dim, s.fusion_heads, s.fusion_dropout, s.contrast_dim, s.image_mask,
            s.node_mask,
        )  # fmt: skip
        model = Reference(sizes).to(self.device)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
        ready = []
        for batch in batches:  # collated beforehand
            host = batch.to("cpu", non_blocking=False)
            graph = graphs(host, node_features(host), torch.rand(len(host.node_valid), 2))
            moved: dict[str, Any] = {
                name: {k: v.to(self.device) for k, v in value.items()} if name != "count" else value
                for name, value in graph.__dict__.items()
            }
            ready.append((batch.rs, type(graph)(**moved)))
        norm = GeoLink(replace(self.arch, vit=replace(vit, depth=1)), "released", ONLY_IMAGE).norm.to(self.device)

        def step(number: int) -> None:
            pixels, graph = ready[number % len(ready)]
            with self.cast():
                losses = model(norm(pixels), torch.rand(self.batch, vit.grid**2, device=self.device), graph)
            (losses[0] + 0.01 * losses[1] + 0.01 * losses[2]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return self.seconds(step)

    def waiting(self, root: Path, workers: int) -> dict[str, float]:
        """Share of the time of training from the stream that is spent waiting for data."""
        model: Any = GeoLink(self.arch, "ours", ALL).to(self.device)
        optimizer = make_optimizer(model, self.optim, self.device)
        if self.compile:
            model.compile()
        stream = GeoStream(
            str(root), GeoLink.view(self.arch), batch_size=self.batch, pin_memory=self.cuda,
            settings=StreamSettings(select="n_polygon > 0", workers=workers),
        )  # fmt: skip
        waited, begin, warm = 0.0, 0.0, 3 if self.cuda else 1
        batches = stream.batches(steps=warm + self.steps)
        for number in range(warm + self.steps):
            if number == warm:
                self.wait()
                waited, begin = 0.0, time.perf_counter()
            asked = time.perf_counter()
            batch = next(batches).to(self.device)
            waited += time.perf_counter() - asked
            with self.cast():
                value = model(batch)["loss"]
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.wait()
        total = time.perf_counter() - begin
        return {"wait": round(waited / total, 4), "samples_per_second": round(self.steps * self.batch / total, 1)}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All parts, as long as there is time."""
    bench = Bench(options)
    name = torch.cuda.get_device_name() if bench.cuda else "cpu"
    peak = next((value for part, value in PEAK.items() if part in name), None)
    result: dict[str, Any] = {
        "race": "gpu_geolink", "device": name, "model": options.model, "batch": options.batch, "steps": options.steps,
        "torch": torch.__version__, "compiled": bench.compile,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        settings = SyntheticSettings(
            samples=options.batch * 3, size=bench.arch.vit.image_size, photos=0, objects=options.objects
        )
        root = write_dataset(Path(folder) / "data", settings)
        batches = bench.batches(root)
        image, whole = bench.ours(batches, ONLY_IMAGE), bench.ours(batches, ALL)
        rate = options.batch / whole["seconds"]
        result |= {
            "samples_per_second": round(rate, 1), "step_seconds": round(whole["seconds"], 4),
            "reconstruction_seconds": round(image["seconds"], 4), "peak_gib": whole["peak_gib"],
            "objects_cost": round(whole["seconds"] / image["seconds"] - 1, 4),
            "gflops_a_sample": round(flops(bench.arch) / 1e9, 2),
            "mfu": round(rate * flops(bench.arch) / peak, 4) if peak else None,
        }  # fmt: skip
        result |= {"checkpointing": None, "released_seconds": None, "released_over_ours": None, "stream": None}
        if bench.left() > 60 or not bench.cuda:
            result["stream"] = bench.waiting(root, options.workers)
        if bench.left() > 60 or not bench.cuda:
            try:
                released = bench.released(batches)
            except RuntimeError as error:  # the peer lacks memory or a kernel here: the other figures stand
                released, result["released_error"] = None, str(error).partition("\n")[0]
            if released:
                result |= {
                    "released_seconds": round(released, 4),
                    "released_over_ours": round(released / whole["seconds"], 2),
                }
        if bench.left() > 60 or not bench.cuda:
            less = bench.ours(batches, ALL, recompute=True)
            result["checkpointing"] = {"step_seconds": round(less["seconds"], 4), "peak_gib": less["peak_gib"]}
    return result


def main(arguments: list[str] | None = None) -> None:
    """Run and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--model", default="large" if cuda else "tiny", choices=("tiny", "small", "base", "large"))
    parser.add_argument("--batch", type=int, default=660 if cuda else 16)
    parser.add_argument("--steps", type=int, default=20 if cuda else 3)
    parser.add_argument("--objects", type=int, default=29, help="mean objects a sample")
    parser.add_argument("--workers", type=int, default=12 if cuda else 0)
    parser.add_argument("--budget", type=float, default=420.0, help="seconds after which no further part begins")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    print(json.dumps(run(parser.parse_args(arguments))))


if __name__ == "__main__":
    main()

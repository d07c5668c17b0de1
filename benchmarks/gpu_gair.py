"""GAIR on one GPU, all of it in one call under eight minutes; prints one JSON line.

``python benchmarks/gpu_gair.py [--model base] [--batch 256] [--photos 2] [--steps N] [--budget SECONDS]
[--device cuda|cpu]``

Samples are synthesised from ``schemas`` alone, each tile with as many photos. Timed is a step (forward, backward,
clipping, AdamW) of ``ours`` on one batch: in fp32 and in bf16, as it is and with ``torch.compile``, the most memory
that each took, once more with every host synchronisation an error; in bf16 the composition of the release
(benchmarks/gair.py), which encodes a tile once a photo; and training from the stream with loader processes, for the
share of time spent waiting for data. A part that no time is left for is ``null``.

FLOPs count what the encoders need, forward and backward:
  block(d, n) = 24 n d² + 4 n² d         two a multiply-add: qkv, projection and MLP (12 n d²), attention (2 n² d)
  encoder     = depth block(dim, n) + 2 P C patch² dim
  FLOPs a tile = 3 (encoder of the image + K encoder of a photo)
with P patches of C channels, n tokens and K photos. NILI, the location encoder with its queue, and the losses are left
out of the numerator and not of the time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.gair import Released, make_batch  # noqa: E402
from benchmarks.gpu_geolink import PEAK, block  # noqa: E402
from tests.trainers.synthetic import SyntheticSettings, write_dataset  # noqa: E402
from trainers.engine.cli import parse  # noqa: E402
from trainers.engine.optim import make_optimizer  # noqa: E402
from trainers.models.gair.model import Gair  # noqa: E402
from trainers.models.gair.settings import GairLoss, GairSettings  # noqa: E402
from trainers.models.vit import ViTSettings  # noqa: E402
from trainers.stream.batch import TileBatch  # noqa: E402
from trainers.stream.stream import GeoStream, StreamSettings  # noqa: E402
from trainers.tasks.gair import GAIR  # noqa: E402


def encoder(vit: ViTSettings, channels: int, class_token: bool) -> float:
    """FLOPs of one image, forward."""
    patches = vit.grid**2
    return vit.depth * block(vit.dim, patches + class_token) + 2 * patches * channels * vit.patch**2 * vit.dim


def flops(s: GairSettings) -> float:
    """FLOPs a tile with its photos, forward and backward, of the encoders."""
    return 3 * (encoder(s.rs, len(s.bands), s.rs_encoder == "vit") + s.photos * encoder(s.sv, 3, class_token=True))


class Bench:
    """One machine and one size."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.cuda = self.device.type == "cuda"
        self.steps, self.batch, self.workers = options.steps, options.batch, options.workers
        self.end = time.perf_counter() + options.budget
        settings, _, _ = parse(GAIR, [f"model={options.model}"])
        self.arch: GairSettings = replace(settings.arch, photos=options.photos)  # type: ignore[attr-defined]  # of GAIR
        self.optim = settings.optim

    def left(self) -> bool:
        """Whether another part may begin."""
        return not self.cuda or self.end - time.perf_counter() > 60

    def cast(self, precision: str) -> Any:
        """Autocast to bf16, or nothing."""
        return torch.autocast(self.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()

    def wait(self) -> None:
        """Until the device is idle."""
        if self.cuda:
            torch.cuda.synchronize()

    def step(self, model: nn.Module, precision: str) -> Callable[[TileBatch], None]:
        """What trains ``model`` on a batch."""
        optimizer = make_optimizer(model, self.optim, self.device)

        def step(batch: TileBatch) -> None:
            with self.cast(precision):
                loss = model(batch)["loss"]
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    def timed(self, model: nn.Module, batch: TileBatch, precision: str) -> dict[str, float]:
        """Tiles a second by the median step, and the most memory."""
        step = self.step(model, precision)
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(3 if self.cuda else 1):
            step(batch)
        times = []
        for _ in range(self.steps):
            self.wait()
            begin = time.perf_counter()
            step(batch)
            self.wait()
            times.append(time.perf_counter() - begin)
        seconds = statistics.median(times)
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.cuda else 0.0
        tflops = self.batch / seconds * flops(self.arch) / 1e12
        return {
            "samples_per_second": round(self.batch / seconds, 1), "step_seconds": round(seconds, 4),
            "tflops": round(tflops, 3), "peak_gib": round(peak, 1),
        }  # fmt: skip

    def ours(self, batch: TileBatch, precision: str, compiled: bool) -> dict[str, float]:
        """Our step; it then goes once more with every host synchronisation an error."""
        model = Gair(self.arch, "ours", GairLoss()).to(self.device)
        if compiled:
            model.compile()
        found = self.timed(model, batch, precision)
        with synchronisation_is_an_error(self.cuda), self.cast(precision):
            model(batch)["loss"].backward()
        return found

    def released(self, batch: TileBatch) -> dict[str, float]:
        """The composition of the release in bf16."""
        return self.timed(Released(Gair(self.arch, "released", GairLoss())).to(self.device), batch, "bf16")

    def waiting(self, root: Path) -> dict[str, float]:
        """Share of the time of training from the stream that is spent waiting for data."""
        step = self.step(Gair(self.arch, "ours", GairLoss()).to(self.device), "bf16")
        stream = GeoStream(
            str(root), Gair.view(self.arch), batch_size=self.batch, pin_memory=self.cuda,
            settings=StreamSettings(workers=self.workers),
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
            step(batch)
        self.wait()
        total = time.perf_counter() - begin
        return {"wait": round(waited / total, 4), "samples_per_second": round(self.steps * self.batch / total, 1)}


@contextmanager
def synchronisation_is_an_error(cuda: bool) -> Iterator[None]:
    """While the host must not wait for the device."""
    before = torch.cuda.get_sync_debug_mode() if cuda else 0
    if cuda:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if cuda:
            torch.cuda.set_sync_debug_mode(before)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All parts, as long as there is time."""
    bench = Bench(options)
    name = torch.cuda.get_device_name() if bench.cuda else "cpu"
    peak = next((value for part, value in PEAK.items() if part in name), None)
    batch = make_batch(bench.arch, options.batch * options.photos).to(bench.device)
    ways = {"bf16": ("bf16", False), "fp32": ("fp32", False)}
    if bench.cuda and not options.eager:
        ways = {"bf16_compiled": ("bf16", True), **ways, "fp32_compiled": ("fp32", True)}
    first = next(iter(ways))
    result: dict[str, Any] = {
        "race": "gpu_gair", "device": name, "model": options.model, "batch": options.batch, "photos": options.photos,
        "steps": options.steps, "torch": torch.__version__, "gflops_a_sample": round(flops(bench.arch) / 1e9, 2),
        first: bench.ours(batch, *ways.pop(first)),
    }  # fmt: skip
    result["mfu"] = round(result[first]["tflops"] * 1e12 / peak, 4) if peak else None
    result |= {"stream": None, "released": None, "released_over_ours": None, **dict.fromkeys(ways)}
    if bench.left():
        with tempfile.TemporaryDirectory() as folder:
            size, photo = bench.arch.rs.image_size, bench.arch.sv.image_size
            made = SyntheticSettings(
                samples=options.batch * 3, size=size, photo_size=photo, photos=options.photos, objects=2
            )
            result["stream"] = bench.waiting(write_dataset(Path(folder) / "data", made))
    for way, choice in ways.items():
        if bench.left():
            result[way] = bench.ours(batch, *choice)
    if bench.left():
        try:
            result["released"] = bench.released(batch)
        except RuntimeError as error:  # the peer lacks memory here: the other figures stand
            result["released_error"] = str(error).partition("\n")[0]
        else:
            if result["bf16"]:
                ratio = result["released"]["step_seconds"] / result["bf16"]["step_seconds"]
                result["released_over_ours"] = round(ratio, 2)
    return result


def main(arguments: list[str] | None = None) -> None:
    """Run and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--model", default="base" if cuda else "tiny", choices=("tiny", "small", "base", "large"))
    parser.add_argument("--batch", type=int, default=256 if cuda else 8, help="tiles a step")
    parser.add_argument("--photos", type=int, default=2, help="photos a tile")
    parser.add_argument("--steps", type=int, default=20 if cuda else 3)
    parser.add_argument("--workers", type=int, default=12 if cuda else 0)
    parser.add_argument("--budget", type=float, default=420.0, help="seconds after which no further part begins")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    print(json.dumps(run(parser.parse_args(arguments))))


if __name__ == "__main__":
    main()

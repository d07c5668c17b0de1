"""JPEG decoders on images of the size that shards hold: simplejpeg, PyTurboJPEG, Pillow, torchvision's on a GPU.

``python benchmarks/stream_decode.py [--size N] [--images N] [--rounds N]`` prints one JSON line of median milliseconds
of processor time an image, RGB in memory. ``half`` decodes for what needs half the side, at half scale where the
decoder can. torchvision's decodes all images in one call, and its time is that of the clock until the device is done.
A decoder that is not installed, or lacks its library or its device, is left out with the reason.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

Decode = Callable[[bytes, int], Any]


def images(count: int, size: int) -> list[bytes]:
    """JPEGs of smooth ground with some texture, quality 90: about 20 KB at 256 px."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        ground = np.asarray(
            Image.fromarray(rng.integers(0, 255, (size // 8, size // 8, 3)).astype(np.uint8)).resize((size, size))
        )
        pixels = np.clip(ground + rng.normal(0, 5, ground.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def with_simplejpeg() -> Decode:
    """``least`` is the shortest side that may come out; 0: full scale."""
    import simplejpeg

    def decode(data: bytes, least: int) -> Any:
        small = {"min_height": least, "min_width": least} if least else {}
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=False, **small)

    return decode


def with_turbojpeg() -> Decode:
    """PyTurboJPEG, which needs the libturbojpeg of the system."""
    import turbojpeg

    codec = turbojpeg.TurboJPEG()

    def decode(data: bytes, least: int) -> Any:
        return codec.decode(data, pixel_format=turbojpeg.TJPF_RGB, scaling_factor=(1, 2) if least else None)

    return decode


def with_pillow() -> Decode:
    """Pillow, with its draft mode for less than full scale."""

    def decode(data: bytes, least: int) -> Any:
        with Image.open(io.BytesIO(data)) as image:
            if least:
                image.draft("RGB", (least, least))
            return np.asarray(image.convert("RGB"))

    return decode


def on_gpu(data: list[bytes], rounds: int) -> float:
    """Median milliseconds an image of torchvision's decoder on the GPU, after one round that warms."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device")
    encoded = [torch.frombuffer(bytearray(image), dtype=torch.uint8) for image in data]
    took = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        decode_jpeg(encoded, ImageReadMode.RGB, device="cuda")
        torch.cuda.synchronize()
        took.append((time.perf_counter() - begin) / len(data) * 1e3)
    return statistics.median(took[1:])


def milliseconds(decode: Decode, data: list[bytes], least: int, rounds: int) -> float:
    """Median over the rounds, after one that warms."""
    took = []
    for _ in range(rounds + 1):
        begin = time.process_time()
        for image in data:
            decode(image, least)
        took.append((time.process_time() - begin) / len(data) * 1e3)
    return statistics.median(took[1:])


def main() -> None:
    """Run the race and print its line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    data = images(options.images, options.size)
    results: dict[str, Any] = {}
    for name, make in (("simplejpeg", with_simplejpeg), ("PyTurboJPEG", with_turbojpeg), ("Pillow", with_pillow)):
        try:
            decode = make()
        except (ImportError, RuntimeError, OSError) as error:
            results[name] = {"skipped": str(error)}
            continue
        results[name] = {
            "full_ms": round(milliseconds(decode, data, 0, options.rounds), 3),
            "half_ms": round(milliseconds(decode, data, options.size // 2, options.rounds), 3),
        }
    try:
        results["torchvision on the GPU"] = {"full_ms": round(on_gpu(data, options.rounds), 3)}
    except (ImportError, RuntimeError, OSError) as error:
        results["torchvision on the GPU"] = {"skipped": str(error).splitlines()[0]}
    print(json.dumps({
        "race": "stream_decode", "size": options.size, "bytes": round(statistics.mean(map(len, data))),
        "rounds": options.rounds, "results": results,
    }))  # fmt: skip


if __name__ == "__main__":
    main()

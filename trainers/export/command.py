"""``geoshards export CKPT --format …``: trained weights for other software."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from schemas.command import Command
from trainers.export import FORMATS


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt or best.pt of a GeoLink run")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--out", type=Path, help="file (default: beside the checkpoint, named by the format)")


def _run(args: argparse.Namespace) -> int:
    from trainers.export.weights import export

    suffix, text = FORMATS[args.format]
    out = args.out or args.checkpoint.with_name(f"{args.checkpoint.stem}-{args.format}{suffix}")
    written = export(args.checkpoint, args.format, out)
    if args.json:
        print(json.dumps({"file": str(written), "format": args.format, "bytes": written.stat().st_size}))
    elif not args.quiet:
        print(f"{written}: {text}")
    return 0


COMMAND = Command("Write a trained model as timm, multimodal, safetensors, TorchScript or ONNX file", _configure, _run)

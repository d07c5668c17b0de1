"""``geoshards export CKPT --format …``: trained weights for other software."""

from __future__ import annotations

import argparse
import json

from schemas.command import Command
from trainers.export import FORMATS


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="checkpoint.pt or best.pt of a run, path or URL")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--out", help="file, path or URL (default: beside the checkpoint, named by the format)")


def _run(args: argparse.Namespace) -> int:
    from trainers.export.weights import export

    suffix, text = FORMATS[args.format]
    out = args.out or f"{args.checkpoint.removesuffix('.pt')}-{args.format}{suffix}"
    size = export(args.checkpoint, args.format, out)
    if args.json:
        print(json.dumps({"file": out, "format": args.format, "bytes": size}))
    elif not args.quiet:
        print(f"{out}: {text}")
    return 0


COMMAND = Command(
    "Write a trained model as timm, CROMA, multimodal, safetensors, TorchScript or ONNX file", _configure, _run
)

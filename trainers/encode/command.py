"""``geoshards encode CKPT DIR``: embeddings of a dataset as Parquet that joins its catalog. No torch for help."""

from __future__ import annotations

import argparse

from schemas.command import Command
from storage.progress import report
from trainers.encode import KINDS


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="checkpoint.pt or best.pt of a GeoLink or GAIR run, path or URL")
    parser.add_argument("dataset", help="dataset directory or URL")
    parser.add_argument("--out", default="", help="folder or URL (default: beside the checkpoint, CKPT-DIR-embeddings)")
    parser.add_argument("--what", default="", metavar="KIND,…", help="kinds of embeddings (default: all of the model)")
    parser.add_argument("--split", default="all", help="train, val, test, several by commas, or all (default)")
    parser.add_argument("--select", default="", metavar="SQL", help="condition over the samples table")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", default="fp32", help="fp32 (default), or bf16: faster on a GPU, 8 bits")
    parser.add_argument("--normalise", action="store_true", help="embeddings of unit length")
    parser.add_argument("--batch-size", type=int, default=64, help="tiles a forward pass (default 64)")
    parser.add_argument("--rows-per-file", type=int, default=65_536, help="tiles a file, in whole batches (65536)")
    parser.add_argument("--workers", type=int, help="loader processes (default: none on a CPU, by the cores on a GPU)")
    parser.epilog = "kinds:\n" + "\n".join(f"  {name.ljust(10)} {kind.text}" for name, kind in KINDS.items())


def _run(args: argparse.Namespace) -> int:
    from trainers.encode.run import EncodeSettings, default_out, encode

    what = tuple(word for word in args.what.split(",") if word)
    settings = EncodeSettings(
        what, args.split, args.select, args.batch_size, args.rows_per_file, args.device, args.precision,
        args.normalise, args.workers,
    )  # fmt: skip
    out = args.out or default_out(args.checkpoint, args.dataset)
    outcome = encode(args.checkpoint, args.dataset, out, settings, args.quiet or args.json)
    rows = ", ".join(f"{count:,} {kind}" for kind, count in outcome.rows.items()) if outcome.encoded else "up to date"
    dropped = f"; {outcome.drops} samples left out, see drops/" if outcome.drops else ""
    report(args, outcome.stages, outcome.as_dict(), f"{out}: {rows}{dropped}")
    return 0


COMMAND = Command("Write embeddings of a dataset by a trained model, as Parquet", _configure, _run)

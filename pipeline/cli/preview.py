"""``geoshards preview DIR``: one PNG contact sheet of images, their OSM objects and their photos."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.formats.members import decode_array, decode_picture
from schemas.bands import RGB, channels
from schemas.command import Command
from schemas.errors import DatasetError, InputError, at_the_door
from schemas.features import Kind
from schemas.sample import JSON, OSM_RASTER, OSM_TOKENS, SampleMeta
from schemas.tokens import OsmTokens, unsnap
from storage.dataset import read_samples, sample_rows
from storage.locks import one_writer
from storage.manifest import amend_manifest
from storage.store import Store
from storage.urls import local_path

_GAP = 6
_TEXT = 16
_COLOURS = {Kind.POINT: (255, 214, 10), Kind.LINE: (64, 200, 255), Kind.POLYGON: (255, 92, 56)}


def choose(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """``count`` samples spread over the dataset; of each stretch the one with most photos, then most objects."""
    stretches = np.array_split(np.arange(len(rows)), min(count, len(rows)))

    def richness(i: int) -> tuple[int, int, int]:
        r = rows[i]
        return min(r["n_streetview"], 1), r["n_rs"], min(r["n_point"] + r["n_line"] + r["n_polygon"], 60)

    return [rows[max(s.tolist(), key=richness)] for s in stretches]


def contact_sheet(root: str, count: int, columns: int, side: int) -> Image.Image:
    """The sheet: each sample as its image, the image with objects and photo positions drawn, and its first photo.

    Args:
        root: dataset directory.
        count: samples shown.
        columns: samples a row.
        side: pixels of an image on the sheet.
    """
    store = Store(root)
    rows = sample_rows(store)
    if not rows:
        raise DatasetError(
            f'{root} has no samples; see `geoshards query {root} "SELECT reason, sum(count) FROM drops GROUP BY 1"`'
        )
    chosen = choose(rows, count)
    columns = min(columns, len(chosen))
    panels = 3 if any(r["n_streetview"] for r in chosen) else 2
    width, height = panels * (side + 2) + _GAP, side + _TEXT + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, math.ceil(len(chosen) / columns) * height + _GAP), "white")
    for place, (row, members) in enumerate(read_samples(store, chosen)):
        x, y = _GAP + place % columns * width, _GAP + place // columns * height
        for panel, image in enumerate(_panels(members, side, f"{root}: {row['key']}")[:panels]):
            sheet.paste(image, (x + panel * (side + 2), y + _TEXT))
        label = f"{row['key']}  {row['n_point']} points, {row['n_line']} lines, {row['n_polygon']} polygons"
        ImageDraw.Draw(sheet).text((x, y + 2), label, fill=(60, 60, 60), font=ImageFont.load_default(11))
    return sheet


def _panels(members: dict[str, bytes], side: int, where: str) -> list[Image.Image]:
    with at_the_door(f"{where} cannot be shown", "look for more with geoshards verify", DatasetError):
        return _drawn(members, side, where)


def _drawn(members: dict[str, bytes], side: int, where: str) -> list[Image.Image]:
    meta = SampleMeta.from_bytes(members[JSON])
    base = _base(members, meta, where).resize((side, side), Image.Resampling.LANCZOS)
    drawn = _draw(base, OsmTokens.from_bytes(members[OSM_TOKENS]), meta) if OSM_TOKENS in members else base
    panels = [base, drawn]
    if meta.streetview:
        name = meta.streetview[0].member
        photo = decode_picture(members[name], f"{where}.{name}", "RGB")
        photo.thumbnail((side, side))
        framed = Image.new("RGB", (side, side), (235, 235, 235))
        framed.paste(photo, ((side - photo.width) // 2, (side - photo.height) // 2))
        panels.append(framed)
    return panels


def _base(members: dict[str, bytes], meta: SampleMeta, where: str) -> Image.Image:
    """The RS image as RGB; bands are stretched between their 2nd and 98th percentile; the class raster without one."""
    name = meta.rs[0].member if meta.rs else OSM_RASTER
    if meta.rs and not name.endswith(".npy"):
        picture = decode_picture(members[name], f"{where}.{name}", "RGB")
        return Image.merge("RGB", [picture.getchannel(i) for i in _colours(list(meta.rs[0].names))])
    if meta.rs:
        bands = decode_array(members[name], f"{where}.{name}").astype(np.float64)
        chosen = bands[_colours(meta.rs[0].bands)]
        low, high = np.percentile(chosen, (2, 98))
        scaled = np.clip((chosen - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(scaled.transpose(1, 2, 0)))
    if OSM_RASTER in members:
        return decode_picture(members[name], f"{where}.{name}", "RGB")  # in its own colours
    return Image.new("RGB", (meta.footprint.width, meta.footprint.height), "white")


def _colours(names: list[str]) -> list[int]:
    """Which bands to show as red, green and blue: those that are, else the first three."""
    held = channels(names)
    last = min(2, len(names) - 1)
    return [held[b] for b in RGB] if set(RGB) <= set(held) else [0, min(1, last), last]


def _draw(base: Image.Image, tokens: OsmTokens, meta: SampleMeta) -> Image.Image:
    """Objects as outlines over the darkened image; photos as a dot with a line along their heading."""
    side = base.width
    image = Image.blend(base, Image.new("RGB", base.size, (20, 20, 30)), 0.35)
    draw = ImageDraw.Draw(image)
    xy = unsnap(tokens.vertices) * side
    for kind in (Kind.POLYGON, Kind.LINE, Kind.POINT):
        for i in np.flatnonzero(tokens.kind == kind):
            for ring in range(tokens.object_ring_offsets[i], tokens.object_ring_offsets[i + 1]):
                points = xy[tokens.ring_offsets[ring] : tokens.ring_offsets[ring + 1]]
                if kind == Kind.POINT:
                    x, y = points[0]
                    draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_COLOURS[kind])
                    continue
                closed = np.concatenate((points, points[:1])) if kind == Kind.POLYGON else points
                draw.line([tuple(p) for p in closed.tolist()], fill=_COLOURS[kind], width=1)
    for photo in meta.streetview:
        x, y = photo.x * side, photo.y * side
        if photo.heading is not None:
            angle = math.radians(photo.heading)
            draw.line((x, y, x + 14 * math.sin(angle), y - 14 * math.cos(angle)), fill=(255, 255, 255), width=2)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(60, 220, 90), outline=(255, 255, 255))
    return image


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="dataset directory or fsspec URL")
    parser.add_argument("--out", type=local_path, help="PNG to write (default DIR/preview.png)")
    parser.add_argument("--samples", type=int, default=12, help="samples shown (default 12)")
    parser.add_argument("--columns", type=int, default=2, help="samples a row (default 2)")
    parser.add_argument("--side", type=int, default=192, help="pixels of an image on the sheet (default 192)")
    parser.epilog = "red: polygons; blue: lines; yellow: points; green: photos, with a line along their heading"


def _run(args: argparse.Namespace) -> int:
    if args.samples < 1 or args.columns < 1 or not 16 <= args.side <= 2048:
        raise InputError("--samples and --columns must be 1 or more, --side 16 to 2048")
    sheet = contact_sheet(args.dataset, args.samples, args.columns, args.side)
    if args.out is None and Store(args.dataset).remote:
        raise InputError("the dataset is remote; give --out FILE.png")
    out = args.out or Path(args.dataset) / "preview.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, "PNG", optimize=True)
    if args.out is None:
        with one_writer(args.dataset):
            amend_manifest(Store(args.dataset), [out.name])
    if not args.quiet:
        print(json.dumps({"out": str(out)}) if args.json else out)
    return 0


COMMAND = Command("Draw a contact sheet of a dataset: images, OSM objects, photo positions", _configure, _run)

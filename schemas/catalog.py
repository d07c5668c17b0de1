"""The tables that describe a dataset: one row a sample, a shard, a photo, a drop, a tag, a stage, a class, a band."""

from __future__ import annotations

import re

import pyarrow as pa

from schemas.features import BBOX, DROPS, VOCABULARY

#: Version of the dataset layout; a reader refuses a newer one.
SCHEMA_VERSION = 1
_SHARD = re.compile(r"[A-Za-z0-9_-]+\.tar")
#: Shards a catalog file: a few files prune as well as one, and none holds 10⁹ rows.
SHARDS_PER_FILE = 256

#: What is counted of each sample and each shard.
COUNTS = ("n_rs", "n_point", "n_line", "n_polygon", "n_edges", "n_streetview")
_COUNTS = [(name, pa.int32()) for name in COUNTS]

MEMBERS = pa.list_(
    pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())])
)

SAMPLES = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),  # part-0000000.tar
        ("position", pa.int32()),  # within the shard, from 0
        ("members", MEMBERS),  # name without the key, byte offset of the content in the shard, bytes, their CRC-32
        ("sha256", pa.string()),  # schemas.sample.sample_hash
        ("bbox", BBOX),  # degrees; across 180° xmin is over xmax
        ("lon", pa.float64()),  # centre, degrees
        ("lat", pa.float64()),
        ("gsd_x", pa.float64()),  # true metres a pixel
        ("gsd_y", pa.float64()),
        ("split", pa.string()),  # train | val | test | buffer
        *_COUNTS,
        ("rs_time", pa.string()),  # of the first image, ISO 8601 or null
        ("osm_time", pa.string()),  # of the OSM snapshot
        ("licences", pa.list_(pa.string())),
        ("geometry", pa.binary()),  # footprint as a WKB polygon, lon lat; across 180° two
    ]
)

SHARDS = pa.schema(
    [
        ("shard", pa.string()),
        ("index", pa.int64()),  # 0, 1, 2 … along the Hilbert curve
        ("planned", pa.int32()),  # tiles planned
        ("samples", pa.int32()),  # tiles accepted
        ("bytes", pa.int64()),
        ("sha256", pa.string()),  # of the tar file
        ("bbox", BBOX),  # of its samples, degrees
        *_COUNTS,
        ("n_drops", pa.int32()),  # rows of drops
        ("inputs", pa.string()),  # SHA-256 of all that decides the shard's bytes; an update keeps shards by it
    ]
)

STREETVIEW = pa.schema(
    [
        ("key", pa.string()),  # of the sample
        ("shard", pa.string()),
        ("member", pa.string()),  # sv.0.jpg
        ("id", pa.string()),
        ("lon", pa.float64()),
        ("lat", pa.float64()),
        ("x", pa.float64()),  # normalised image coordinates in the footprint
        ("y", pa.float64()),
        ("heading", pa.float64()),  # degrees clockwise from true north
        ("captured_at", pa.string()),
        ("projection", pa.string()),
        ("fov", pa.float64()),  # degrees, of a view cut from a panorama
        ("gap_days", pa.float64()),  # from the sample's first image to the photo
        ("source", pa.string()),
        ("licence", pa.string()),
        ("author", pa.string()),
    ]
)

STAGES = pa.schema(
    [
        ("stage", pa.string()),
        ("items", pa.int64()),
        ("unit", pa.string()),  # what was counted
        ("seconds", pa.float64()),
        ("items_per_second", pa.float64()),
        ("peak_memory_mb", pa.float64()),  # of the largest process
        ("drops", pa.int64()),
        ("cached", pa.bool_()),  # taken from the cache
    ]
)

#: One row a band and type, of a dataset's images or those of one split; written by ``geoshards stats``.
STATISTICS = pa.schema(
    [
        ("band", pa.string()),  # schemas.bands.canonical
        ("dtype", pa.string()),  # of its values
        ("names", pa.list_(pa.string())),  # what the images call it
        ("wavelength", pa.float64()),  # nm, or null
        ("split", pa.string()),  # of the samples that were read; all: of every one
        ("images", pa.int64()),
        ("left_out", pa.int64()),  # images of the band that lack pixels, and nothing says which
        ("count", pa.int64()),  # pixels; those without data are not counted
        ("mean", pa.float64()),
        ("std", pa.float64()),  # of the pixels themselves, no estimate: divided by count
        ("min", pa.float64()),
        ("p2", pa.float64()),  # least value that 2 % of the pixels do not exceed; null where values are no integers
        ("p50", pa.float64()),
        ("p98", pa.float64()),
        ("max", pa.float64()),
        ("content_hash", pa.string()),  # of the dataset whose images were read
    ]
)

#: One row a pixel value of ``osm.png``, in paint order; none where a dataset has no rasters.
CLASSES = pa.schema(
    [
        ("value", pa.uint8()),  # 0: unmapped
        ("name", pa.string()),
        ("colour", pa.string()),  # #rrggbb, as in the PNG's palette
        ("width", pa.float64()),  # metres of a line's stroke; null: only areas are painted
        ("ground", pa.bool_()),  # covers the ground: under the other classes whatever its layer
        ("tags", pa.list_(pa.string())),  # key=value or key=*
    ]
)

#: Tables under ``catalog/``, by name.
TABLES: dict[str, pa.Schema] = {
    "samples": SAMPLES,
    "shards": SHARDS,
    "streetview": STREETVIEW,
    "drops": DROPS,
    "vocabulary": VOCABULARY,
    "stages": STAGES,
    "classes": CLASSES,
    "statistics": STATISTICS,
}


def shard_name(index: int) -> str:
    """Name of a shard without its ending.

    >>> shard_name(12)
    'part-0000012'
    """
    return f"part-{index:07d}"


def is_shard_file(name: object) -> bool:
    """Whether a catalog may call a shard so: never a path that leads elsewhere.

    >>> is_shard_file("part-0000012.tar"), is_shard_file("../../x.tar")
    (True, False)
    """
    return isinstance(name, str) and _SHARD.fullmatch(name) is not None


def catalog_file(table: str, group: int) -> str:
    """Path inside the dataset of the catalog file that holds shards ``256 * group`` to ``256 * group + 255``."""
    return f"catalog/{table}/part-{group:05d}.parquet"


def pending_file(table: str, index: int) -> str:
    """Path inside the dataset of one shard's index rows before they are folded; ``shards`` is written last."""
    return f"catalog/.pending/{shard_name(index)}.{table}.parquet"

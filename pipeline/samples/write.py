"""One shard in the making: samples in, one tar and its index rows out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from socket import gethostname
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from pipeline.alignment import Placement
from pipeline.formats.tar import TarWriter
from pipeline.meridian import quadrilaterals
from schemas.catalog import COUNTS, TABLES, pending_file, shard_name
from schemas.footprint import Footprint
from schemas.sample import Provenance, RsInfo, SampleMeta, StreetviewInfo, member_order, rounded, sample_hash
from schemas.splits import SplitConfig, assign_split
from schemas.tokens import OsmTokens
from storage.store import Store


@dataclass(frozen=True)
class ShardResult:
    """What the driver is told."""

    index: int
    planned: int
    samples: int
    drops: int
    write_seconds: float
    adopted: bool = False  # taken from an earlier version of the dataset
    bytes: int = 0  # of the tar
    seconds: float = 0.0  # from its first footprint to its last row
    reasons: Mapping[str, int] = field(default_factory=dict)  # what the drops stand for, by reason
    host: str = ""  # where it was made


def sample_meta(
    footprint: Footprint,
    placement: Placement,
    position: int,
    *,
    osm_edited: str | None,
    rs: list[RsInfo],
    streetview: list[StreetviewInfo],
    provenance: Provenance,
) -> SampleMeta:
    """The JSON document of one sample; ``position`` is its place in ``placement``."""
    west, south, east, north = (rounded(v) for v in placement.bbox[position])
    return SampleMeta(
        footprint=footprint,
        gsd=(rounded(placement.gsd[position, 0]), rounded(placement.gsd[position, 1])),
        lon=rounded(placement.centre[position, 0]),
        lat=rounded(placement.centre[position, 1]),
        bbox=(west, south, east, north),
        osm_edited=osm_edited,
        rs=rs,
        streetview=streetview,
        provenance=provenance,
    )


@dataclass
class ShardWriter:
    """Collects samples and drops; nothing is written before :meth:`finish`."""

    out: str
    index: int
    split: SplitConfig  # decides the split of each row
    inputs: str = ""  # SHA-256 of what decides the shard's bytes, where there may be updates
    drops: list[dict[str, Any]] = field(default_factory=list)  # rows of DROPS, added by whoever drops something
    _began: float = field(default_factory=time.monotonic)
    _tar: TarWriter = field(default_factory=TarWriter)
    _samples: list[dict[str, Any]] = field(default_factory=list)
    _streetview: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shard(self) -> str:
        """File name of the tar."""
        return f"{shard_name(self.index)}.tar"

    def add(
        self,
        members: Mapping[str, bytes],
        meta: SampleMeta,
        tokens: OsmTokens,
        corners: NDArray[np.float64],
        licences: Iterable[str],
        osm_time: str | None = None,
    ) -> None:
        """Append one sample.

        Args:
            members: content by member name, the JSON document among them.
            meta: what that document says.
            tokens: what ``osm.safetensors`` holds.
            corners: f64[4,2] lon, lat of the footprint.
            licences: of the image and of the OSM data in the sample; its photos name their own.
            osm_time: of the OSM snapshot, ISO 8601.
        """
        index = []
        for name in sorted(members, key=member_order):
            offset = self._tar.add(f"{meta.footprint.key}.{name}", members[name])
            content = members[name]
            index.append({"name": name, "offset": offset, "size": len(content), "crc32": crc32(content)})
        n_point, n_line, n_polygon = tokens.counts()
        every = {*licences, *(info.licence for info in meta.streetview if info.licence)}
        box = dict(zip(("xmin", "ymin", "xmax", "ymax"), meta.bbox, strict=True))
        self._samples.append({
            "key": meta.footprint.key, "shard": self.shard, "position": len(self._samples), "members": index,
            "sha256": sample_hash(members), "bbox": box, "lon": meta.lon, "lat": meta.lat,
            "gsd_x": meta.gsd[0], "gsd_y": meta.gsd[1], "split": assign_split(meta.bbox, self.split),
            "n_rs": len(meta.rs), "n_point": n_point, "n_line": n_line, "n_polygon": n_polygon,
            "n_edges": len(tokens.relation), "n_streetview": len(meta.streetview),
            "rs_time": meta.rs[0].acquired if meta.rs else None, "osm_time": osm_time,
            "licences": sorted(every), "geometry": shapely.to_wkb(quadrilaterals(corners[None])[0]),
        })  # fmt: skip
        own = {"key": meta.footprint.key, "shard": self.shard}
        self._streetview += [asdict(info) | own for info in meta.streetview]

    def finish(self, planned: int) -> ShardResult:
        """Put the tar, then its rows; the row of ``shards`` comes last and says that all of it is there.

        ``planned`` is how many footprints were tried.
        """
        started = time.monotonic()
        store = Store(self.out)
        data = self._tar.finish()
        store.write(f"shards/{self.shard}", data)
        rows = {"samples": self._samples, "streetview": self._streetview, "drops": self.drops}
        rows["shards"] = [self._shard_row(data, planned)]
        for table in ("samples", "streetview", "drops", "shards"):
            store.write_table(pending_file(table, self.index), pa.Table.from_pylist(rows[table], schema=TABLES[table]))
        spent = time.monotonic() - started
        reasons = Counter[str]()
        for row in self.drops:
            reasons[row["reason"]] += row["count"]
        return ShardResult(
            self.index, planned, len(self._samples), len(self.drops), spent, bytes=len(data),
            seconds=time.monotonic() - self._began, reasons=dict(reasons), host=gethostname(),
        )  # fmt: skip

    def _shard_row(self, data: bytes, planned: int) -> dict[str, Any]:
        boxes = np.array([list(row["bbox"].values()) for row in self._samples]).reshape(-1, 4)
        bbox = None
        if len(boxes):
            if (boxes[:, 0] > boxes[:, 2]).any():  # across the 180th meridian
                boxes[:, ::2] = -180.0, 180.0
            bounds = [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]
            bbox = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(float, bounds), strict=True))
        return {
            "shard": self.shard, "index": self.index, "planned": planned, "samples": len(self._samples),
            "bytes": len(data), "sha256": sha256(data).hexdigest(), "bbox": bbox,
            **{name: sum(row[name] for row in self._samples) for name in COUNTS}, "n_drops": len(self.drops),
            "inputs": self.inputs,
        }  # fmt: skip

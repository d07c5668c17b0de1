"""Why a build has no sample, and the way out, in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from geometry.tiles import lonlat_to_tile
from pipeline.imagery.scene import Scene
from pipeline.imagery.zoom import MAX_ZOOM
from pipeline.samples.config import ShardsConfig

#: What helps where most footprints were dropped for a reason.
_WAYS = {
    "no_imagery": "no image covers one of them: see that region and imagery meet, or build without (imagery=none)",
    "nodata": "raise rs.max_nodata, or say what is nodata with rs.nodata and rs.alpha",
    "masked": "raise rs.max_masked, take other days (rs.datetime, rs.dates), or leave the mask out with rs.mask=none",
    "too_few_objects": "lower plan.min_objects",
    "no_land": "set plan.sampling.land_only=false",
    "no_photo": "set plan.sampling.photos_only=false, or give a source of street view that has some there",
    "not_in_share": "raise plan.sampling.share",
    "unreadable_imagery": "what was wrong with each image stands in the drops",
    "unreadable_image": "what was wrong with each image stands in the drops",
    "beyond_utm": "beyond 80° S and 84° N there is no UTM: take footprints=tiles",
    "outside_extract": "name the region, or its box or outline, so that all of the file counts",
}
#: Tiles that an image must be long and wide to hold a whole one wherever it lies.
_SURE = 2


def way_out(counts: Mapping[str, int], config: ShardsConfig, scenes: Sequence[Scene]) -> str:
    """What helps against the reason that most footprints (by reason) were dropped for; empty where nothing is known."""
    if not counts:
        return ""
    reason = max(counts, key=lambda r: counts[r])
    if reason in ("no_imagery", "nodata") and (small := _too_small(config, scenes)):
        return small
    return _WAYS.get(reason, "")


def _too_small(config: ShardsConfig, scenes: Sequence[Scene]) -> str:
    """What helps where no image is sure to hold a whole tile."""
    if not scenes or "tiles" not in config.footprints or config.zoom is None:
        return ""
    bounds = np.array([s.area.bounds for s in scenes])
    sides = np.abs(lonlat_to_tile(bounds[:, 2:], config.zoom) - lonlat_to_tile(bounds[:, :2], config.zoom))
    width, height = sides[sides.min(axis=1).argmax()].tolist()
    deeper = math.ceil(math.log2(_SURE / max(min(width, height), 1e-6)))
    if deeper < 1:
        return ""
    size, zoom = config.size >> deeper, config.zoom + deeper
    ways = [f"size={size} without a zoom"] * (size >= 16) + [f"zoom={zoom}"] * (zoom <= MAX_ZOOM)
    return (
        f"the largest image is {width:.1f} × {height:.1f} tiles of zoom {config.zoom}, and may hold none whole: set "
        + (" or ".join(ways) or "footprints=chips, which takes images as they are")
    )

"""Embeddings of a dataset by a trained model, as Parquet files that join its catalog."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: What a row is about: a sample, or one of its photos.
Of = Literal["tile", "photo"]


@dataclass(frozen=True)
class Kind:
    """One kind of embedding: a folder of Parquet files."""

    of: tuple[Of, ...]  # what has a row
    text: str  # one line


#: The kinds by name, in the order in which they are shown. Here, so that ``geoshards encode --help`` needs no torch.
KINDS = {
    "tiles": Kind(("tile",), "the image: mean of the patch tokens"),
    "objects": Kind(("tile",), "the OSM objects of a tile (GeoLink): its region embedding"),
    "places": Kind(("photo",), "the image at each photo's place (GAIR)"),
    "photos": Kind(("photo",), "the photos (GAIR)"),
    "locations": Kind(("tile", "photo"), "the location encoder at each tile's centre and each photo's place (GAIR)"),
}

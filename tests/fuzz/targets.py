"""Every door through which bytes of others come, by name."""

from __future__ import annotations

from tests.fuzz import dataset, imagery, osm, photos, texts, vectors
from tests.fuzz.damage import Target

TARGETS: dict[str, Target] = {
    **osm.TARGETS, **imagery.TARGETS, **vectors.TARGETS, **photos.TARGETS, **texts.TARGETS, **dataset.TARGETS,
}  # fmt: skip

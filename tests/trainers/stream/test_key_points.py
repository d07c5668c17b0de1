"""Where objects are located, by fidelity: from the stored vertices to the batch that a model sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geometry.keypoints import with_key_points
from schemas.sample import OSM_TOKENS
from schemas.tokens import OsmTokens
from storage.dataset import read_samples, sample_rows
from storage.store import Store
from trainers.models.geolink import GeoLink
from trainers.models.geolink_settings import GeoLinkSettings
from trainers.stream.augment import AugmentSettings
from trainers.stream.order import Place
from trainers.stream.stream import GeoStream, StreamSettings

_PLAIN = StreamSettings(shuffle="none", workers=0, augment=AugmentSettings(enabled=False))


@pytest.mark.parametrize("fidelity", ["ours", "paper", "released"])
def test_a_batch_locates_objects_as_its_fidelity_says(dataset: Path, fidelity: str) -> None:
    view = GeoLink.view(GeoLinkSettings(), fidelity)
    assert view.anchors == fidelity
    stream = GeoStream(
        str(dataset), view, batch_size=4, settings=_PLAIN,
        select="n_polygon > 0 AND n_line > 0", place=Place(rank=0, world=1, workers=0),
    )  # fmt: skip
    batch = next(iter(stream))
    store = Store(dataset)
    contents = {row["key"]: members[OSM_TOKENS] for row, members in read_samples(store, sample_rows(store))}
    differs = 0
    for slot, key in enumerate(batch.key):
        tokens = OsmTokens.from_bytes(contents[key])
        expected = with_key_points(tokens, view.anchors).anchors
        found = batch.anchors[(batch.node_sample == slot) & batch.node_valid].numpy()
        np.testing.assert_array_equal(found, expected)
        differs += not np.array_equal(expected, tokens.anchors, equal_nan=True)
    assert (differs > 0) == (fidelity != "ours")

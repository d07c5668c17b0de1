"""What the page shows of an evaluation of GAIR; docs/gair.md says what each score means."""

from __future__ import annotations

from trainers.engine.evaluation import Curve, Table
from trainers.evaluate.gair.embed import SHIFTS
from trainers.evaluate.gair.probes import CLASSES, DENSITY, WAYS
from trainers.evaluate.gair.retrieval import AT
from trainers.evaluate.gair.separation import DISTANCES, separation_name

NOTE = (
    "Every score stands beside what chance, the model before its first step, and colour histograms of photo and ground "
    "give. Intervals are bootstraps of blocks of ground of 0.01 degrees."
)
#: Scores that are shown over the steps.
HISTORY = (
    "loss", "incl", "secl", "rec", "dist", "photo_to_place/r@1", "photo_to_place_in_tile/r@1", "place_to_photo/r@1",
    "place_to_photo_in_tile/r@1", "photo_to_location/r@1", "grid/error_m", "grid_in_tile/error_m",
    "location_grid/error_m", "location_grid_in_tile/error_m", *(f"probe/{task}" for task in CLASSES), DENSITY,
)  # fmt: skip


def _both(label: str, name: str, score: str) -> tuple[tuple[str, str], ...]:
    return (f"{label}, all tiles", f"{name}/{score}"), (f"{label}, its tile", f"{name}_in_tile/{score}")


PARTS: tuple[Table | Curve, ...] = (
    Table(
        "Retrieval", "Share of the queries whose partner is among the first k: of all photos, and of those of its tile "
        "(tiles with one photo left out).",
        tuple(
            row
            for label, name in (
                ("photo to image at its place", "photo_to_place"), ("image at a place to photo", "place_to_photo"),
                ("photo to location", "photo_to_location"),
            )
            for k in AT
            for row in _both(f"{label}, R@{k}", name, f"r@{k}")
        ),
    ),
    Table(
        "Localisation", "Median metres from a photo to the place of a grid that is the nearest to it, by the image and "
        "by the location encoder; and how often it lies in the photo's tile.",
        (
            *_both("image, metres", "grid", "error_m"), ("image, in the right tile", "grid/right_tile"),
            *_both("location, metres", "location_grid", "error_m"),
            ("location, in the right tile", "location_grid/right_tile"),
        ),
    ),
    Curve(
        "Moved queries, all tiles", "R@1 of the photo by the image at a place so far beside the photo's; queries that "
        "leave the tile are left out.", "metres", tuple((d, f"shift/r@1_at_{d:g}m") for d in SHIFTS),
    ),
    Curve(
        "Moved queries, within the tile", "The same among the photos of the tile.", "metres",
        tuple((d, f"shift_in_tile/r@1_at_{d:g}m") for d in SHIFTS),
    ),
    Curve(
        "Location encoder", "Mean cosine of two places so far from each other; chance: of any two of the split.",
        "metres", tuple((d, separation_name(d)) for d in DISTANCES),
    ),
    Table(
        "Ways to read tokens", "R@1, photo to image at its place, through a linear map fitted on training photos, the "
        "same for each way.", tuple(row for way, name in WAYS.items() for row in _both(way, name, "r@1")),
    ),
    Table(
        "Probes of photos", "Accuracy of a linear classifier of OpenStreetMap's labels within 50 m, chance: the most "
        "frequent class; explained variance of the share under buildings, chance: the mean.",
        (*((task.replace("_", " "), f"probe/{task}") for task in CLASSES), ("building density, R²", DENSITY)),
    ),
)  # fmt: skip

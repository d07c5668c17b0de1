"""A seeded small town as map, aerial image and street views: the embedded default region.

`build_demo` writes three files' worth of one world: `town.osm.pbf`, `aerial.tif` and a
folder `photos/` of geotagged JPEGs. All three show the same buildings, streets, trees,
fields and water. The build is a pure function of its parameters: the same parameters give
the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.demo.build import build_files


@dataclass(frozen=True)
class DemoFiles:
    """Paths of a built demo: town.osm.pbf, aerial.tif, and the folder photos/ of JPEGs."""

    osm: Path
    imagery: Path
    streetview: Path


def build_demo(
    out_dir: Path,
    *,
    seed: int = 7,
    scale: int = 1,
    photos: int | None = None,
    side_tiles: float | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DemoFiles:
    """Build the demo region in out_dir, or return the build that is already there.

    scale multiplies the area: 1 is about 300 tiles of zoom 17 (17.3 a side). photos is the
    number of street views, about one for two tiles by default. side_tiles sets the side
    directly, in tiles, for small builds. workers is the number of processes that render
    (by default 2 where there are 2 cores); it does not change the result. More than one
    starts processes by spawning, so a calling script needs its `__main__` guard. progress
    is called with the steps done and their total (aerial windows and photos).

    The files appear in out_dir all at once or not at all. An out_dir with other files in
    it that are not a demo build, a scale below 1 or negative photos raise InputError.
    """
    out = Path(out_dir)
    build_files(out, seed=seed, scale=scale, photos=photos, side_tiles=side_tiles, workers=workers, progress=progress)
    return DemoFiles(out / "town.osm.pbf", out / "aerial.tif", out / "photos")

"""Files as scenes: each by itself, or those of single bands that belong together, the finest of each band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import shapely

from pipeline.imagery.choice.order import day_of
from pipeline.imagery.config import ImageryConfig
from pipeline.imagery.local import MissingBand, band_in, band_names, describe, own_band
from pipeline.imagery.nodata import settle_alpha
from pipeline.imagery.raster import open_raster
from pipeline.imagery.scene import Asset, Mask, Scene
from schemas.bands import BANDS, canonical
from schemas.errors import InputError
from schemas.features import drop_row

#: Place of each band in the spectrum, in which files of single bands stand where none are named.
_SPECTRUM = {band.name: i for i, band in enumerate(BANDS)}
#: Folders of one product by resolution, as ESA's have them.
_BY_RESOLUTION = ("R10m", "R20m", "R60m")


@dataclass(frozen=True)
class _Part:
    """A file of one band of a scene."""

    band: str
    scene: Scene  # that it is by itself


def open_scenes(paths: Sequence[Path], config: ImageryConfig) -> tuple[list[Scene], list[dict[str, Any]]]:
    """Scenes of raster files in their order, and DROPS rows of the files that are no part of them.

    Files of one band each whose names differ in the band alone (``x_B04.tif`` and ``x_B08.tif``) are one scene. A file
    without the bands of ``rs.bands`` is left out where another has them.

    Raises:
        InputError: a file cannot be read, or none has the bands.
    """
    scenes: list[Scene] = []
    rows: list[dict[str, Any]] = []
    groups: dict[tuple[Path, str, str], list[_Part]] = {}
    missing: list[InputError] = []
    for path in paths:
        try:
            found = _open(path, config)
        except MissingBand as error:
            missing.append(error)
            rows.append(drop_row("imagery", path.name, "missing_band", detail=str(error)[:200]))
            continue
        if isinstance(found, Scene):
            scenes.append(found)
            continue
        folder = path.parent.parent if path.parent.name in _BY_RESOLUTION else path.parent
        rest = (band_in(path.name, config) or ("", ""))[1]
        groups.setdefault((folder, rest or folder.name, day_of(found.scene, config)), []).append(found)
    for (_, name, _), parts in groups.items():
        try:
            scene, left = _whole(name, parts, config)
        except MissingBand as error:
            missing.append(error)
            rows += [drop_row("imagery", p.scene.name, "missing_band", detail=str(error)[:200]) for p in parts]
            continue
        scenes.append(scene)
        rows += left
    if missing and not scenes:
        raise missing[0]
    return scenes, rows


def _open(path: Path, config: ImageryConfig) -> Scene | _Part:
    """The scene that a file is, or the part that it is of one."""
    with open_raster(str(path)) as source:
        own = None
        if source.crs is not None:
            own = own_band(band_names(source, settle_alpha(source, config.alpha, config.bands)), path.name, config)
        if own is None:
            return describe(source, str(path), path.name, config)
        return _Part(own, describe(source, str(path), path.name, replace(config, bands=(), mask=None)))


def _whole(name: str, parts: list[_Part], config: ImageryConfig) -> tuple[Scene, list[dict[str, Any]]]:
    """One scene of files of single bands, each from the finest that has it, and DROPS rows of the others."""
    by_band: dict[str, list[_Part]] = {}
    for part in sorted(parts, key=lambda p: (p.scene.gsd or 0.0, p.scene.path)):
        by_band.setdefault(canonical(part.band), []).append(part)
    masking = None if config.mask in (None, "none") else canonical(str(config.mask))
    wanted = [canonical(b) for b in config.bands] or sorted(
        by_band.keys() - {masking}, key=lambda b: (_SPECTRUM.get(b, len(_SPECTRUM)), b)
    )
    held = ", ".join(own[0].band for own in by_band.values())
    asked = [*(config.bands or wanted), *([str(config.mask)] if masking else [])]
    if lacking := [b for b in asked if canonical(b) not in by_band]:
        setting = "rs.mask" if canonical(lacking[0]) == masking else "rs.bands"
        raise MissingBand(f"imagery {name} has no band {lacking[0]}; it has {held}: set {setting}")
    chosen = [by_band[b][0] for b in wanted]
    if other := next((p for p in chosen if p.scene.dtype != chosen[0].scene.dtype), None):
        first = chosen[0].scene
        raise InputError(
            f"imagery {first.name} is {first.dtype} and {other.scene.name} {other.scene.dtype}; choose bands of one "
            "type with rs.bands"
        )
    area = shapely.intersection_all([p.scene.area for p in chosen])
    if area.is_empty:
        raise InputError(f"imagery {name}: the files of its bands lie apart; name them by the place they are of")
    mask = None
    if masking:
        (number,) = by_band[masking][0].scene.assets[0].bands
        if not (config.mask_values or config.mask_bits):
            raise InputError(
                f"rs.mask={config.mask} needs rs.mask_values or rs.mask_bits: which of its values hide the ground"
            )
        mask = Mask(Asset(by_band[masking][0].scene.path, (number,)), config.mask_values, config.mask_bits)
    clouds = [p.scene.cloud for p in chosen if p.scene.cloud is not None]
    scene = replace(
        chosen[0].scene, name=name if len(chosen) > 1 or mask else chosen[0].scene.name, area=area,
        bands=[p.band for p in chosen], assets=tuple(p.scene.assets[0] for p in chosen),
        gsd=min((p.scene.gsd for p in chosen if p.scene.gsd), default=None), cloud=max(clouds, default=None), mask=mask,
        licence=" AND ".join(sorted({p.scene.licence for p in chosen if p.scene.licence})) or None,  # as in SPDX
    )  # fmt: skip
    rows = []
    for own, found in by_band.items():
        for part in found if own not in (*wanted, masking) else found[1:]:
            rows.append(_unused(part, found[0], own in wanted))
    return scene, rows


def _unused(part: _Part, best: _Part, wanted: bool) -> dict[str, Any]:
    """The DROPS row of a file that gives no band."""
    if not wanted:
        detail = f"{part.band} is none of rs.bands"
        return drop_row("imagery", part.scene.name, "band_not_wanted", detail=detail)
    detail = f"{part.band} of {part.scene.gsd or 0:.4g} m; {best.scene.name} has it at {best.scene.gsd or 0:.4g} m"
    return drop_row("imagery", part.scene.name, "coarser_band", detail=detail)

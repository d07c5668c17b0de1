"""How a picture looks: light, season, paints. What it shows is none of a look's business.

Colours are RGB in 0-255; a look maps what things are made of to the colours that they have in one picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.geo import FloatArray


@dataclass(frozen=True)
class Style:
    """Look of a surface: RGB 0-255, texture strength (share of brightness), rows.

    row_m is the distance between rows in metres (0: none), row_depth their contrast.
    """

    rgb: tuple[int, int, int]
    texture: float = 0.06
    row_m: float = 0.0
    row_depth: float = 0.0


STYLES: dict[str, Style] = {
    "ground": Style((128, 132, 96), 0.10),
    "garden": Style((104, 122, 74), 0.22),
    "lawn": Style((112, 138, 76), 0.10),
    "lawn2": Style((126, 144, 86), 0.10),
    "bed": Style((112, 104, 72), 0.30),
    "meadow": Style((124, 146, 82), 0.12),
    "meadow2": Style((146, 156, 96), 0.14),
    "scrub": Style((118, 118, 90), 0.26),
    "forest_floor": Style((46, 62, 40), 0.20),
    "wheat": Style((206, 182, 122), 0.06, 14.0, 0.05),
    "barley": Style((192, 174, 116), 0.07, 12.0, 0.07),
    "maize": Style((92, 128, 62), 0.10, 3.2, 0.10),
    "rape": Style((168, 168, 98), 0.08, 15.0, 0.05),
    "potato": Style((116, 128, 76), 0.10, 2.8, 0.16),
    "beet": Style((84, 132, 70), 0.08, 4.0, 0.08),
    "bare": Style((156, 130, 102), 0.10, 6.0, 0.09),
    "vine": Style((118, 130, 80), 0.10, 3.4, 0.30),
    "court": Style((158, 150, 138), 0.08),
    "yard": Style((150, 148, 142), 0.08),
    "gravel": Style((176, 166, 146), 0.10),
    "sand": Style((206, 190, 150), 0.07),
    "grave": Style((168, 164, 158), 0.10),
    "paving": Style((182, 172, 158), 0.05),
    "path": Style((194, 180, 150), 0.06),
    "track": Style((178, 164, 132), 0.12),
    "cycleway": Style((142, 134, 128), 0.05),
    "asphalt": Style((124, 124, 126), 0.05),
    "asphalt2": Style((134, 132, 132), 0.06),
    "sidewalk": Style((168, 164, 158), 0.05),
    "marking": Style((222, 222, 218), 0.02),
    "zebra": Style((230, 230, 222), 0.02),
    "ballast": Style((132, 120, 110), 0.14),
    "rail": Style((92, 80, 74), 0.08),
    "platform": Style((188, 184, 178), 0.04),
    "pitch": Style((98, 148, 72), 0.05, 11.0, 0.06),
    "river": Style((72, 94, 88), 0.05),
    "lake": Style((52, 80, 92), 0.04),
    "pond": Style((66, 82, 66), 0.06),
    "pool": Style((92, 178, 200), 0.03),
}
WATER_STYLES = ("river", "lake", "pond", "pool")

CAR_RGB: tuple[tuple[int, int, int], ...] = (
    (236, 236, 236), (40, 42, 46), (128, 130, 134), (176, 180, 184), (150, 34, 34), (38, 60, 120),
    (92, 96, 84), (70, 72, 76),
)  # fmt: skip
CAR_SIZE_M = (4.3, 1.8, 1.45)  # length, width, height

NAMES = tuple(STYLES)
INDEX = {name: n for n, name in enumerate(NAMES)}
STYLE_RGB = np.array([STYLES[n].rgb for n in NAMES], dtype=np.float32)
STYLE_TEXTURE = np.array([STYLES[n].texture for n in NAMES], dtype=np.float32)
STYLE_ROW_M = np.array([STYLES[n].row_m for n in NAMES], dtype=np.float32)
STYLE_ROW_DEPTH = np.array([STYLES[n].row_depth for n in NAMES], dtype=np.float32)
STYLE_IS_WATER = np.array([n in WATER_STYLES for n in NAMES])
CROWN_RGB = np.array([(106, 126, 62), (76, 104, 54), (50, 78, 52)])  # yellow-green broadleaf to dark conifer


def towards_sun(azimuth_deg: float, elevation_deg: float) -> FloatArray:
    """(3,) unit vector east, north, up; the azimuth is clockwise from grid north."""
    az, el = math.radians(azimuth_deg), math.radians(elevation_deg)
    return np.array([math.sin(az) * math.cos(el), math.cos(az) * math.cos(el), math.sin(el)])


@dataclass(frozen=True, eq=False)
class Look:
    """Light, season and paints of one picture."""

    to_sun: FloatArray  # (3,) unit vector: east, north, up
    shade: float = 1.0  # 0..1: how deep cast shadows are; 0 under clouds
    #: (styles, 3) float32: colours of the ground, in the order of STYLES
    styles: NDArray[np.float32] = field(default_factory=lambda: STYLE_RGB)
    crowns: FloatArray = field(default_factory=lambda: CROWN_RGB)  # (3, 3): crowns of hue 0, 1/2 and 1
    cars: FloatArray = field(default_factory=lambda: np.array(CAR_RGB))  # (8, 3)
    roofs: FloatArray | None = (
        None  # (4, 3): three rows mix a building's roof colour, the last is added; None: as it is
    )
    walls: FloatArray | None = None  # the same of walls
    sky: tuple[int, float] = (0, 0.0)  # half degrees by which the clouds are turned, and how many more there are

    @property
    def shadow_per_m(self) -> FloatArray:
        """(2,) metres by which a shadow is moved for each metre of height."""
        return np.asarray(-self.to_sun[:2] / self.to_sun[2])

    def roof(self, rgb: FloatArray) -> FloatArray:
        """Roof colours (n, 3) of this picture."""
        return rgb if self.roofs is None else _mixed(rgb, self.roofs)

    def wall(self, rgb: FloatArray) -> FloatArray:
        """Wall colours (n, 3) of this picture."""
        return rgb if self.walls is None else _mixed(rgb, self.walls)

    def crown(self, hue: FloatArray) -> FloatArray:
        """Crown colours (n, 3) for hues (n,) in 0-1."""
        t = np.asarray(hue)[..., None]
        light, mid, dark = self.crowns
        return np.where(t < 0.5, light + (mid - light) * t * 2, mid + (dark - mid) * (t - 0.5) * 2)


def _mixed(rgb: FloatArray, mix: FloatArray) -> FloatArray:
    return np.asarray(np.clip(rgb @ mix[:3] + mix[3], 10, 250))


#: The town has one look: late August, late morning.
TOWN = Look(towards_sun(148.0, 46.0))

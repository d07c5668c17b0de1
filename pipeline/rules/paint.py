"""What the class raster shows (rules/classes.yaml): classes in paint order, what hides an object, what lifts it.

Everything is judged a tag at a time (``PaintRules.sign``), and a tag is always the cleaned one; what the tags of an
object come to together is ``Signs.paint``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.rules.values import Values, texts
from schemas.errors import ConfigError
from schemas.features import COASTLINE, ORDER, VALUE

Ints = NDArray[np.int64]

#: Bits of the paint code (schemas.features.CELLS) that hold the level, and levels to both sides of the ground's layer.
_LEVEL_BITS, _MOST = 8, 30
#: Rules of ``hidden`` that one number holds as bits.
_RULES = 62
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class PaintClass:
    """One class of the class raster."""

    name: str
    colour: tuple[int, int, int]  # for palettes and previews
    tags: tuple[str, ...]  # key=value or key=*
    width: float | None  # metres of a line's stroke; None: polygons alone
    ground: bool  # covers the ground: under all others whatever its layer
    water: bool = False  # is no land

    @property
    def hex(self) -> str:
        """The colour as ``#rrggbb``."""
        return "#{:02x}{:02x}{:02x}".format(*self.colour)


@dataclass(frozen=True)
class Hiding:
    """Tags of what no image shows."""

    key: str
    values: Values
    below: float | None  # instead of values: every number of the value lies below
    but: frozenset[int]  # pixel values of classes that are seen all the same

    def hides(self, values: Sequence[str]) -> bool:
        """Whether a tag of these values hides its object."""
        if self.below is None:
            return self.values.meet(values)
        numbers = [float(n) for v in values for n in _numbers(v)]
        return bool(numbers) and max(numbers) < self.below


def _numbers(value: str) -> list[str]:
    """The numbers of a value; ``-2--1`` and ``-1-0`` are ranges."""
    first = _NUMBER.match(value)
    rest = value[first.end() :] if first else ""
    return [first[0], *([rest[1:]] if rest[:1] == "-" and _NUMBER.fullmatch(rest[1:]) else [])] if first else []


@dataclass(frozen=True)
class SeaRules:
    """How the sea is known and painted."""

    coastline: frozenset[str]  # key=value of ways with land on their left
    value: int  # pixel value
    over: int  # pixel value of the class right after which it is painted
    beside: frozenset[int]  # pixel values of what may lie in the sea


@dataclass(frozen=True)
class Sign:
    """What one cleaned tag says of its object's painting."""

    value: int = 0  # pixel value of its class
    key: str = ""  # of the class, or that a lifecycle prefix declares gone
    gone: bool = False  # the key's class is gone
    hidden: int = 0  # bits of the rules of ``hidden`` that it meets
    layer: int = 0
    bridge: bool = False
    coastline: bool = False


@dataclass(frozen=True)
class PaintRules:
    """Classes in paint order; the pixel value of ``classes[i]`` is i + 1."""

    version: str
    classes: tuple[PaintClass, ...]
    hidden: tuple[Hiding, ...] = ()
    gone: frozenset[str] = frozenset()  # lifecycle words: as prefix of a key, and as value
    planned: frozenset[str] = frozenset()  # lifecycle words as values
    layer: str = ""  # key of the layer
    bridges: tuple[tuple[str, Values], ...] = ()
    sea: SeaRules | None = None
    _by_tag: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for value, paint in enumerate(self.classes, 1):
            self._by_tag.update(dict.fromkeys(paint.tags, value))

    def value(self, key: str, value: str) -> int:
        """Pixel value u8 of one cleaned tag, 0 where no class matches; a listed value comes before ``key=*``."""
        own = self._by_tag.get(f"{key}={value}")
        if own is not None:
            return own
        return 0 if value in self._absent else self._by_tag.get(f"{key}=*", 0)

    @cached_property
    def _absent(self) -> frozenset[str]:
        return self.gone | self.planned | {"no"}

    @cached_property
    def keys(self) -> frozenset[str]:
        """Keys that say anything here; those that begin with a lifecycle prefix are not listed."""
        classes = {tag.partition("=")[0] for tag in self._by_tag}
        sea = {tag.partition("=")[0] for tag in self.sea.coastline} if self.sea else set()
        return frozenset(classes | sea | {h.key for h in self.hidden} | {self.layer} | {k for k, _ in self.bridges})

    def sign(self, key: str, values: Sequence[str]) -> Sign | None:
        """What one cleaned tag says; None where it says nothing."""
        prefix, _, rest = key.partition(":")
        if prefix in self.gone and rest in self.keys and any(v != "no" for v in values):
            return Sign(key=rest, gone=True)
        if key not in self.keys:
            return None
        hidden = sum(1 << i for i, rule in enumerate(self.hidden) if rule.key == key and rule.hides(values))
        layers = [int(v) for v in values if re.fullmatch(r"[-+]?\d{1,3}", v)] if key == self.layer else []
        bridge = any(key == k and wanted.meet(values) for k, wanted in self.bridges)
        coast = self.sea is not None and any(f"{key}={v}" in self.sea.coastline for v in values)
        value = max((self.value(key, v) for v in values), default=0)
        return Sign(value, key, False, hidden, max(layers, default=0), bridge, coast)

    @cached_property
    def levelled(self) -> NDArray[np.bool_]:
        """By pixel value, whether a class lies over the ground, bool[len + 1]."""
        return np.array([False] + [not c.ground for c in self.classes])

    @cached_property
    def seen(self) -> Ints:
        """By pixel value, the bits of the rules of ``hidden`` that do not hide the class, i64[len + 1]."""
        bits = np.zeros(len(self.classes) + 1, np.int64)
        for i, rule in enumerate(self.hidden):
            bits[list(rule.but)] |= 1 << i
        return bits

    @property
    def widths(self) -> NDArray[np.float64]:
        """Stroke width in metres by pixel value, f64[len + 1]; NaN where lines are not painted."""
        return np.array([np.nan] + [np.nan if c.width is None else c.width for c in self.classes])

    @property
    def palette(self) -> list[int]:
        """Flat RGB palette of an indexed image, value 0 first."""
        colours = [(255, 255, 255)] + [c.colour for c in self.classes]
        return [channel for colour in colours for channel in colour]

    def rows(self) -> list[dict[str, Any]]:
        """Rows of schemas.catalog.CLASSES: what each pixel value of ``osm.png`` means, 0 first."""
        none = {"value": 0, "name": "unmapped", "colour": "#ffffff", "width": None, "ground": False, "tags": []}
        return [none] + [
            {"value": i, "name": c.name, "colour": c.hex, "width": c.width, "ground": c.ground, "tags": list(c.tags)}
            for i, c in enumerate(self.classes, 1)
        ]


def paint_codes(signs: Sequence[Sign | None], pair: Ints, feature: Ints, count: int, rules: PaintRules) -> Ints:
    """Paint code (schemas.features.CELLS) of ``count`` objects, i64.

    Args:
        signs: of the distinct tags.
        pair, feature: distinct tag and object of each tag.
    """
    said = np.array([s is not None for s in signs], bool)[pair] if len(signs) else np.zeros(0, bool)
    pair, feature = pair[said], feature[said]
    plain = [s or Sign() for s in signs]
    value = np.array([s.value for s in plain], np.int64)[pair]
    keys = {k: i for i, k in enumerate(sorted({s.key for s in plain}))}
    key = np.array([keys[s.key] for s in plain], np.int64)[pair]
    gone = np.array([s.gone for s in plain], bool)[pair]
    if gone.any():
        silenced = feature * len(keys) + key
        value[np.isin(silenced, silenced[gone])] = 0

    def over_objects(name: str, join: Any) -> Ints:
        result = np.zeros(count, np.int64)
        own = np.array([getattr(s, name) for s in plain], np.int64)[pair]
        there = own != 0
        join.at(result, feature[there], own[there])
        return result

    best = np.zeros(count, np.int64)
    np.maximum.at(best, feature, value)
    hidden = over_objects("hidden", np.bitwise_or) & ~rules.seen[best]
    bridge = over_objects("bridge", np.bitwise_or) > 0
    layer = np.clip(over_objects("layer", np.add), -_MOST, _MOST)
    level = np.where(bridge, np.maximum(layer, 1), layer) + _MOST + 1
    level[~rules.levelled[best] & ~bridge] = 0
    code = np.where((hidden == 0) & (best > 0), level << _LEVEL_BITS | best, 0)
    code[(over_objects("coastline", np.bitwise_or) > 0) & (hidden == 0)] |= COASTLINE
    return code


def raised(paint: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Whether an object of this paint code lies above the ground's layer, bool[N]."""
    result: NDArray[np.bool_] = (paint & ORDER) >> _LEVEL_BITS > _MOST + 1
    return result


def read_paint(d: dict[str, Any]) -> PaintRules:
    """The rules of a parsed classes.yaml.

    Raises:
        ConfigError: an entry contradicts another.
        KeyError, TypeError, ValueError, AttributeError: it does not have the form of the built-in one.
    """
    classes = tuple(
        PaintClass(
            texts([c["name"]])[0],
            (int(c["colour"][1:3], 16), int(c["colour"][3:5], 16), int(c["colour"][5:7], 16)),
            texts(c["tags"]),
            float(c["width"]) if "width" in c else None,
            bool(c.get("ground", False)),
            bool(c.get("water", False)),
        )
        for c in d["classes"]
    )
    if len(classes) >= VALUE:
        raise ConfigError("classes.yaml has over 254 classes; an 8-bit raster holds no more")
    place = {c.name: i for i, c in enumerate(classes, 1)}

    def named(names: Sequence[str]) -> frozenset[int]:
        for name in names:
            if name not in place:
                raise ConfigError(f"classes.yaml names the class {name!r}, which it does not list")
        return frozenset(place[name] for name in names)

    given = [(k, r) for k, own in (d.get("hidden") or {}).items() for r in (own if isinstance(own, list) else [own])]
    hidden = tuple(_hiding(str(key), rule, named) for key, rule in given)
    if len(hidden) > _RULES:
        raise ConfigError(f"classes.yaml has {len(hidden)} rules under hidden; it may have {_RULES}")
    bridges = tuple((str(k), Values.of(rule)) for k, rule in (d.get("bridges") or {}).items())
    sea = None
    if s := d.get("sea"):
        (value,), (over,) = named([s["class"]]), named([s["over"]])
        sea = SeaRules(frozenset(texts(s["coastline"])), value, over, named(s["beside"]))
        if not classes[over - 1].ground:
            raise ConfigError(f"classes.yaml paints the sea over {s['over']!r}, which is no class of the ground")
    return PaintRules(
        str(d["version"]), classes, hidden, frozenset(texts(d.get("gone") or [])),
        frozenset(texts(d.get("planned") or [])), str(d.get("layer") or ""), bridges, sea,
    )  # fmt: skip


def _hiding(key: str, rule: Any, named: Callable[[Sequence[str]], frozenset[int]]) -> Hiding:
    given = {"except": []} if rule == "all" else rule
    below = float(given["below"]) if "below" in given else None
    values = Values.of(given if "only" in given or "except" in given else "all")
    return Hiding(key, values, below, named(given.get("but") or []))

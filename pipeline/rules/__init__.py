"""The editable rules: which ways are areas, which tags are tokens, which classes are painted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.config import parse_yaml
from schemas.errors import ConfigError, InputError
from schemas.tags import TagRules

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class AreaRules:
    """The area rule of closed ways and relations (rules/polygon_features.yaml)."""

    version: str
    keys: dict[str, tuple[bool, frozenset[str]]]  # key -> (listed values make areas, values)
    relation_types: frozenset[str]

    def is_area(self, tags: dict[str, str]) -> bool:
        """Whether a closed way with these tags is a polygon."""
        area = tags.get("area")
        if area in ("yes", "no"):
            return area == "yes"
        for key, value in tags.items():
            rule = self.keys.get(key)
            if rule is not None and value != "no" and (value in rule[1]) == rule[0]:
                return True
        return False


@dataclass(frozen=True)
class PaintClass:
    """One class of the class raster."""

    name: str
    colour: tuple[int, int, int]  # for palettes and previews
    tags: tuple[str, ...]  # key=value or key=*
    width: float | None  # metres of a line's stroke; None: polygons alone


@dataclass(frozen=True)
class PaintRules:
    """Classes in paint order; the pixel value of ``classes[i]`` is i + 1."""

    version: str
    classes: tuple[PaintClass, ...]
    _by_tag: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for value, paint in enumerate(self.classes, 1):
            self._by_tag.update(dict.fromkeys(paint.tags, value))

    def value(self, key: str, value: str) -> int:
        """Pixel value u8 of one OSM tag, 0 where no class matches."""
        if value == "no":
            return 0
        return max(self._by_tag.get(f"{key}={value}", 0), self._by_tag.get(f"{key}=*", 0))

    @property
    def widths(self) -> NDArray[np.float64]:
        """Stroke width in metres by pixel value, f64[len + 1]; NaN where lines are not painted."""
        return np.array([np.nan] + [np.nan if c.width is None else c.width for c in self.classes])

    @property
    def palette(self) -> list[int]:
        """Flat RGB palette of an indexed image, value 0 first."""
        colours = [(255, 255, 255)] + [c.colour for c in self.classes]
        return [channel for colour in colours for channel in colour]


@dataclass(frozen=True)
class Rules:
    """All rules of a run, and a fingerprint of their text."""

    areas: AreaRules
    tags: TagRules
    paint: PaintRules
    fingerprint: str  # hex; part of every cache name


@dataclass(frozen=True)
class RulesConfig:
    """Paths of edited rule files; the built-in ones where none is given."""

    polygon_features: str | None = None  # path of a YAML file: which closed ways are areas
    tags: str | None = None  # path of a YAML file: which tags are kept
    classes: str | None = None  # path of a YAML file: classes of osm.png, paint order, line widths in metres


def load_rules(config: RulesConfig = RulesConfig()) -> Rules:
    """Read the three files.

    Raises:
        InputError: a file does not exist.
        ConfigError: a file does not have the form of the built-in one.
    """
    texts: dict[str, str] = {}
    for name in ("polygon_features", "tags", "classes"):
        path = Path(getattr(config, name) or _HERE / f"{name}.yaml")
        try:
            texts[name] = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"rules file {path} cannot be read: {error.strerror}") from None
    documents = {name: parse_yaml(text, f"rules file {name}.yaml") for name, text in texts.items()}
    try:
        areas, tags, paint = (
            _areas(documents["polygon_features"]),
            _tags(documents["tags"]),
            _paint(documents["classes"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"a rules file lacks or misspells an entry ({error!r}); compare it with pipeline/rules"
        ) from None
    fingerprint = sha256("\0".join(texts[name] for name in sorted(texts)).encode()).hexdigest()
    return Rules(areas, tags, paint, fingerprint)


def _areas(d: dict[str, Any]) -> AreaRules:
    keys: dict[str, tuple[bool, frozenset[str]]] = {}
    for key, rule in d["keys"].items():
        if rule == "all":
            keys[key] = (False, frozenset())
        elif "only" in rule:
            keys[key] = (True, frozenset(rule["only"]))
        else:
            keys[key] = (False, frozenset(rule["except"]))
    return AreaRules(str(d["version"]), keys, frozenset(d["relation_types"]))


def _tags(d: dict[str, Any]) -> TagRules:
    corrections = {str(k): None if v is None else str(v) for k, v in (d.get("corrections") or {}).items()}
    for wrong, right in corrections.items():
        if right is not None and ("=" in wrong) != ("=" in right):
            raise ConfigError(f"tags.yaml corrects {wrong!r} to {right!r}; both must be keys, or both key=value")
    patterns = str(d.get("malformed_key") or ""), str(d.get("malformed_value") or "")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"tags.yaml: {pattern!r} is no regular expression: {error}") from None
    return TagRules(
        str(d["version"]), frozenset(d["drop"]), tuple(d["drop_prefixes"]), frozenset(d.get("keep") or ()),
        corrections, *patterns,
    )  # fmt: skip


def _paint(d: dict[str, Any]) -> PaintRules:
    classes = tuple(
        PaintClass(
            c["name"],
            (int(c["colour"][1:3], 16), int(c["colour"][3:5], 16), int(c["colour"][5:7], 16)),
            tuple(c["tags"]),
            float(c["width"]) if "width" in c else None,
        )
        for c in d["classes"]
    )
    if len(classes) > 254:
        raise ConfigError("classes.yaml has over 254 classes; an 8-bit raster holds no more")
    return PaintRules(str(d["version"]), classes)

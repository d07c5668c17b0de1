"""The editable rules: which ways are areas, which tags are tokens, which classes are painted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.rules.paint import PaintRules, read_paint
from pipeline.rules.values import Values, texts
from schemas.config import parse_yaml
from schemas.errors import ConfigError, at_the_door
from schemas.tags import TagRules
from storage.urls import local_path

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class AreaRules:
    """The area rule of closed ways and relations (rules/polygon_features.yaml)."""

    version: str
    keys: dict[str, Values]  # values that make areas
    relation_types: frozenset[str]


class AreaVerdict(IntEnum):
    """What one tag says of a closed way; of several the highest counts, but ``NO`` over ``AREA``."""

    NOTHING = 0
    AREA = 1
    NO = 2  # area=no
    YES = 3  # area=yes


@dataclass(frozen=True)
class Rules:
    """All rules of a run, and a fingerprint of their text."""

    areas: AreaRules
    tags: TagRules
    paint: PaintRules
    fingerprint: str  # hex; part of every cache name
    _judged: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)
    _verdicts: dict[tuple[str, str], AreaVerdict] = field(default_factory=dict, compare=False, repr=False)

    def judges(self, key: str) -> bool:
        """Whether a tag of this key, as OSM has it, may say that a closed way is an area or none."""
        known = self._judged.get(key)
        if known is None:
            right = self.tags.cleaned_key(key)
            known = right == "area" or right in self.areas.keys or self.tags.is_corrected_by_value(key)
            self._judged[key] = known
        return known

    def verdict(self, key: str, value: str) -> AreaVerdict:
        """What a tag, as OSM has it, says once it is cleaned; of a list every value is asked."""
        known = self._verdicts.get((key, value))
        if known is None:
            right, values = self.tags.cleaned(key, value)
            if right == "area" and ("yes" in values or "no" in values):
                known = AreaVerdict.YES if "yes" in values else AreaVerdict.NO
            else:
                rule = self.areas.keys.get(right)
                known = AreaVerdict.AREA if rule is not None and rule.meet(values) else AreaVerdict.NOTHING
            self._verdicts[key, value] = known
        return known

    def is_area(self, tags: Mapping[str, str]) -> bool:
        """Whether a closed way with these tags is a polygon."""
        said = {self.verdict(k, v) for k, v in tags.items()}
        return AreaVerdict.YES in said or (AreaVerdict.AREA in said and AreaVerdict.NO not in said)


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
    found: dict[str, Any] = {}
    for name, read in (("polygon_features", _areas), ("tags", _tags), ("classes", read_paint)):
        path = local_path(getattr(config, name) or str(_HERE / f"{name}.yaml"))
        with at_the_door(f"rules file {path} cannot be read"):
            texts[name] = path.read_text(encoding="utf-8")
        document = parse_yaml(texts[name], f"rules file {path}")
        with at_the_door(
            f"rules file {path} lacks or misspells an entry", f"compare it with {_HERE}/{name}.yaml", ConfigError
        ):
            found[name] = read(document)
    fingerprint = sha256("\0".join(texts[name] for name in sorted(texts)).encode()).hexdigest()
    return Rules(found["polygon_features"], found["tags"], found["classes"], fingerprint)


def _areas(d: dict[str, Any]) -> AreaRules:
    keys = {str(key): Values.of(rule) for key, rule in d["keys"].items()}
    return AreaRules(str(d["version"]), keys, frozenset(texts(d["relation_types"])))


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
        str(d["version"]), frozenset(texts(d["drop"])), texts(d["drop_prefixes"]),
        frozenset(texts(d.get("keep") or [])), corrections, *patterns,
    )  # fmt: skip

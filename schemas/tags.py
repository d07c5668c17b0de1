"""Tags as text and as 64-bit ids (GeoLink's form, docs/papers/geolink.md#objects)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import blake2b

_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


def clean(text: str) -> str:
    """NFC, control characters and runs of white space as one space, ends stripped."""
    if text.isascii() and text.isprintable() and "  " not in text:  # nearly every text
        return text.strip()
    return _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip()


def format_key(key: str) -> str:
    """The key as text: ``:`` separates key and value there, so inside a key it becomes a space.

    >>> format_key("roof:shape")
    'roof shape'
    """
    return clean(key.replace(":", " "))


def format_tag(key: str, value: str) -> list[str]:
    """The texts of one OSM tag: ``;`` lists split, value ``yes`` replaced by the key.

    >>> format_tag("building", "yes"), format_tag("sport", "soccer;tennis")
    (['building:building'], ['sport:soccer', 'sport:tennis'])
    """
    name = format_key(key)
    values = (part.strip() for part in clean(value).split(";"))  # NFC first: it turns U+037E into ;
    return [f"{name}:{name if part == 'yes' else part}" for part in values if part] if name else []


def split_text(text: str) -> tuple[str, str]:
    """Key and value of a tag text; the key holds no ``:``."""
    key, _, value = text.partition(":")
    return key, value


@lru_cache(maxsize=1 << 18)
def tag_id(text: str) -> int:
    """Signed 64-bit BLAKE2b of the tag text: the same in every dataset, so that shards mix without a shared table.

    >>> tag_id("building:building")
    -6250362265166982711
    """
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest(), "little", signed=True)


@dataclass(frozen=True)
class Reading:
    """What one OSM tag comes to."""

    texts: tuple[str, ...] = ()  # none where the tag is dropped
    rule: str = ""  # corrected_tag | malformed_tag where that cleaning rule applied
    detail: str = ""  # what it was, and what it became


@dataclass(frozen=True)
class TagRules:
    """Which keys become tokens. ``keep`` empty means: every key that is not dropped."""

    version: str
    drop: frozenset[str]  # whole keys, e.g. name
    drop_prefixes: tuple[str, ...]  # e.g. addr:
    keep: frozenset[str] = frozenset()
    corrections: Mapping[str, str | None] = field(default_factory=dict)  # key or key=value, and what it stands for
    malformed_key: str = ""  # regular expressions searched in keys and values; empty: none is malformed
    malformed_value: str = ""
    _known: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    def keeps(self, key: str) -> bool:
        """Whether ``key`` (as in OSM, with ``:``) becomes a token."""
        known = self._known.get(key)
        if known is None:
            right = self.cleaned_key(key)
            known = right is not None and not self.is_malformed(right) and self._chosen(right)
            self._known[key] = known
        return known

    def cleaned_key(self, key: str) -> str | None:
        """A key corrected, its blanks put right where it is not malformed; None where it is left out."""
        right = self.corrections.get(key, self.corrections.get(clean(key), key))
        return right if right is None or self.is_malformed(right) else clean(right)

    def is_corrected_by_value(self, key: str) -> bool:
        """Whether some value of a key makes its tag another one."""
        return clean(key) in self._by_value

    @cached_property
    def _by_value(self) -> frozenset[str]:
        return frozenset(pair.partition("=")[0] for pair in self.corrections if "=" in pair)

    def cleaned(self, key: str, value: str) -> tuple[str, tuple[str, ...]]:
        """The tag by which objects are judged, the one that tokens hold: corrected, blanks put right, a list apart.

        Returns:
            Its key as in OSM, and its values; none where the tag is left out or malformed.
        """
        right = self.correct(key, value)
        if right is None or self.is_malformed(*right):
            return "", ()
        return clean(right[0]), tuple(v for part in clean(right[1]).split(";") if (v := part.strip()))

    def _chosen(self, key: str) -> bool:
        key = clean(key)
        dropped = key in self.drop or key.startswith(self.drop_prefixes)
        return not dropped and (not self.keep or key in self.keep) and bool(format_key(key))

    def is_malformed(self, key: str, value: str | None = None) -> bool:
        """Whether a key, or a value, is written as no tag is."""
        if self.malformed_key and re.search(self.malformed_key, key):
            return True
        return value is not None and bool(self.malformed_value) and bool(re.search(self.malformed_value, value))

    def read(self, key: str, value: str) -> Reading:
        """Correct one tag, refuse it where it is malformed, and write it as text; dropped keys give nothing."""
        right = self.correct(key, value)
        changed = right != (key, value)
        if right is None:
            return Reading((), "corrected_tag", f"{key}={value} is left out")
        if self.is_malformed(*right):
            # A key that no rule wants is no loss, whatever its value.
            wanted = self._chosen(right[0])
            return Reading((), "malformed_tag", f"{right[0]}={right[1]}") if wanted else Reading()
        if not self._chosen(right[0]):
            return Reading()
        texts = tuple(format_tag(*right))
        return Reading(texts, "corrected_tag", f"{key}={value} is {'='.join(right)}") if changed else Reading(texts)

    def correct(self, key: str, value: str) -> tuple[str, str] | None:
        """The tag as it should have been written; None where it should not have been. Blanks hide no mistake."""
        for name, text in ((key, value), (clean(key), clean(value))):
            pair = f"{name}={text}"
            if pair in self.corrections:
                whole = self.corrections[pair]
                return None if whole is None else (whole.partition("=")[0], whole.partition("=")[2])
            if name in self.corrections:
                right = self.corrections[name]
                return None if right is None else (right, value)
        return key, value

    def texts(self, tags: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[str]:
        """The tag texts of one object, sorted, each once."""
        pairs = tags.items() if isinstance(tags, Mapping) else tags
        return sorted({text for key, value in pairs for text in self.read(key, value).texts})

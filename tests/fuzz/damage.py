"""Damage: whole inputs changed by an rng, by byte, by text, by value, and inputs that are made so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from schemas.errors import GeoshardsError

T = TypeVar("T")
Rng = np.random.Generator
Files = dict[str, bytes]
#: Ends that are right.
GOOD = frozenset({"read", "dropped", "refused"})
#: What stands where a format wants something else.
_NUMBERS: list[Any] = [
    0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e308, -1e308, 255, 256, 65536, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 53, 1 << 62,
    (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 64, 10**30, float("nan"), float("inf"), -float("inf"), 91, 181, -181, 1e9,
]  # fmt: skip
_TEXTS: list[Any] = [
    "", " ", "x", "-", "0", "1e999", "null", "nan", "\ud800", "a\nb", "a\0b", "a\r\tb", "\x1b[31m", "\u202eabc",
    "\u200b", "ä" * 300, "e\u0301" * 50, "2024-13-45", "9999-12-31T23:59:60Z", "0000-00-00", "/etc/passwd", "../../x",
    "a/../b", "C:\\x", ".", "~", "~x/y", "*", "%s%n", "{}", "{0.__class__}", "$HOME", "`x`", "file:///x", "s3://",
    "http://", "9" * 5000, "http://127.0.0.1:9/x", "http://[::1", "x" * 100_000, "<script>", "a=b", "1,2,3,4",
    "[1", "|", "EPSG:4326", "EPSG:0",
]  # fmt: skip
_OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], {"x": None}, [1, "a", None], {"": 0}]
#: Numbers that formats trip over.
_EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
_MARKS = b"\"'<>,;\n\r{}[]&%\\"
_TEXT = b"0123456789-+.eE nan/" + _MARKS


def mutated(data: bytes, rng: Rng, text: bool) -> bytes:
    """A copy with one to five pieces of damage; of a text most of them are text too."""
    alphabet = list(_TEXT) if text and rng.random() < 0.8 else list(range(256))

    def some(count: int) -> bytes:
        return bytes(rng.choice(alphabet, count).tolist())

    made = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        # Half of it where headers are.
        most = len(made) if rng.random() < 0.5 else min(len(made), 600)
        at = int(rng.integers(0, max(1, most)))
        kind = int(rng.integers(0, 8))
        length = int(rng.integers(1, 64))
        if kind <= 1:
            made[at : at + 1] = some(1)
        elif kind == 2 and len(alphabet) == 256:
            size = int(rng.choice([1, 2, 4, 8]))
            number = int(rng.choice(_EXTREMES)) & ((1 << 8 * size) - 1)
            made[at : at + size] = number.to_bytes(size, str(rng.choice(["big", "little"])))  # type: ignore[arg-type]
        elif kind == 3:
            del made[at : at + length]
        elif kind == 4:
            made[at:at] = some(length)
        elif kind == 5:
            made[at:at] = made[at : at + length] * int(rng.integers(1, 20))
        elif kind == 6:
            del made[max(at, len(made) // 4) :]
        else:
            made[at : at + 1] = bytes([rng.choice(list(_MARKS))])
    return bytes(made)


def by_bytes(data: bytes, name: str, rng: Rng) -> bytes:
    """Damage of any byte."""
    return mutated(data, rng, text=False)


def by_text(data: bytes, name: str, rng: Rng) -> bytes:
    """Damage of a text, most of it text too."""
    return mutated(data, rng, text=True)


def by_value(data: bytes, name: str, rng: Rng) -> bytes:
    """A JSON document some of whose values are others, gone, or there twice; or its text is damaged."""
    if not name.endswith("json"):
        return by_bytes(data, name, rng)
    if rng.random() < 0.15:
        return by_text(data, name, rng)
    document = json.loads(data)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        document = odd(document, rng)
    text = deep(json.dumps(document, ensure_ascii=bool(rng.random() < 0.9)), rng)
    if rng.random() < 0.05:  # one name twice
        text = re.sub(r'"(\w+)": ', r'"\1": null, "\1": ', text, count=1)
    return encoded(text, rng)


def pick(listed: Sequence[T], rng: Rng, first: float = 0.0) -> T:
    """One of a list; the first with that probability at least."""
    return listed[0] if rng.random() < first else listed[int(rng.integers(len(listed)))]


def deep(text: str, rng: Rng) -> str:
    """A text with lists in lists where it asks for them."""
    depth = int(rng.choice([2, 60, 5000]))
    return re.sub("[\"']?DEEP[\"']?", "[" * depth + "]" * depth, text)


def encoded(text: str, rng: Rng) -> bytes:
    """As UTF-8 most often."""
    coding = pick(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp037"], rng, first=0.95)
    return text.encode(coding, "surrogatepass" if coding == "utf-8" else "replace")


def odd(document: Any, rng: Rng, *more: Any) -> Any:
    """A document of dicts and lists with one value or name changed; ``more`` may stand anywhere."""
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        node = waiting.pop()
        own = list(node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ())
        places += [(node, key) for key, _ in own]
        waiting += [value for _, value in own]
    if not places or rng.random() < 0.01:
        return deepcopy(pick([*_OTHERS, *_NUMBERS, *_TEXTS, *more], rng))
    node, key = pick(places, rng)
    match int(rng.integers(10)):
        case 0:
            del node[key]
        case 1:
            other, name = pick(places, rng)
            node[key] = deepcopy(other[name])
        case 2 if isinstance(node, dict):
            value = node.pop(key)
            node[pick([key, f"{key}x", str(key).upper(), str(key)[:-1], pick(_TEXTS, rng)], rng)] = value
        case 3 if isinstance(node, dict):
            node[str(pick(_TEXTS, rng))] = deepcopy(pick([*_OTHERS, *_NUMBERS], rng))
        case 4 if more:
            node[key] = pick(more, rng)
        case 4 | 5:
            node[key] = pick(["DEEP", [node[key]], {"x": node[key]}, str(node[key])], rng)
        case 6:
            node[key] = deepcopy(pick([*_OTHERS, *_NUMBERS, *_TEXTS, *more], rng))
        case _:
            node[key] = _near(node[key], rng)
    return document


def _near(value: Any, rng: Rng) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool) or value is None:
        return pick([not value, None, 0, "no"], rng)
    if isinstance(value, (int, float)):
        scaled = [value * scale for scale in (-1, 1e3, 1e9, 1e300, 1.0001)] if abs(value) < 1e200 else []
        return pick([*_NUMBERS, value + 1, value - 1, *scaled], rng)
    if isinstance(value, str):
        text = pick(_TEXTS, rng)
        return pick([text, value + text, value.swapcase(), value[1:], value * 50, f" {value} "], rng)
    if isinstance(value, list):
        return pick([[], value * 2, value * 50, value[::-1], value[:-1], [*value, None], [value] * 3], rng)
    if not isinstance(value, dict):
        return str(value)
    return pick([{}, list(value.items()), list(value), {"x": value}, dict.fromkeys(value)], rng)


def by_page(data: bytes, name: str, rng: Rng) -> bytes:
    """A file of pages of 512 bytes, SQLite or tar, with damage in one that holds something."""
    if rng.random() < 0.3:
        return by_bytes(data, name, rng)
    made = bytearray(data)
    used = [i for i in range(0, len(made), 512) if any(made[i : i + 512])]
    for _ in range(int(rng.choice([1, 2, 5]))):
        at = used[int(rng.integers(len(used)))]
        own = mutated(bytes(made[at : at + 512]), rng, text=rng.random() < 0.5)
        made[at : at + 512] = own[:512].ljust(512, b"\0")
    return bytes(made)


@dataclass(eq=False)
class Target:
    """One door: whole inputs, each of one file or several of which the first is read; what reads and what damages it.

    ``read`` returns one of `GOOD`; whatever it raises is a finding. ``make`` is of an input's number where damage to
    the bytes of whole ones would miss what is within.
    """

    whole: Callable[[], list[Files]]
    read: Callable[[Path], str]
    change: Callable[[bytes, str, Rng], bytes] = by_bytes
    make: Callable[[int], Files] | None = None
    cost: float = 1.0  # of one input, in those of most targets

    @cached_property
    def inputs(self) -> list[Files]:
        """The whole ones, made once."""
        return self.whole()

    def files(self, number: int) -> Files:
        """One input by its number alone; of several files any may be damaged, most often the first."""
        if self.make is not None:
            return self.make(number)
        rng = np.random.default_rng(number)
        whole = self.inputs[number % len(self.inputs)]
        names = list(whole)
        name = names[0] if rng.random() < 0.6 else names[int(rng.integers(len(names)))]
        return whole | {name: self.change(whole[name], name, rng)}


def ended(read: Callable[[], str], names: Callable[[str], bool]) -> str:
    """What a read comes to: ``refused`` where it raises one line in which there is a name that the user knows.

    Raises:
        AssertionError: the line says nothing of the kind.
    """
    try:
        return read()
    except GeoshardsError as error:
        text = str(error)
        if "\n" in text or not names(text):
            raise AssertionError(f"unclear: {text}") from None
        return "refused"


def of_files(path: Path) -> Callable[[str], bool]:
    """Whether a text names the file, or one beside it."""
    return lambda text: any(f.stem in text for f in path.parent.iterdir())


def one_line(error: GeoshardsError) -> None:
    """Raises AssertionError: its text is none."""
    assert "\n" not in str(error), error


def best(ends: set[str]) -> str:
    """Of several reads of one input."""
    return next(end for end in ("read", "dropped", "refused") if end in ends)

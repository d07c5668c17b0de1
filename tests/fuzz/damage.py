"""Damage: whole inputs changed by an rng, by byte, by text, by value, and inputs that are made so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import GeoshardsError

Rng = np.random.Generator
Files = dict[str, bytes]
#: Ends that are right.
GOOD = frozenset({"read", "dropped", "refused"})
#: What stands where a format wants something else.
_ODD: list[Any] = [
    None, True, 0, -1, 3, 1e308, -1e-320, 10**30, float("nan"), float("inf"), "", "x", "\ud800", "a\nb", "a\0b",
    "2024-13-45",
    "/etc/passwd", "file:///x", "http://127.0.0.1:9/x", [], {}, [[]], [None], {"x": None}, "9" * 5000,
]  # fmt: skip
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
    if rng.random() < 0.25:
        return by_text(data, name, rng)
    document = json.loads(data)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        document = odd(document, rng)
    return deep(json.dumps(document), rng)


def deep(text: str, rng: Rng) -> bytes:
    """A text with lists in lists where it asks for them."""
    depth = int(rng.choice([2, 60, 5000]))
    return re.sub("[\"']?DEEP[\"']?", "[" * depth + "]" * depth, text).encode()


def odd(document: Any, rng: Rng) -> Any:
    """A document of dicts and lists with one value changed."""
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        node = waiting.pop()
        own = list(node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ())
        places += [(node, key) for key, _ in own]
        waiting += [value for _, value in own]
    if not places or rng.random() < 0.01:
        return deepcopy(_ODD[int(rng.integers(len(_ODD)))])
    node, key = places[int(rng.integers(len(places)))]
    other = places[int(rng.integers(len(places)))]
    match int(rng.integers(8)):
        case 0:
            del node[key]
        case 1:
            node[key] = json.loads(json.dumps(other[0][other[1]]))
        case 2 if isinstance(node[key], (int, float)):
            node[key] = node[key] * float(rng.choice([-1, 1e3, 1e9, 1e300, 1.0001]))
        case 3 if isinstance(node[key], list):
            node[key] = node[key] * int(rng.choice([0, 2, 50]))
        case 4:
            node[key] = "DEEP" if rng.random() < 0.5 else [node[key]]
        case _:
            node[key] = deepcopy(_ODD[int(rng.integers(len(_ODD)))])
    return document


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

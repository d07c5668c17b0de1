"""The grammar in which rules name the values of a key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


def texts(listed: Any) -> tuple[str, ...]:
    """A list of texts from YAML.

    Raises:
        TypeError: it is none; YAML takes some words for something else, as ``no``.
    """
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        raise TypeError(f"{str(listed)[:60]} is no list of texts; put words that YAML knows, as 'no', in quotes")
    return tuple(listed)


@dataclass(frozen=True)
class Values:
    """Some values of a key: ``all``, ``only`` those listed, all ``except`` those listed; ``no`` is never one."""

    listed: frozenset[str]
    only: bool = False

    @classmethod
    def of(cls, rule: Any) -> Values:
        """From YAML: ``all``, ``{only: […]}`` or ``{except: […]}``.

        Raises:
            KeyError, TypeError: it is none of them.
        """
        if rule == "all":
            return cls(frozenset())
        name = "only" if "only" in rule else "except"
        return cls(frozenset(map(str, rule[name])), name == "only")

    def __contains__(self, value: str) -> bool:
        return value != "no" and (value in self.listed) == self.only

    def meet(self, values: Iterable[str]) -> bool:
        """Whether one value of a list is among them."""
        return any(value in self for value in values)

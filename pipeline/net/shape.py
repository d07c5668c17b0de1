"""What an answer of a service must hold for the code that reads it, and what of it an answer lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Dotted path to kind; ``[]`` behind a name stands for the items of a list, of which one is enough.
Needs = Mapping[str, str]
_KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,), "number": (int, float), "number or text": (int, float, str), "list": (list,), "object": (dict,),
    "true or false": (bool,),
}  # fmt: skip


def lacking(document: Any, needs: Needs) -> list[str]:
    """What of ``needs`` a JSON document has not: ``features[].id is gone``, ``… is a list, not text``.

    >>> lacking({"features": [{"id": 7}]}, {"features[].id": "text", "features[].bbox": "list"})
    ['features[].id is a number, not text', 'features[].bbox is gone']
    >>> lacking({"features": []}, {"features[].id": "text", "features[].bbox": "list"})
    ['features is empty']
    """
    found = []
    for path, kind in needs.items():
        if problem := _problem(document, path, kind):
            listed = path.partition("[]")[0]
            found.append(f"{listed} is empty" if _at(document, listed.split(".")) == [[]] else f"{path} {problem}")
    return list(dict.fromkeys(found))


def _problem(document: Any, path: str, kind: str) -> str:
    found = _at(document, path.split("."))
    if not found:
        return "is gone"
    if any(_is(value, kind) for value in found):
        return ""
    own = next((name for name in _KINDS if _is(found[0], name)), "null")
    article = {"number": "a ", "list": "a ", "object": "an "}.get(own, "")
    return f"is {article}{own}, not {kind}"


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS[kind]) and (not isinstance(value, bool) or kind == "true or false")


def _at(document: Any, names: Sequence[str]) -> list[Any]:
    """The values at a path."""
    values = [document]
    for name in names:
        plain = name.removesuffix("[]")
        values = [v[plain] for v in values if isinstance(v, Mapping) and plain in v]
        if name.endswith("[]"):
            values = [item for v in values if isinstance(v, list) for item in v]
    return values

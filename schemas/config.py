"""Typed settings: frozen dataclasses, YAML mappings laid over them, ``key.sub=value`` overrides laid over those.

An unknown key is an error that names the nearest known one. This module parses text and mappings; it opens no file.
"""

from __future__ import annotations

import ast
import dataclasses
import datetime
import difflib
import json
import math
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import yaml

from schemas.errors import ConfigError, at_the_door

T = TypeVar("T")

#: Groups within groups, and values of all groups of one depth, that a document may have.
_DEEPEST, _MOST_VALUES = 32, 1_000_000
#: What YAML reads as null.
_NOTHING = ("", "~", "null", "Null", "NULL")
#: What a person writes for a type; the brackets stand for the setting's name.
_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null",
    tuple: "a list, {}=[…,…]", list: "a list, {}=[…,…]", dict: "a mapping, {}.NAME=…",
}  # fmt: skip


def execution(default: Any) -> Any:
    """A setting that decides how and from where a run works, and nothing of what it makes: `content` leaves it out."""
    if dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=lambda: default, metadata={"execution": True})
    return dataclasses.field(default=default, metadata={"execution": True})


def path(default: str = "", *words: str) -> Any:
    """A setting that is a path or URL, or one of ``words`` that stand for something else: see `resolved`."""
    return dataclasses.field(default=default, metadata={"path": words})


def resolved(config: T, place: Callable[[str], str]) -> T:
    """``config`` with each `path` that is given put through ``place``."""
    changed: dict[str, Any] = {}
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            changed[f.name] = resolved(value, place)
        elif value and value not in f.metadata.get("path", (value,)):
            changed[f.name] = place(value)
    return dataclasses.replace(config, **changed)  # type: ignore[type-var]


def content(config: Any) -> dict[str, Any]:
    """The settings that decide what is made, as plain values, group by group."""
    values: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if not f.metadata.get("execution"):
            values[f.name] = content(value) if dataclasses.is_dataclass(value) else value
    return values


def require(checks: Mapping[str, bool]) -> None:
    """Refuse settings: ``checks`` are messages, and whether what they ask for holds.

    Raises:
        ConfigError: one does not; its message.
    """
    for message, holds in checks.items():
        if not holds:
            raise ConfigError(message)


class Written(str):
    """A value as a person typed it: the type of its setting says what it is, so that text stays as it is."""

    def read(self, full: str) -> Any:
        """What YAML makes of it, for a setting ``full`` that is no text."""
        with at_the_door(f"the value of {full}={str(self)!r} cannot be read", "quote it", ConfigError):
            return _bounded(yaml.safe_load(self))


class _SettingsLoader(yaml.SafeLoader):
    """YAML whose plain scalars stay as they were written, where YAML would guess a number, a truth or a time."""


for _kind in ("int", "float", "bool", "timestamp"):
    _SettingsLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", lambda _, node: Written(node.value))


def parse_override(text: str) -> tuple[list[str], Any]:
    """``a.b=value`` to (["a", "b"], value); a value within brackets is YAML, quotes around a value are left out, and
    all else is :class:`Written`.

    Raises:
        ConfigError: there is no ``=``, or the brackets hold no YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{text!r} is no setting; write key=value, for example split.val=0.2")
    value = value.strip()
    parsed: Any = Written(value)
    if value[:1] in ("[", "{"):
        with at_the_door(f"the value of {text!r} cannot be read", "quote it", ConfigError):
            parsed = _bounded(_load(value, _SettingsLoader))
    elif value[:1] in ("'", '"') and value[-1] == value[0]:
        with suppress(yaml.YAMLError, ValueError, OverflowError):  # quotes that are part of a text
            parsed = str(yaml.safe_load(value))
    return key.strip().split("."), parsed


def parse_settings(text: str, name: str) -> dict[str, Any]:
    """A YAML mapping of settings, as :func:`parse_yaml`, whose plain values are :class:`Written`."""
    return _mapping(text, name, _SettingsLoader)


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """A YAML document that must be a mapping; ``name`` stands in messages."""
    return _mapping(text, name, yaml.SafeLoader)


def _mapping(text: str, name: str, loader: type[yaml.SafeLoader]) -> dict[str, Any]:
    with at_the_door(f"{name} is no YAML", kind=ConfigError):
        document = _bounded(_load(text, loader))
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{name} must be a mapping of settings, not a {type(document).__name__}")
    return document


def _load(text: str, loader: type[yaml.SafeLoader]) -> Any:
    reader = loader(text)
    try:
        return reader.get_single_data()
    finally:
        reader.dispose()


def _bounded(document: Any) -> Any:
    """A YAML value that can be walked: an alias may stand within what it names, or for ever more of the same."""
    level = [document]
    for _ in range(_DEEPEST):
        level = [v for n in level if isinstance(n, (dict, list)) for v in (n.values() if isinstance(n, dict) else n)]
        if not level:
            return document
        if len(level) > _MOST_VALUES:
            raise ValueError("it holds too many values")
    raise ValueError("its groups lie within each other too deep")


def merge(base: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """``base`` with each ``a.b=value`` of ``overrides`` laid over it."""
    result = _copy(base)
    for text in overrides:
        path, value = parse_override(text)
        node = result
        for part in path[:-1]:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise ConfigError(f"{text!r}: {part} is a value, not a group of settings")
            node = child
        node[path[-1]] = value
    return result


def overlay(base: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``base``, group by group."""
    result = _copy(base)
    for key, value in above.items():
        below = result.get(key)
        result[key] = overlay(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return result


def _copy(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in mapping.items()}


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """A ``cls`` (dataclass, nested) from a mapping.

    Raises:
        ConfigError: an unknown key, a missing one, or a value of the wrong type; the message names it in full.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        full = f"{where}{key}"
        if key not in known:
            raise ConfigError(unknown_key(full, list(key_paths(cls, where))))
        arguments[key] = _convert(hints[key], value, full)
    for name, f in known.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in arguments:
            raise ConfigError(f"setting {where}{name} is missing; give {where}{name}=…")
    return cls(**arguments)


def unknown_key(key: str, known: list[str]) -> str:
    """Message for an unknown setting, with the nearest known one."""
    near = difflib.get_close_matches(key, known, 1, 0.5)
    leaf = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    guess = leaf[:1] or near
    hint = f"did you mean {guess[0]}?" if guess else f"known settings: {', '.join(sorted(known))}"
    return f"unknown setting {key}; {hint}"


def key_paths(cls: type, where: str = "") -> Iterable[str]:
    """Full names of all settings of a dataclass."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        kind = hints[f.name]
        if dataclasses.is_dataclass(kind):
            yield from key_paths(kind, f"{where}{f.name}.")  # type: ignore[arg-type]
        else:
            yield f"{where}{f.name}"


def _convert(kind: Any, value: Any, full: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"setting {full} is a group; set {full}.{dataclasses.fields(kind)[0].name}=…")
        return build(kind, value, f"{full}.")
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        empty = value.strip() in _NOTHING if isinstance(value, Written) else value is None
        if empty and type(None) in args:
            return None
        # A choice first: "all" is no list of one word.
        for option in sorted(args, key=lambda a: typing.get_origin(a) is not typing.Literal):
            if option is not type(None):
                try:
                    return _convert(option, value, full)
                except ConfigError:
                    continue
        raise ConfigError(_mismatch(full, kind, value))
    if origin is typing.Literal:
        for choice in args:
            if str(choice) == str(value):  # YAML reads 420 as a number
                return choice
        near = difflib.get_close_matches(str(value), [str(a) for a in args], 1)
        raise ConfigError(
            f"setting {full}={value!r}: choose one of {', '.join(map(str, args))}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    if origin in (tuple, list):
        if isinstance(value, Written):
            read = value.read(full)
            value = str(value) if isinstance(read, str) else read
        if isinstance(value, str) and args[0] is str:  # footprints=tiles,grid
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, (list, tuple)):
            raise ConfigError(_mismatch(full, kind, value))
        fixed = origin is tuple and not (len(args) == 2 and args[1] is Ellipsis)
        if fixed and len(value) != len(args):
            raise ConfigError(f"setting {full}={value!r}: {len(args)} values are needed")
        kinds = args if fixed else (args[0],) * len(value)
        return origin(_convert(k, v, full) for k, v in zip(kinds, value, strict=True))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(_mismatch(full, kind, value))
        return {str(k): _convert(args[1], v, f"{full}.{k}") for k, v in value.items()}
    return _scalar(kind, value, full)


def _scalar(kind: Any, value: Any, full: str) -> Any:
    if isinstance(value, Written):
        value = str(value) if kind is str else value.read(full)
    if kind is Any:
        return _read(value, full)
    if kind is float and (isinstance(value, str) or (isinstance(value, (int, float)) and not isinstance(value, bool))):
        try:  # YAML reads 1e-4 as text
            number = float(value)
        except (ValueError, OverflowError):
            raise ConfigError(_mismatch(full, kind, value)) from None
        if not math.isfinite(number):
            raise ConfigError(f"setting {full}={value} must be a number that is finite")
        return number
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if kind is str and isinstance(value, datetime.date):  # YAML reads 2024-01-01 as a date
        return value.isoformat()
    if kind is str and isinstance(value, str) and "\0" in value:
        raise ConfigError(f"setting {full}={value!r} holds a NUL character, which no path or name has")
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ConfigError(_mismatch(full, kind, value))


def _read(value: Any, full: str) -> Any:
    """A value of any type, without what is :class:`Written` in it."""
    if isinstance(value, Mapping):
        return {str(k): _read(v, full) for k, v in value.items()}
    if isinstance(value, list):
        return [_read(v, full) for v in value]
    return value.read(full) if isinstance(value, Written) else value


def at_least(config: Any, where: str, **least: float) -> None:
    """Refuse a number of ``config`` that is less than ``least`` has for its name, or not a number; None is none.

    Args:
        where: groups that the settings lie in.

    Raises:
        ConfigError: names the setting.
    """
    for name, low in least.items():
        value = getattr(config, name)
        if value is not None and not value >= low:
            raise ConfigError(f"setting {where}{name}={value} must be at least {low}")


def _mismatch(full: str, kind: Any, value: Any) -> str:
    if isinstance(value, Written):
        value = value.read(full)
    options = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    words = [" or ".join(_choices(k)) or _WORDS.get(typing.get_origin(k) or k, str(k)).format(full) for k in options]
    return f"setting {full}={value!r} has the wrong type; it takes {' or '.join(words)}"


def to_mapping(config: Any) -> dict[str, Any]:
    """A config as plain, YAML-ready values: the inverse of :func:`build`."""
    result = dataclasses.asdict(config)

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    return {k: plain(v) for k, v in result.items()}


class Setting(NamedTuple):
    """What ``--help`` says of one setting."""

    name: str  # in full, with its groups
    default: str  # as it would be written behind ``name=``
    choices: tuple[str, ...]  # all that it can be; empty: anything of its type
    text: str  # the comment of its line


def documented(config: Any, source_of: Callable[[type], str], where: str = "") -> Iterator[Setting]:
    """Every setting of a config, nested ones too, with its value there as the default.

    Args:
        config: a dataclass value.
        source_of: text of a class statement (``inspect.getsource``), whose comments are read.
        where: groups that it lies in.
    """
    texts: dict[str, str] = {}
    for base in reversed([c for c in type(config).__mro__ if dataclasses.is_dataclass(c)]):
        texts |= field_comments(source_of(base))
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from documented(value, source_of, f"{where}{f.name}.")
        else:
            default = json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace('"', "") or '""'
            yield Setting(f"{where}{f.name}", default, _choices(hints[f.name]), texts.get(f.name, ""))


def field_comments(source: str) -> dict[str, str]:
    """The comment at the end of each field of a class statement, by the field's name.

    >>> field_comments("class A:\\n    size: int = 256  # pixels a side")
    {'size': 'pixels a side'}
    """
    found = {}
    source = textwrap.dedent(source)
    lines = source.splitlines()
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]  # the class statement
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own = lines[node.lineno - 1 : node.end_lineno]
            parts = [comment.strip() for _, mark, comment in (line.partition("  # ") for line in own) if mark]
            found[node.target.id] = " ".join(parts)
    return found


def _choices(kind: Any) -> tuple[str, ...]:
    args = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return tuple(map(str, args))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        own = [choice for option in args for choice in _choices(option)]
        return (*own, "null") if own and type(None) in args else tuple(own)
    return ()


def settings_help(config: Any, source_of: Callable[[type], str]) -> str:
    """What ``--help`` prints of the settings of a config: name, default, choices and text of each, a line each."""
    rows = [(f"{s.name}={s.default}", s) for s in documented(config, source_of)]
    width = max(len(head) for head, _ in rows if len(head) <= 40)
    return "\n".join(
        f"  {head.ljust(width)}  {'[' + '|'.join(s.choices) + '] ' if s.choices else ''}{s.text}" for head, s in rows
    )

"""Settings of builds and of trainers, and rules: YAML of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.cli.shards import read_settings
from pipeline.rules import RulesConfig, load_rules
from pipeline.samples.config import ShardsConfig
from schemas.config import key_paths, to_mapping
from tests.fuzz.damage import Files, Rng, Target, by_text, deep, encoded, ended, odd, of_files, pick
from trainers.engine.cli import parse
from trainers.engine.settings import Task
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK

_TAGS = ({"building": "yes"}, {"area": "no", "highway": "pedestrian"}, {"natural": "water;x", "layer": "-1"})
_RULES = Path(__file__).parents[2] / "pipeline/rules"
#: What YAML takes for something else than text, for something without end, or for nothing that it reads.
_YAML = (
    "&a [*a]", "&a {b: *a}", "*unknown", "2024-01-01", "2024-13-45", "0001-01-01", "2024-01-01T00:00:00+99:00",
    "2024-01-01 00:00:00.1 +23:59", "1:30:00", "190:20:30.15", "0x1F", "0b1", "0777", "09", "1_000", "1e400", "-0.0",
    ".nan", "-.inf", "!!float x", "!!int ''", "!!int '1e3'", "!!bool maybe", "!!null x", "!!binary aGk=", "!!binary a",
    "!!timestamp 2024-01-01", "!!timestamp x", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1, a: 2]", "!own {a: 1}",
    "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "{<<: {a: 1}}", "{<<: [1]}", "{<<: 3}",
    "{[1]: 2}", "{{a: 1}: 2}", "{1: 2}", "{null: 2}", "{true: 2}", "{2024-01-01: 2}", "{a: 1, a: 2}", "{'': 1}", "~",
    "[1, [2, [3, {a: [4]}]]]", r'"\x00"', r'"\ud800"', r'"\u202e"', r'"\x1b[31m"', r'"\UFFFFFFFF"', "'%Y-%m-%d'",
    "'%'", "%Y", "@x", "`x`", "|\n  text", ">-\n  folded\n\n  text", "? a\n: b", "- a\n  - b", "---", "...", "\t",
)  # fmt: skip
#: Beside a whole document.
_AROUND = (
    "%YAML 1.9\n---\n{}", "%TAG ! x\n---\n{}", "---\n{}\n---\nb: 1\n", "{}\n...\nx", "# ü\n{}", "{}\n<<: *none\n",
    "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,"
    "*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f]\n"
    "{}",
)  # fmt: skip


def by_yaml(data: bytes, name: str, rng: Rng, most: int = 3) -> bytes:
    """A YAML document with some values, keys or texts changed; or its text is damaged."""
    if rng.random() < 0.1:
        return by_text(data, name, rng)
    document = yaml.load(data, yaml.CSafeLoader)
    for _ in range(int(rng.integers(1, most + 1))):
        document = odd(document, rng, "YAML")
    try:
        text = yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, width=1 << 30, allow_unicode=True)
    except UnicodeEncodeError:  # it writes no half of a pair
        return by_text(data, name, rng)
    while "YAML" in text:
        text = text.replace("'YAML'", "YAML").replace("YAML", pick(_YAML, rng), 1)
    lines = text.split("\n")
    if rng.random() < 0.1 and len(lines) > 2:  # a line twice, or elsewhere
        lines.insert(int(rng.integers(len(lines))), lines[int(rng.integers(len(lines) - 1))])
    text = "\n".join(lines)
    if rng.random() < 0.05:
        text = pick(_AROUND, rng).replace("{}", text)
    return encoded(deep(text, rng), rng)


# --- of builds --------------------------------------------------------------------------------------------------------


def _key_values(document: dict[str, Any], where: str = "") -> list[str]:
    """Settings as words of a command line."""
    found = []
    for key, value in document.items():
        if isinstance(value, dict) and value:
            found += _key_values(value, f"{where}{key}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=1 << 30)
            found.append(f"{where}{key}={text.splitlines()[0]}")
    return found


def settings() -> list[Files]:
    """All settings at once as YAML, some of them, each in words of the command line."""
    every = json.loads(json.dumps(to_mapping(ShardsConfig())))
    rs = {"bands": ["B4", "B3", "B2"], "nodata": 0, "datetime": "2024-05-01/2024-09-30", "stretch": "linear",
          "stretch_range": [[0, 3000]], "acquired": "%Y-%m-%d"}  # fmt: skip
    plan = {"per_shard": 64, "max_tiles": 5, "sampling": {"land_only": True}}
    some = {"region": "monaco", "imagery": "earth-search", "rs": rs, "split": {"val": 0.1}, "zoom": 14, "workers": 2,
            "plan": plan, "streetview": "none", "footprints": ["tiles", "grid"]}  # fmt: skip
    words = "\n".join(_key_values(some)).encode()
    return [
        {"a.yaml": yaml.safe_dump(every).encode()}, {"b.yaml": yaml.safe_dump(some).encode()},
        {"c.txt": words}, {"d.txt": words, "b.yaml": yaml.safe_dump(some).encode()},
    ]  # fmt: skip


def by_setting(data: bytes, name: str, rng: Rng) -> bytes:
    """YAML by its values, of a few keys at a time most often; words by theirs."""
    if name.endswith(".yaml"):
        document = yaml.load(data, yaml.CSafeLoader)
        if rng.random() < 0.7:
            keys = sorted({pick(list(document), rng) for _ in range(3)})
            data = yaml.safe_dump({key: document[key] for key in keys}).encode()
        return by_yaml(data, name, rng)
    if rng.random() < 0.3:
        return by_text(data, name, rng)
    lines = data.decode().split("\n")
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(lines)))
        key, _, value = pick([lines[at], f"{pick(_keys(), rng)}=1"], rng).partition("=")
        try:
            made = odd({"v": yaml.safe_load(value)}, rng, "YAML")
        except yaml.YAMLError:  # this line was changed before
            continue
        value = yaml.safe_dump(made, default_flow_style=True, width=1 << 30, allow_unicode=False)[1:-2]
        value = value.partition(": ")[2].replace("YAML", pick(_YAML, rng)).replace("\n", " ")
        lines[at] = f"{pick([key, key + '.x', key.rpartition('.')[0], key.upper()], rng, 0.8)}={value}"
    return encoded(deep("\n".join(lines), rng), rng)


@cache
def _keys() -> list[str]:
    return [part for key in key_paths(ShardsConfig) for part in (key, key.partition(".")[0])]


def read_some_settings(path: Path) -> str:
    """As the file --config, or as words of the command line, with or without such a file."""
    words = path.read_bytes().decode("utf-8", "surrogateescape").split("\n") if path.suffix == ".txt" else []
    file = next(path.parent.glob("*.yaml"), None)

    def found() -> str:
        config = read_settings({"region": "demo"}, file, {}, words)
        assert isinstance(config, ShardsConfig)
        return "read"

    named = of_files(path)
    known = ("setting", "the value of", "imagery.", *_keys())
    return ended(found, lambda text: named(text) or any(word in text for word in known))


# --- of trainers ------------------------------------------------------------------------------------------------------

_TASKS: tuple[Task, ...] = (GEOLINK, GAIR)


def training() -> list[Files]:
    """All settings of each trainer."""
    made = []
    for task in _TASKS:
        every = json.loads(json.dumps(to_mapping(task.settings())))
        made.append({f"{task.name}.yaml": yaml.safe_dump(every).encode()})
    return made


def read_training(path: Path) -> str:
    """As the file --config of the trainer that it is called after."""
    task = next(task for task in _TASKS if task.name == path.stem)

    def found() -> str:
        parse(task, ["--config", str(path)])
        return "read"

    keys = [part for key in key_paths(task.settings) for part in (key, key.rpartition(".")[2])]
    return ended(found, lambda text: any(word in text for word in (path.name, "setting", *keys)))


# --- rules ------------------------------------------------------------------------------------------------------------


def rules() -> list[Files]:
    """The built-in ones, each the first once, and small ones that have every kind of entry."""
    made = {p.name: p.read_bytes() for p in sorted(_RULES.glob("*.yaml"))}
    small: dict[str, Callable[[dict[str, Any]], Any]] = {
        "classes.yaml": lambda d: d | {"classes": [c for c in d["classes"] if c["name"] in _named(d)]},
        "polygon_features.yaml": lambda d: d | {"keys": dict(list(d["keys"].items())[:5])},
        "tags.yaml": lambda d: d | {"drop": d["drop"][:3], "drop_prefixes": d["drop_prefixes"][:2],
                                    "corrections": dict(list(d["corrections"].items())[:3])},
    }  # fmt: skip
    cut = {n: yaml.safe_dump(small[n](yaml.load(data, yaml.CSafeLoader))).encode() for n, data in made.items()}
    return [{name: own[name], **own} for own in (cut, made) for name in made]


def _named(document: Any) -> set[str]:
    """Texts anywhere in a document but its list of classes."""
    waiting, found = [v for k, v in document.items() if k != "classes"], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            found.add(node)
        else:
            waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return found | {document["classes"][0]["name"]}


def by_rule(data: bytes, name: str, rng: Rng) -> bytes:
    """YAML by its values; of one entry at the top, most often."""
    document = yaml.load(data, yaml.CSafeLoader)
    if rng.random() < 0.3 or len(data) < 3000:
        return by_yaml(data, name, rng)
    key = pick(list(document), rng)
    part = odd({key: document[key]}, rng)
    try:
        return deep(
            yaml.dump(document | part if isinstance(part, dict) else part, Dumper=yaml.CSafeDumper), rng
        ).encode()
    except UnicodeEncodeError:
        return by_text(data, name, rng)


def read_rules(path: Path) -> str:
    """Loaded, and asked of some tags."""

    def found() -> str:
        own = load_rules(RulesConfig(**{p.stem: str(p) for p in path.parent.iterdir()}))
        for tags in _TAGS:
            own.is_area(tags)
            for key, value in tags.items():
                own.paint.sign(*own.tags.cleaned(key, value))
        own.paint.rows(), own.paint.palette, own.paint.widths, own.paint.seen
        return "read"

    return ended(found, of_files(path))


TARGETS = {
    "settings": Target(settings, read_some_settings, by_setting, cost=3),
    "training": Target(training, read_training, by_yaml, cost=3),
    "rules": Target(rules, read_rules, by_rule, cost=3),
}

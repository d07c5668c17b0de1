"""What a graph of steps is: parameters, and steps that each are one command. Values in, steps out; opens nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from schemas.errors import ConfigError, nearest

#: ``{item}``, and of what a step before has answered ``{STEP.KEY}``, ``{STEP.KEY:.12}`` for its first 12 characters.
_PLACE = re.compile(r"\{(?:(item)|(\w+)\.(\w+)(?::\.(\d+))?)\}")


@dataclass(frozen=True)
class Pool:
    """Steps that share something: of all runs together at most ``slots`` of them are at work at once."""

    name: str
    slots: int
    text: str


FETCH = Pool("geoshards_fetch", 4, "downloads at once: servers of extracts ask for few")
BUILD = Pool("geoshards_build", 1, "builds at once: each takes all cores, or the cluster, and a dataset has one writer")
TRAIN = Pool("geoshards_train", 1, "trainings at once: each takes all GPUs")
POOLS = (FETCH, BUILD, TRAIN)


@dataclass(frozen=True)
class Parameter:
    """What a graph is told by ``key=value``."""

    name: str
    default: str  # empty: none, and the step goes by its own default
    text: str  # one line
    choices: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True)
class Step:
    """One command, which may be run again at any time: what is done already it does not do twice."""

    name: str
    words: tuple[str, ...]  # `geoshards …` or `python -m trainers.…`; may hold `_PLACE`
    folder: str  # path or URL of what it makes; what is known of the step lies beside it, in FOLDER.steps
    text: str  # one line
    pool: Pool
    after: tuple[str, ...] = ()  # steps whose results it takes
    each: str = ""  # a step before, for each of whose ``items`` this one is run
    inputs: tuple[str, ...] = ()  # values that may name files of the user's, by commas
    outputs: tuple[str, ...] = ()  # files it leaves; may hold ``{KEY}`` of its answer
    says: tuple[str, ...] = ()  # what of its answer (one line of JSON) counts as its result
    free: tuple[str, ...] = ()  # further words that decide how it works, and nothing of what it makes
    always: bool = False  # whether only its command can know if there is something to do
    hours: float = 24.0  # after which a scheduler stops it
    retries: int = 2  # of a scheduler

    @property
    def before(self) -> tuple[str, ...]:
        """Names of the steps that come first."""
        return (*self.after, self.each) if self.each else self.after


@dataclass(frozen=True)
class Graph:
    """A named graph."""

    name: str
    text: str  # one line
    parameters: tuple[Parameter, ...]
    build: Callable[[Mapping[str, str]], tuple[Step, ...]]  # from all values; each step after those it needs
    check: Callable[[dict[str, str]], None] = lambda _: None  # fills values that follow from others, refuses wrong ones
    schedule: str | None = None  # cron's words: when a scheduler starts it; None: when it is asked to

    def read(self, words: Sequence[str]) -> dict[str, str]:
        """Values of all parameters from ``key=value`` words.

        Raises:
            ConfigError: a word is none, a key is unknown, a value is not among the choices or missing.
        """
        values = {p.name: p.default for p in self.parameters}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                raise ConfigError(f"{word!r} is no setting of graph {self.name}; write key=value, as in steps=200")
            if key not in values:
                raise ConfigError(f"graph {self.name} has no key {key}; {nearest(key, values)}")
            values[key] = value
        for p in self.parameters:
            if p.choices and values[p.name] not in p.choices:
                way = nearest(values[p.name], p.choices)
                raise ConfigError(f"{p.name}={values[p.name]} is not known to graph {self.name}; {way}")
            if p.required and not values[p.name]:
                raise ConfigError(f"graph {self.name} needs {p.name}=…: {p.text}")
        self.check(values)
        return values

    def steps(self, words: Sequence[str]) -> tuple[Step, ...]:
        """The steps for ``key=value`` words.

        Raises:
            ConfigError: as `read`.
        """
        return self.build(self.read(words))

    def shape(self) -> tuple[Step, ...]:
        """The steps without their values: names, order, pools, limits."""
        return self.build({p.name: p.default for p in self.parameters})


def filled(words: Sequence[str], item: str, answers: Mapping[str, Mapping[str, object]]) -> tuple[str, ...]:
    """Words with their places filled; those of which nothing is known yet stay.

    >>> filled(("--only", "{item}", "out=run-{update.content_hash:.3}"), "7", {"update": {"content_hash": "abcdef"}})
    ('--only', '7', 'out=run-abc')
    """

    def fill(found: re.Match[str]) -> str:
        if found[1]:
            return item
        value = answers.get(found[2], {}).get(found[3])
        return found[0] if value is None else str(value)[: int(found[4]) if found[4] else None]

    return tuple(_PLACE.sub(fill, word) for word in words)

"""Help says of every setting what it does, with its default and its choices, whoever prints it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from pipeline.cli.main import main as geoshards
from pipeline.samples.config import ShardsConfig
from schemas.config import build, documented, field_comments, key_paths, merge, settings_help, to_mapping
from trainers.engine.cli import main as train
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK
from trainers.tasks.joint import JOINT

CONFIGS: dict[str, Any] = {
    "shards": ShardsConfig(), "chips": ShardsConfig(), "geolink": GEOLINK.settings(), "gair": GAIR.settings(),
    "joint": JOINT.settings(),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_every_setting_has_a_text_and_a_default_that_can_be_typed(name: str) -> None:
    config = CONFIGS[name]
    found = list(documented(config, inspect.getsource))
    assert [s.name for s in found] == list(key_paths(type(config)))
    assert [s.name for s in found if len(s.text) < 5 or s.text != s.text.strip()] == []
    typed = merge({}, [f"{s.name}={s.default}" for s in found if s.default != '""'])
    assert to_mapping(build(type(config), typed)) == to_mapping(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_help_shows_each_setting_with_its_choices(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = CONFIGS[name]
    if name in ("shards", "chips"):
        with pytest.raises(SystemExit, match="0"):
            geoshards([name, "--help"])
    else:
        assert train({"geolink": GEOLINK, "gair": GAIR, "joint": JOINT}[name], ["--help"]) == 0
    shown = capsys.readouterr().out.splitlines()
    for setting in documented(config, inspect.getsource):
        (line,) = [text for text in shown if text.startswith(f"  {setting.name}={setting.default} ")]
        assert line.endswith(f"[{'|'.join(setting.choices)}] {setting.text}" if setting.choices else setting.text)


def test_choices_are_those_of_literals() -> None:
    choices = {s.name: s.choices for s in documented(ShardsConfig(), inspect.getsource)}
    assert choices["rs.format"] == ("auto", "jpg", "png", "npy")
    assert choices["sources.refresh"] == ("never", "notice", "newer")
    assert choices["size"] == ()
    assert {s.name: s.choices for s in documented(GEOLINK.settings(), inspect.getsource)}["model"] == (
        "auto", "tiny", "small", "base", "large",
    )  # fmt: skip


@dataclass
class Inner:
    side: int = 3  # in metres
    mode: Literal["a", "b"] | None = None  # how


@dataclass
class Base:
    name: str = ""  # of it
    old: float = 1.5  # as before


@dataclass
class Outer(Base):
    old: float = 2.0  # as now
    sides: tuple[int, ...] = (1, 2)  # in metres
    inner: Inner = field(default_factory=lambda: Inner(side=9))


def test_help_reads_as_it_is_written() -> None:
    assert settings_help(Outer(), inspect.getsource).splitlines() == [
        '  name=""          of it',
        "  old=2.0          as now",
        "  sides=[1,2]      in metres",
        "  inner.side=9     in metres",
        "  inner.mode=null  [a|b|null] how",
    ]


def test_a_comment_is_found_wherever_a_formatter_puts_it() -> None:
    source = "class A:\n    a: int = (\n        3  # of it\n    )\n    b: str = '#'\n    # of none\n    c: int = 1  # c"
    assert field_comments(source) == {"a": "of it", "b": "", "c": "c"}

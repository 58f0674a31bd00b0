from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest

from recollect import presets
from recollect.cli import settings
from recollect.types import ConfigError


@dataclass(frozen=True)
class Config:
    actors: int = 256  # slots; section 2.3
    batch_size: int = 64  # table 2
    gamma: float = 0.997  # discount [ours]
    kind: Literal["long", "short"] = "long"  # how
    sizes: tuple[int, ...] = ()
    double_q: bool = True  # or not
    name: str = "lstm"


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("actors", "16", 16),
        ("actors", "1e3", 1000),
        ("actors", "1_000", 1000),
        ("gamma", "1e-3", 0.001),
        ("gamma", "1", 1.0),
        ("kind", "short", "short"),
        ("sizes", ["64", "32"], (64, 32)),
        ("sizes", ["7"], (7,)),
        ("sizes", ["none"], ()),
        ("actors", "1.5k", 1500),
        ("double_q", "True", True),
        ("double_q", "false", False),
        ("name", "gru", "gru"),
    ],
)
def test_a_value_has_its_fields_type(name: str, given: Any, value: object) -> None:
    read = settings.read(name, given, Config)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("actors", "abc", "--actors: wanted a whole number, got 'abc'"),
        ("actors", "1.5", "--actors: wanted a whole number, got '1.5'"),
        ("gamma", "x", "--gamma: wanted a number, got 'x'"),
        ("gamma", "nan", "--gamma: wanted a finite number, got nan"),
        ("gamma", "inf", "--gamma: wanted a finite number, got inf"),
        ("kind", "shrt", "--kind: wanted long or short, got 'shrt'"),
        ("sizes", ["6", "x"], "--sizes: wanted whole numbers, such as 64 64, or none, got '6 x'"),
        ("double_q", "maybe", "--double-q: wanted True or False, got 'maybe'"),
    ],
)
def test_a_value_of_another_type_is_refused(
    name: str, given: Any, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        settings.read(name, given, Config)
    assert str(refused.value) == message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("line", "spelled"),
    [
        ("--double-q", "--double-q=True"),
        ("--no-double-q", "--double-q=False"),
        ("--no_double_q", "--double-q=False"),
        ("--double-q False", "--double-q=False"),
        ("--double-q=False", "--double-q=False"),
        ("--double_q=true", "--double_q=true"),
        ("--double-q r2d2", "--double-q=True r2d2"),
        ("--double-q maybe", "--double-q=maybe"),
        ("--double-q --actors 3", "--double-q=True --actors 3"),
        ("--actors 3 --no-actors", "--actors 3 --no-actors"),
    ],
)
def test_every_form_of_yes_and_no_is_spelled_out(line: str, spelled: str) -> None:
    assert settings.spell_out(line.split(), Config, ["r2d2"]) == spelled.split()


def test_options_are_grouped_and_show_default_help_and_what_the_paper_has() -> None:
    groups = settings.options(Config(batch_size=7, sizes=(5, 3)), Config())
    assert list(groups) == ["acting", "learning"]
    shown = {o.name: (o.value, o.shown, o.help) for group in groups.values() for o in group}
    assert shown == {
        "actors": ("N", "256", "slots"),
        "batch_size": ("N", "7", "paper: 64"),
        "gamma": ("X", "0.997", "discount"),
        "kind": ("NAME", "long", "long or short; how"),
        "sizes": ("N ...", "5 3", "paper: none"),
        "double_q": ("NAME", "True", "or not"),
        "name": ("NAME", "lstm", ""),
    }


@pytest.mark.parametrize("agent", presets.AGENTS)
def test_every_field_of_an_agents_config_is_an_option(agent: str) -> None:
    config = presets.agent(agent).config()
    groups = settings.options(config, config)
    assert list(groups) == list(settings.GROUPS.values())
    names = [option.name for group in groups.values() for option in group]
    assert names == [field.name for field in fields(config)]
    negatable = {option.name for group in groups.values() for option in group if option.negatable}
    assert negatable == {
        f.name for f in fields(config) if isinstance(getattr(config, f.name), bool)
    }


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("batch_size 3 is odd: raise batch_size", "--batch-size 3 is odd: raise --batch-size"),
        ("gamma must be below 1", "gamma must be below 1"),
        ("unknown 'batch_size' in my_batch_size", "unknown 'batch_size' in my_batch_size"),
        ("raise env_steps, or else", "raise --env-steps, or else"),
        ("place 'a:b' is for runtime ray", "--place 'a:b' is for --runtime ray"),
        ("take less with place (as in 'x')", "take less with --place (as in 'x')"),
        ("address 'a:1' is not HOST:PORT", "--address 'a:1' is not HOST:PORT"),
        (
            "no gpus in place: give address HOST:PORT",
            "no gpus in --place: give --address HOST:PORT",
        ),
        ("set device cpu, or --runtime ray", "set --device cpu, or --runtime ray"),
        ("and without address all is here", "and without --address all is here"),
        ("unknown runtime inlin", "unknown runtime inlin"),
        ("another place: its address", "another place: its address"),
    ],
)
def test_settings_are_named_as_they_are_typed(message: str, said: str) -> None:
    assert settings.as_options(message, Config) == said

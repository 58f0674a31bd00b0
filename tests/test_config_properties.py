"""F1: whatever a config holds, it is valid or a ConfigError that names what is wrong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect import presets
from recollect.agents.r2d2 import R2D2Config
from recollect.types import (
    LARGEST,
    MOST_WHOLE,
    ActionSpec,
    ArraySpec,
    ConfigError,
    EnvSpec,
    shown,
)

DEFAULTS = asdict(R2D2Config())
STORED: dict[str, Any] = {
    "agent": "r2d2",
    "env": {"id": "CartPole-v1", "kwargs": {}},
    "preset": "paper",
    "seed": 3,
    "env_steps": 1000,
    "runtime": "inline",
    "address": "",
    "place": "",
    "network": "",
    "start_from": "",
    "checkpoint_seconds": 0.0,
    "keep_checkpoints": 2,
    "config": DEFAULTS,
}
WRONG: list[Any] = [
    None,
    "1",
    "",
    "paper",
    [],
    [1],
    [[1]],
    [True],
    {},
    {"a": {"b": []}},
    (),
    (1, -1),
]
WRONG += [True, False, 0, -1, 1, 2, 80, 2**31, 2**63, 10**12, 10**400, -(10**400), -0.0, 0.5, 1.0]
WRONG += [math.nan, math.inf, -math.inf, 5e-324, 1e308, 1e-310, b"1", object(), "x" * 10_000]
VALUES = st.one_of(
    st.sampled_from(WRONG), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers())
)
SECONDS = 3.0
"""In which a config is answered: 1 in the reliability table, and the machine may be busy."""


def answered(call: Callable[[], Any]) -> Any:
    """What `call` gives, or the ConfigError it raises; nothing else may come, and soon."""
    start = time.perf_counter()
    try:
        found = call()
    except ConfigError as error:
        found = error
    assert time.perf_counter() - start < SECONDS
    if isinstance(found, ConfigError):
        assert "\n" not in str(found)
        assert len(str(found)) < 500
    return found


@given(st.dictionaries(st.sampled_from(sorted(DEFAULTS)), VALUES, max_size=3))
def test_every_set_of_fields_is_valid_or_names_one_of_them(values: dict[str, Any]) -> None:
    """The message holds a field that was changed, or one it contradicts; a valid config is made."""
    found = answered(lambda: R2D2Config(**values))
    if isinstance(found, ConfigError):
        words = set(str(found).replace(":", " ").replace(",", " ").split())
        assert words & DEFAULTS.keys(), found
    else:
        check_usable(found)


def check_usable(config: R2D2Config) -> None:
    """No number is what it must not be, and the config survives JSON."""
    for field in fields(config):
        value = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, str):
                assert math.isfinite(number)
                assert abs(number) <= LARGEST.get(field.name, MOST_WHOLE)
    again = presets.from_dict(R2D2Config, json.loads(json.dumps(asdict(config), allow_nan=False)))
    assert again == config


@st.composite
def damaged(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    """config.json with one key changed, lost or misspelt, and that key."""
    stored = json.loads(json.dumps(STORED))
    where = draw(st.sampled_from(["", "env", "config"]))
    part = stored[where] if where else stored
    name = draw(st.sampled_from(sorted(part)))
    how = draw(st.sampled_from(["value", "lost", "misspelt", "another"]))
    if how == "value":
        part[name] = draw(VALUES)
    elif how == "lost":
        del part[name]
    elif how == "misspelt":
        part[name + draw(st.sampled_from("sx_"))] = part.pop(name)
    else:
        part[draw(st.text())] = 1
        name = ""
    return stored, name


@given(damaged())
def test_every_stored_config_is_valid_or_refused_by_name(
    damage: tuple[dict[str, Any], str],
) -> None:
    stored, name = damage
    found = answered(lambda: presets.stored_arguments(stored))
    if isinstance(found, ConfigError):
        assert any(word in str(found) for word in (name, "env", "agent", *DEFAULTS)), found
    else:
        check_usable(found["config"])
        assert type(found["seed"]) is type(found["env_steps"]) is int


@given(st.recursive(st.sampled_from(WRONG), lambda inner: st.dictionaries(st.text(), inner)))
def test_anything_else_is_no_stored_config(stored: Any) -> None:
    assert isinstance(answered(lambda: presets.stored_arguments(stored)), ConfigError)


def test_a_stored_config_that_is_whole_gives_the_arguments_back() -> None:
    found = presets.stored_arguments(json.loads(json.dumps(STORED)))
    assert found.pop("config") == R2D2Config()
    assert (found.pop("env"), found.pop("env_kwargs")) == ("CartPole-v1", {})
    assert found == {name: STORED[name] for name in found}
    assert found.keys() == STORED.keys() - {"env", "config"}


@pytest.mark.parametrize("field", sorted(DEFAULTS))
@pytest.mark.parametrize("wrong", [None, [], {}, object(), math.nan, 10**400, b""])
def test_a_field_of_a_wrong_kind_is_named(field: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(R2D2Config(), **{field: wrong})


@pytest.mark.parametrize("field", sorted(DEFAULTS))
def test_a_misspelt_field_is_told_the_nearest(field: str) -> None:
    for name in (field + "s", field.upper()):
        with pytest.raises(ConfigError, match=f"unknown setting {name}: did you mean {field}"):
            presets.with_settings(R2D2Config(), {name: 1})
        stored = {name if key == field else key: value for key, value in DEFAULTS.items()}
        with pytest.raises(ConfigError, match=f"unknown setting {name}: did you mean {field}"):
            presets.from_dict(R2D2Config, stored)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden", 10**12),
        ("head_hidden", 10**12),
        ("pre_core", 10**9),
        ("torso_sizes", (64, 10**9)),
        ("torso_sizes", (64, 0)),
        ("torso_sizes", (1,) * 10_000),
        ("batch_size", 10**12),
        ("actors", 10**9),
        ("burn_in", 10**12),
        ("n_step", 10**6),
        ("replay_bytes", 10**20),
        ("target_period", 10**30),
        ("learning_rate", 1e30),
        ("adam_epsilon", 1e-300),
    ],
)
def test_an_absurd_size_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{field} must be"):
        replace(R2D2Config(), **{field: value})


def test_sizes_that_are_absurd_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="actors 90,000 times period 90,000 is more than 100,0"):
        R2D2Config(actors=90_000, period=90_000, trace_length=90_000)
    with pytest.raises(ConfigError, match="batch_size 90,000 times trace_length 90,000 is more"):
        R2D2Config(batch_size=90_000, trace_length=90_000)


@pytest.mark.parametrize("array", [ArraySpec((4,)), ArraySpec((84, 84), "uint8")])
@pytest.mark.parametrize("name", sorted(presets.AGENTS))
def test_every_preset_is_far_below_the_limits(name: str, array: ArraySpec) -> None:
    env = EnvSpec("tests/Own-v0", {}, {"observation": array}, ActionSpec(18))
    for preset in presets.AGENTS[name].presets.values():
        config, _ = preset(env, None)
        for together, largest in LARGEST.items():
            values = [getattr(config, field) for field in together.split()]
            if not isinstance(values[0], tuple):
                assert math.prod(values) * 10 <= largest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"agent": 3}, "agent must be a name, got int 3"),
        ({"agent": []}, r"agent must be a name, got list \[\]"),
        ({"env": None}, "env must be the id of a registered environment"),
        ({"env_kwargs": [1]}, r"env_kwargs must be a dict of arguments by name, got list \[1\]"),
        ({"env_kwargs": {1: 2}}, "env_kwargs must have names as keys, got 1"),
        ({"preset": None}, "preset must be a name, got NoneType"),
        ({"seed": "1"}, "seed must be a whole number, got str '1'"),
        ({"seed": True}, "seed must be a whole number, got bool True"),
        ({"seed": 1.5}, "seed must be a whole number, got float 1.5"),
        ({"seed": -1}, "seed must be 0 or more and below 2\\^64, got -1"),
        ({"seed": 2**64}, "seed must be 0 or more and below 2\\^64"),
        ({"env_steps": "5"}, "env_steps must be a whole number, got str '5'"),
        ({"env_steps": math.nan}, "env_steps must be a whole number, got float nan"),
        ({"env_steps": 0}, "env_steps must be 1 or more and at most 2\\^53, got 0"),
        ({"env_steps": 10**30}, "env_steps must be 1 or more and at most 2\\^53"),
        ({"checkpoint_seconds": "1"}, "checkpoint_seconds must be a number, got str"),
        ({"checkpoint_seconds": math.nan}, "checkpoint_seconds must be 0 or more and at most 1e9"),
        ({"keep_checkpoints": 0}, "keep_checkpoints must be 1 or more"),
        ({"keep_checkpoints": 1.0}, "keep_checkpoints must be a whole number, got float"),
        ({"start_from": 3}, "start_from must be the folder of a run"),
        ({"runtime": 3}, "runtime must be a name"),
        ({"network": 3}, "network must be text"),
        ({"settings": [1]}, "settings must be a dict of fields by name"),
        ({"settings": {1: 2}}, "settings must have names as keys"),
    ],
)
def test_an_argument_of_a_wrong_kind_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        presets.check_arguments(**arguments)


def test_what_may_be_left_out_may_be_none() -> None:
    presets.check_arguments(env_kwargs=None, env_steps=None, settings=None, seed=2**64 - 1)


@pytest.mark.parametrize("config", [3, {}, None, R2D2Config])
def test_what_is_no_config_is_refused(config: Any) -> None:
    with pytest.raises(ConfigError, match="config must be an agent's config"):
        presets.with_settings(config, {})


def test_a_value_is_shown_in_one_short_line() -> None:
    class Fails:
        def __repr__(self) -> str:
            raise RuntimeError

    assert shown("a\nb") == "'a\\nb'"
    assert shown(Fails()) == "a value of Fails that cannot be shown"
    assert len(shown("x" * 10**6)) < 100
    assert shown(10**5000) == "a value of int that cannot be shown"  # Python refuses so many digits


SCRIPT = """
import sys
from recollect.cli import lazy, main
lazy.install()
from recollect.envs import registry

def fail(*args, **kwargs):
    raise AssertionError("an environment was made")

registry.make = registry.describe = registry.env_spec = fail
code = main(sys.argv[1:])
loaded = [n for n in ("torch._C", "ray", "numba", "matplotlib") if n in sys.modules]
print("CODE", code, "LOADED", loaded)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--hiddn", "3"],
        ["--hidden", "x"],
        ["--hidden", "1e12"],
        ["--gamma", "nan"],
        ["--env-steps", "0"],
        ["--seed", "-1"],
        ["--env-kwargs", "[1]"],
    ],
)
def test_a_wrong_word_is_told_before_anything_heavy_is_loaded(words: list[str]) -> None:
    """No environment is made, and neither torch nor Ray is there."""
    command = [sys.executable, "-c", SCRIPT, "train", "r2d2", "--env", "CartPole-v1", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "an environment was made" not in done.stderr
    assert "LOADED []" in done.stdout, done.stdout + done.stderr

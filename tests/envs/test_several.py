"""An image, a vector and a text at once, through every way an environment is stepped."""

import subprocess
import sys
import zlib
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from recollect.envs import registry
from recollect.envs.spaces import Encoder, words
from recollect.types import TEXT_BUCKETS, TEXT_WORDS, ArraySpec

SEVERAL = "tests.envs.test_several:Several-v0"


class Several(gym.Env):
    """Frames of noise, a number that counts, and a sentence; episodes of 5 steps."""

    def __init__(self, colour=True):
        shape = (6, 5, 3) if colour else (6, 5)
        self.observation_space = spaces.Dict(
            {
                "camera": spaces.Box(0, 255, shape, np.uint8),
                "count": spaces.Box(-1, 99, (2,), np.float64),
                "told": spaces.Text(200),
            }
        )
        self.action_space = spaces.Discrete(3)

    def _seen(self):
        self.steps += 1
        return {
            "camera": self.np_random.integers(
                0, 256, self.observation_space["camera"].shape, np.uint8
            ),
            "count": np.array([self.steps, -0.5]),
            "told": ["Go LEFT", "", "go  left\tnow " * 10, "très loin"][self.steps % 4],
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = -1
        return self._seen(), {}

    def step(self, action):
        return self._seen(), float(action), False, self.steps >= 5, {}


if "Several-v0" not in gym.registry:
    gym.register("Several-v0", entry_point=Several)


def live(env, steps=14):
    given = [env.reset(np.array([1, 2, 3]))]
    for number in range(steps):
        step = env.step(np.array([number % 3, 1, 2]))
        assert not step.faults
        given.append(step.observation)
        over = step.terminated | step.truncated
        if over.any():
            given.append(env.restart(over, np.array([4, 5, 6]) + number))
    return [{key: (array.dtype, array.tobytes()) for key, array in seen.items()} for seen in given]


@pytest.fixture(scope="module")
def wanted():
    with closing(registry.make(SEVERAL, 3)) as env:
        assert env.spec.observation == {
            "camera": ArraySpec((6, 5, 3), "uint8"),
            "count": ArraySpec((2,), "float32"),
            "told": ArraySpec((TEXT_WORDS,), "int16", "text"),
        }
        return live(env)


def test_supervised_processes_give_the_same(wanted):
    with closing(registry.make(SEVERAL, 3, processes=2)) as env:
        assert live(env) == wanted


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_foreign_vector_gives_the_same_in_every_mode(wanted, mode):
    vector = SyncVectorEnv([Several] * 3, autoreset_mode=mode)
    with closing(registry.wrap(vector, SEVERAL)) as env:
        assert live(env) == wanted


def test_grey_images_too():
    spec = registry.env_spec(SEVERAL, {"colour": False})
    assert spec.observation["camera"] == ArraySpec((6, 5), "uint8")


def test_episodes_with_texts_are_put_back():
    with closing(registry.make(SEVERAL, 3)) as env, closing(registry.make(SEVERAL, 3)) as other:
        env.reset(np.array([1, 2, 3]))
        for _ in range(3):
            env.step(np.array([0, 1, 2]))
        assert other.load_state_dict(env.state_dict()) == {}
        a, b = (vector.step(np.array([0, 1, 2])).observation for vector in (env, other))
        assert all(a[key].tobytes() == b[key].tobytes() for key in a)


def test_words_are_hashed_alike_everywhere():
    row = words("Go  to\tthe RED ball")
    crc = [1 + zlib.crc32(word) % TEXT_BUCKETS for word in (b"go", b"to", b"the", b"red", b"ball")]
    assert row.dtype == np.int16
    assert row.tolist() == crc + [0] * (TEXT_WORDS - 5)
    assert words("").tolist() == [0] * TEXT_WORDS
    assert words("a " * 40).tolist() == [1 + zlib.crc32(b"a") % TEXT_BUCKETS] * TEXT_WORDS
    many = np.concatenate([words(" ".join(f"w{i}" for i in range(k, k + 16))) for k in range(999)])
    assert 1 <= many.min() < many.max() <= TEXT_BUCKETS
    code = "from recollect.envs.spaces import words; print(words('Go  to the RED ball').tolist())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(row.tolist())


def test_what_is_no_text_is_a_fault_by_name():
    encoder = Encoder(spaces.Dict({"told": spaces.Text(9)}), "X-v0")
    assert "'told' is int, its space says Text" in encoder.mismatch({"told": 3})
    assert encoder.mismatch({"told": "three"}) == ""
    with pytest.raises(RuntimeError, match="'told'"):
        encoder.encode({"told": (3, 4)}, range(2), {})

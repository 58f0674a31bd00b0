"""Philox4x32-10: published vectors, a plain Python judge, and what a draw may depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.maths import philox
from recollect.maths.philox import Purpose

WORD = 0xFFFFFFFF
words = st.integers(0, WORD)


def by_loop(key: tuple[int, int], counter: tuple[int, int, int, int]) -> list[int]:
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ([0] * 2, [0] * 4, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([WORD] * 2, [WORD] * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0xA4093822, 0x299F31D0],
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_published_vectors(key: list[int], counter: list[int], expected: str) -> None:
    """The known-answer file of Random123, philox4x32 with 10 rounds."""
    out = philox.bits(*key, *counter)
    assert " ".join(f"{word:08x}" for word in out) == expected
    assert out.dtype == np.uint32
    assert out.shape == (4,)


@given(draws=st.lists(st.tuples(*[words] * 6), min_size=1, max_size=7))
@settings(deadline=None, max_examples=100)
def test_bits_agree_with_a_loop(draws: list[tuple[int, ...]]) -> None:
    out = philox.bits(*np.array(draws, np.uint32).T)
    expected = [by_loop((k0, k1), counter) for k0, k1, *counter in draws]  # type: ignore[arg-type]
    assert out.tolist() == expected


def test_bits_broadcast() -> None:
    rows, columns = np.arange(5)[:, None], np.arange(7, dtype=np.uint8)
    out = philox.bits(1, 2, rows, columns, 3, np.int32(4))
    assert out.shape == (5, 7, 4)
    for i in range(5):
        for j in range(7):
            assert out[i, j].tolist() == by_loop((1, 2), (i, j, 3, 4))
    assert philox.bits(1, 2, np.zeros(0, np.int64), 0, 0, 0).shape == (0, 4)


@given(
    seed=st.integers(0, 2**64 - 1), purpose=st.sampled_from(Purpose), draw=st.tuples(*[words] * 4)
)
@settings(deadline=None, max_examples=100)
def test_uniforms_and_seeds_agree_with_a_loop(
    seed: int, purpose: Purpose, draw: tuple[int, int, int, int]
) -> None:
    slot, episode, epoch, step = draw
    key = (seed % 2**32, (seed // 2**32) ^ purpose)
    w0, w1, w2, w3 = by_loop(key, (step, episode, slot, epoch))
    expected = [((w0 + 2**32 * w1) >> 11) / 2**53, ((w2 + 2**32 * w3) >> 11) / 2**53]
    assert philox.uniforms(seed, purpose, slot, episode, epoch, step).tolist() == expected
    first = by_loop(key, (0, episode, slot, epoch))[0]
    assert philox.seeds(seed, purpose, slot, episode, epoch) == first >> 1


def test_a_draw_does_not_depend_on_its_company() -> None:
    """However slots are grouped over processes, each gets the same numbers."""
    slots, episodes, steps = np.arange(7), np.array([3, 0, 5, 1, 1, 9, 2]), np.arange(7) * 10
    together = philox.uniforms(11, Purpose.EXPLORATION, slots, episodes, 2, steps)
    resets = philox.seeds(11, Purpose.RESET, slots, episodes, 2)
    assert together.dtype == np.float64
    assert together.shape == (7, 2)
    assert resets.dtype == np.int64
    assert resets.shape == (7,)
    for part in (slice(0, 3), slice(3, 7), slice(None, None, -1), slice(0, 7, 2)):
        alone = philox.uniforms(
            11, Purpose.EXPLORATION, slots[part], episodes[part], 2, steps[part]
        )
        assert np.array_equal(alone, together[part])
    for e in range(7):
        of_one = philox.seeds(11, Purpose.RESET, int(slots[e]), int(episodes[e]), 2)
        assert of_one == resets[e]


def test_every_part_of_the_name_matters() -> None:
    base = {"seed": 5, "purpose": 1, "slot": 1, "episode": 1, "epoch": 1, "step": 1}
    names = [base] + [{**base, name: 2} for name in base] + [{**base, "seed": 5 + 2**40}]
    draws = {tuple(philox.uniforms(**name)) for name in names}
    assert len(draws) == len(names)
    # Two counters with their words exchanged are two different names, too.
    assert (
        len({philox.uniforms(5, 1, *p)[0] for p in [(1, 2, 3, 4), (2, 1, 3, 4), (1, 2, 4, 3)]}) == 3
    )


def test_uniforms_are_uniform_and_independent() -> None:
    """100 cells of 1,000 expected draws each: chi-square with 99 degrees of freedom is near 99."""
    u = philox.uniforms(3, Purpose.EXPLORATION, np.arange(100)[:, None], 0, 0, np.arange(1000))
    assert u.min() >= 0
    assert u.max() < 1
    for numbers in (u[..., 0], u[..., 1]):
        counts = np.bincount((numbers.ravel() * 100).astype(int), minlength=100)
        assert ((counts - 1000) ** 2 / 1000).sum() < 99 + 5 * np.sqrt(2 * 99)
    pairs = (u[..., 0] * 10).astype(int) * 10 + (u[..., 1] * 10).astype(int)  # of the same draw
    counts = np.bincount(pairs.ravel(), minlength=100)
    assert ((counts - 1000) ** 2 / 1000).sum() < 99 + 5 * np.sqrt(2 * 99)
    for a, b in ((u[:-1], u[1:]), (u[:, :-1], u[:, 1:])):  # neighbouring slots, then steps
        assert abs(np.corrcoef(a[..., 0].ravel(), b[..., 0].ravel())[0, 1]) < 5 / np.sqrt(
            a.size / 2
        )


def test_uniforms_have_53_bits() -> None:
    scaled = philox.uniforms(1, 1, np.arange(2000), 0, 0, 0) * 2**53
    assert (scaled == np.floor(scaled)).all()
    assert 0.45 < (scaled % 2).mean() < 0.55


def test_seeds_fit_31_bits_and_fill_them() -> None:
    seeds = philox.seeds(0, Purpose.RESET, np.arange(5000), 0, 0)
    assert seeds.min() >= 0
    assert 2**31 * 0.999 < seeds.max() < 2**31
    assert len(np.unique(seeds)) > 4990


def test_wrong_arguments_are_named() -> None:
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=r"seed must be in \[0, 2\^64\), got"):
            philox.uniforms(seed, 1, 0, 0, 0, 0)
        with pytest.raises(ValueError, match=r"seed must be in"):
            philox.seeds(seed, 1, 0, 0, 0)
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match=f"purpose must be in .* got {wrong}"):
            philox.uniforms(1, wrong, 0, 0, 0, 0)
        with pytest.raises(ValueError, match=f"got {wrong}"):
            philox.uniforms(1, 1, np.array([0, wrong]), 0, 0, 0)
        with pytest.raises(ValueError, match=f"got {wrong}"):
            philox.bits(0, wrong, 0, 0, 0, 0)
    with pytest.raises(TypeError):
        philox.uniforms(1, 1, 0, 0, 0, np.array([1.5]))
    with pytest.raises(TypeError):
        philox.uniforms(1.5, 1, 0, 0, 0, 0)  # type: ignore[arg-type]


def test_purposes_keep_their_numbers() -> None:
    """They are part of every recorded run: with another number it would not repeat."""
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "EXPLORATION": 1,
        "RESET": 2,
        "SAMPLING": 3,
        "EVALUATION": 4,
        "EVALUATION_RESET": 5,
        "INITIALISATION": 6,
    }

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from recollect.replay.prioritized import Prioritized


def sampler_of(priorities: list[float], exponent: float) -> Prioritized:
    sampler = Prioritized(exponent)
    sampler.ensure(len(priorities))
    sampler.set(np.arange(len(priorities)), np.array(priorities))
    return sampler


@pytest.mark.parametrize("exponent", [0.9, 0.6])
def test_trap_14_probabilities_are_priorities_to_the_priority_exponent(exponent: float) -> None:
    """S2-8, trap 14: p^0.9 / sum in R2D2, p^0.6 / sum in Ape-X, and no other exponent."""
    priorities = [1.0, 2.0, 5.0]
    weights = [1.0, 2.0**exponent, 5.0**exponent]
    sampler = sampler_of(priorities, exponent)
    assert math.isclose(sampler.mass, sum(weights))
    slots, probabilities = sampler.draw(np.linspace(0.0, 0.999, 50))
    assert set(slots.tolist()) == {0, 1, 2}
    for slot, probability in zip(slots, probabilities, strict=True):
        assert math.isclose(probability, weights[slot] / sum(weights), rel_tol=1e-14)


def test_draws_follow_the_probabilities_they_report() -> None:
    rng = np.random.default_rng(2)
    sampler = sampler_of((rng.random(300) ** 4).tolist(), 0.9)
    sampler.remove(np.arange(0, 300, 7))
    draws = 100_000
    slots, probabilities = sampler.draw(rng.random(draws))
    reported = np.zeros(300)
    reported[slots] = probabilities
    counts = np.bincount(slots, minlength=300)
    often = draws * reported > 5
    chi_square = np.sum((counts[often] - draws * reported[often]) ** 2 / (draws * reported[often]))
    freedom = np.count_nonzero(often)
    assert math.isclose(reported.sum(), 1.0, rel_tol=1e-3)  # all but the rarest were drawn
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("exponent", [0.9, 1.0, 0.0, -0.4])
def test_a_priority_of_zero_stays_zero_for_any_exponent(exponent: float) -> None:
    sampler = sampler_of([0.0, 3.0, 0.0], exponent)
    assert len(sampler) == 3
    assert math.isclose(sampler.mass, 3.0**exponent)
    slots, probabilities = sampler.draw(np.array([0.0, 0.5, 0.9999]))
    assert slots.tolist() == [1, 1, 1]
    assert probabilities.tolist() == [1.0, 1.0, 1.0]


def test_exponent_zero_draws_all_alike_and_a_negative_one_prefers_the_least() -> None:
    _, alike = sampler_of([1.0, 9.0], 0.0).draw(np.array([0.1, 0.9]))
    assert alike.tolist() == [0.5, 0.5]
    _, inverse = sampler_of([1.0, 4.0], -0.5).draw(np.array([0.1, 0.9]))
    assert np.allclose(inverse, [1 / 1.5, 0.5 / 1.5])


def test_a_positive_priority_can_be_drawn_however_small() -> None:
    sampler = sampler_of([5e-324, 0.0], 2.0)  # its square is 0 in float64
    slots, probabilities = sampler.draw(np.array([0.5]))
    assert (slots.tolist(), probabilities.tolist()) == ([0], [1.0])


def test_float32_priorities_are_raised_in_float64() -> None:
    sampler = Prioritized(0.9)
    sampler.set(np.array([0]), np.array([0.1], np.float32))
    assert sampler.mass == float(np.float32(0.1)) ** 0.9


@pytest.mark.parametrize("priority", [math.nan, math.inf, -math.inf, -1e-3])
def test_a_bad_priority_is_refused_and_changes_nothing(priority: float) -> None:
    """R9; a signed error is not a priority."""
    sampler = sampler_of([1.0, 2.0], 0.9)
    mass = sampler.mass
    with pytest.raises(ValueError, match="finite and at least 0: slot 5 was given"):
        sampler.set(np.array([0, 5]), np.array([9.0, priority]))
    assert (sampler.mass, len(sampler)) == (mass, 2)
    sampler.check_valid()


def test_a_power_that_no_sum_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"priority\*\*2.0 must be at most"):
        sampler_of([1e200], 2.0)
    with pytest.raises(ValueError, match=r"priority\*\*-2.0 must be at most"):
        sampler_of([1e-200], -2.0)


@pytest.mark.parametrize("exponent", [math.nan, math.inf])
def test_an_exponent_that_is_not_finite_is_refused(exponent: float) -> None:
    with pytest.raises(ValueError, match="exponent must be finite"):
        Prioritized(exponent)


def test_slots_that_cannot_be_are_refused_and_change_nothing() -> None:
    sampler = sampler_of([1.0, 2.0], 1.0)
    with pytest.raises(ValueError, match="leaf 16 is outside"):
        sampler.set(np.array([0, 16]), np.array([5.0, 5.0]))
    with pytest.raises(ValueError, match="slot 2 is not live"):
        sampler.remove(np.array([0, 2]))
    with pytest.raises(ValueError, match="slot -1 is not live"):
        sampler.remove(np.array([-1]))
    with pytest.raises(ValueError, match="given twice"):
        sampler.remove(np.array([0, 1, 0]))
    with pytest.raises(ValueError, match="slots must be integers"):
        sampler.set(np.array([0.0]), np.array([5.0]))
    with pytest.raises(ValueError, match="one priority"):
        sampler.set(np.array([0, 1]), np.array([5.0]))
    assert (sampler.mass, len(sampler)) == (3.0, 2)


def test_nothing_can_be_drawn_without_mass() -> None:
    for sampler in (Prioritized(0.9), sampler_of([0.0], 0.9)):
        with pytest.raises(RuntimeError, match="nothing to find"):
            sampler.draw(np.array([0.5]))


def test_a_slot_drawn_and_written_back_keeps_the_tree_sound() -> None:
    rng = np.random.default_rng(0)
    sampler = sampler_of(rng.random(500).tolist(), 0.9)
    for _ in range(50):
        slots, _ = sampler.draw(rng.random(64))  # with repeats
        sampler.set(slots, rng.random(64) * 3)
    sampler.check_valid()
    assert len(sampler) == 500


def test_mass_in_a_slot_that_is_not_live_is_noticed() -> None:
    sampler = sampler_of([1.0, 2.0], 1.0)
    sampler._tree.set(np.array([5]), np.array([1.0]))
    with pytest.raises(RuntimeError, match=r"\[5\] are not live"):
        sampler.check_valid()
    sampler = sampler_of([1.0, 2.0], 1.0)
    sampler._count = 3
    with pytest.raises(RuntimeError, match="3 slots were counted, 2 are live"):
        sampler.check_valid()


def test_a_restored_sampler_goes_on_identically() -> None:
    rng = np.random.default_rng(0)
    sampler = sampler_of([0.0, *rng.random(99)], 0.9)
    sampler.remove(np.array([4, 50]))
    state = sampler.state_dict()
    restored = Prioritized(0.9)
    restored.load_state_dict(state)
    sampler.set(np.array([4]), np.array([2.0]))  # of which neither the state nor its reader hears
    assert not state["live"][4]
    assert (len(sampler), len(restored)) == (99, 98)
    for one in (sampler, restored):
        one.set(np.array([4, 7]), np.array([2.0, 3.0]))
        one.remove(np.array([0]))
        one.check_valid()
    uniforms = rng.random(300)
    for ours, theirs in zip(sampler.draw(uniforms), restored.draw(uniforms), strict=True):
        assert np.array_equal(ours, theirs)
    assert (len(restored), restored.capacity) == (len(sampler), sampler.capacity)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    sampler = sampler_of([1.0, 2.0], 0.9)
    state = sampler.state_dict()
    with pytest.raises(ValueError, match=r"raised to 0.9, wanted is 0.6"):
        Prioritized(0.6).load_state_dict(state)
    for damage in (
        {"live": np.zeros(16, np.bool_)},
        {"live": state["live"][:5]},
        {"values": np.full(16, math.nan)},
        {"values": np.r_[-1.0, np.zeros(15)]},
    ):
        mass = sampler.mass
        with pytest.raises(ValueError, match="damaged"):
            sampler.load_state_dict({**state, **damage})
        assert (sampler.mass, len(sampler)) == (mass, 2)
        sampler.check_valid()


def test_the_slots_are_told_in_rising_order() -> None:
    sampler = sampler_of([1.0, 0.0, 2.0], 0.9)
    sampler.remove(np.array([0]))
    assert sampler.slots().tolist() == [1, 2]  # one that is never drawn is live all the same


class Machine(RuleBasedStateMachine):
    """D1: against a dict from slot to priority."""

    @initialize(exponent=st.sampled_from([0.9, 0.6, 0.0, 1.0, -0.4]))
    def begin(self, exponent: float) -> None:
        self.exponent = exponent
        self.sampler = Prioritized(exponent)
        self.model: dict[int, float] = {}

    @rule(
        writes=st.lists(
            st.tuples(st.integers(0, 60), st.one_of(st.just(0.0), st.floats(1e-6, 1e6))),
            max_size=40,
        )
    )
    def write(self, writes: list[tuple[int, float]]) -> None:
        slots = np.array([slot for slot, _ in writes], np.int64)
        self.sampler.ensure(int(slots.max(initial=0)) + 1)
        self.sampler.set(slots, np.array([priority for _, priority in writes]))
        self.model.update(writes)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.model:
            gone = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True))
            self.sampler.remove(np.array(gone, np.int64))
            for slot in gone:
                del self.model[slot]

    @rule()
    def save_and_load(self) -> None:
        state = self.sampler.state_dict()
        self.sampler = Prioritized(self.exponent)
        self.sampler.load_state_dict(state)

    @invariant()
    def agrees(self) -> None:
        self.sampler.check_valid()
        assert len(self.sampler) == len(self.model)
        weights = {slot: p**self.exponent for slot, p in self.model.items() if p > 0.0}
        assert math.isclose(self.sampler.mass, math.fsum(weights.values()), rel_tol=1e-12)
        if weights:
            # One number inside each slot's share.
            order = sorted(weights)
            shares = np.array([weights[slot] for slot in order]) / math.fsum(weights.values())
            slots, probabilities = self.sampler.draw(np.cumsum(shares) - shares / 2)
            wide = shares > 1e-12
            assert slots[wide].tolist() == np.array(order)[wide].tolist()
            assert np.allclose(probabilities[wide], shares[wide], rtol=1e-12)
            assert set(slots.tolist()) <= set(weights)


Machine.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=20)
TestAgainstADict = Machine.TestCase

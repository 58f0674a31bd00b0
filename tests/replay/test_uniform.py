from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from recollect.replay.uniform import Uniform


def sampler_of(slots: list[int]) -> Uniform:
    sampler = Uniform()
    sampler.ensure(max(slots) + 1)
    sampler.set(np.array(slots), np.ones(len(slots)))
    return sampler


def test_live_slots_are_drawn_alike() -> None:
    slots, probabilities = sampler_of([3, 8, 5, 1]).draw(np.array([0.0, 0.25, 0.5, 0.75, 0.99]))
    assert slots.tolist() == [3, 8, 5, 1, 1]
    assert probabilities.tolist() == [1 / 4] * 5


def test_draws_are_uniform() -> None:
    rng = np.random.default_rng(0)
    sampler = sampler_of(list(range(200)))
    sampler.remove(np.arange(0, 200, 3))
    draws = 100_000
    slots, _ = sampler.draw(rng.random(draws))
    counts = np.bincount(slots, minlength=200)
    assert not counts[::3].any()
    live = np.flatnonzero(np.arange(200) % 3)
    expected = draws / len(live)
    chi_square = np.sum((counts[live] - expected) ** 2 / expected)
    assert abs(chi_square - len(live)) < 5 * math.sqrt(2 * len(live))


def test_priorities_are_ignored_whatever_they_are() -> None:
    sampler = Uniform()
    sampler.set(np.array([0, 1, 2]), np.array([0.0, 1e9, math.nan]))
    assert (len(sampler), sampler.mass) == (3, 3.0)
    assert sampler.draw(np.array([0.1, 0.5, 0.9]))[0].tolist() == [0, 1, 2]


def test_a_slot_set_again_is_not_drawn_more_often() -> None:
    sampler = sampler_of([2, 7, 2, 2])
    sampler.set(np.array([7, 7]), np.ones(2))
    assert len(sampler) == 2
    assert sampler.draw(np.array([0.1, 0.9]))[0].tolist() == [2, 7]


def test_the_hole_of_a_removed_slot_is_filled_by_the_last() -> None:
    sampler = sampler_of([4, 3, 2, 1, 0])
    sampler.remove(np.array([3]))
    assert sampler.draw(np.arange(4) / 4)[0].tolist() == [4, 0, 2, 1]
    sampler.remove(np.array([1, 4]))  # one of them in the tail
    assert sampler.draw(np.arange(2) / 2)[0].tolist() == [2, 0]


def test_just_below_one_draws_the_last_slot() -> None:
    for count in (1, 3, 7, 1000):
        slots, _ = sampler_of(list(range(count))).draw(np.array([math.nextafter(1.0, 0.0)]))
        assert slots.tolist() == [count - 1]


@pytest.mark.parametrize("uniform", [-1e-9, 1.0, math.nan])
def test_a_uniform_outside_its_range_is_refused(uniform: float) -> None:
    with pytest.raises(ValueError, match=r"uniform must be in \[0, 1\)"):
        sampler_of([1]).draw(np.array([0.5, uniform]))


def test_nothing_can_be_drawn_without_slots() -> None:
    with pytest.raises(RuntimeError, match="there are no slots"):
        Uniform().draw(np.array([0.5]))


def test_slots_that_cannot_be_are_refused_and_change_nothing() -> None:
    sampler = sampler_of([0, 1])
    for slot in (-1, 16):
        with pytest.raises(ValueError, match=rf"slot {slot} is outside \[0, 16\)"):
            sampler.set(np.array([5, slot]), np.ones(2))
        with pytest.raises(ValueError, match=rf"slot {slot} is not live"):
            sampler.remove(np.array([0, slot]))
    with pytest.raises(ValueError, match="slot 2 is not live"):
        sampler.remove(np.array([0, 2]))
    with pytest.raises(ValueError, match="given twice"):
        sampler.remove(np.array([0, 1, 0]))
    with pytest.raises(ValueError, match="slots must be integers"):
        sampler.set(np.array([0.0]), np.ones(1))
    with pytest.raises(ValueError, match="one priority"):
        sampler.set(np.array([0, 1]), np.ones(1))
    assert sampler.draw(np.array([0.1, 0.9]))[0].tolist() == [0, 1]
    sampler.check_valid()


def test_a_wrong_place_is_noticed() -> None:
    sampler = sampler_of([0, 1])
    sampler._place[0] = 1
    with pytest.raises(RuntimeError, match="does not stand where"):
        sampler.check_valid()
    sampler = sampler_of([0, 1])
    sampler._place[5] = 1
    with pytest.raises(RuntimeError, match="2 slots were counted"):
        sampler.check_valid()


def test_a_restored_sampler_goes_on_identically() -> None:
    rng = np.random.default_rng(0)
    sampler = sampler_of(rng.permutation(100).tolist())
    sampler.remove(rng.permutation(100)[:37])
    restored = Uniform()
    restored.load_state_dict(sampler.state_dict())
    gone = sampler.draw(np.array([0.3]))[0]
    for one in (sampler, restored):
        one.remove(gone)
        one.set(np.array([99, 98, 97]), np.ones(3))
        one.check_valid()
    uniforms = rng.random(300)
    assert np.array_equal(sampler.draw(uniforms)[0], restored.draw(uniforms)[0])
    assert restored.capacity == sampler.capacity


def test_a_damaged_state_is_refused_and_changes_nothing() -> None:
    sampler = sampler_of([3, 1])
    for places in ([0, 0], [1, -1], [0, 2], [-2, 0], [2**62, 0]):
        with pytest.raises(ValueError, match="places of live slots do not fit"):
            sampler.load_state_dict({"places": np.array(places)})
        assert sampler.draw(np.array([0.1, 0.9]))[0].tolist() == [3, 1]


def test_the_slots_are_told_in_rising_order() -> None:
    assert sampler_of([7, 3, 5]).slots().tolist() == [3, 5, 7]
    assert Uniform().slots().tolist() == []


def test_uniform_replay_does_not_load_numba() -> None:
    script = "import sys, recollect.replay.uniform; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


class Machine(RuleBasedStateMachine):
    """D1: against a list whose order is that of the draws."""

    @initialize()
    def begin(self) -> None:
        self.sampler = Uniform()
        self.model: list[int] = []

    @rule(slots=st.lists(st.integers(0, 60), max_size=30))
    def write(self, slots: list[int]) -> None:
        self.sampler.ensure(max(slots, default=0) + 1)
        self.sampler.set(np.array(slots, np.int64), np.zeros(len(slots)))
        for slot in slots:
            if slot not in self.model:
                self.model.append(slot)

    @rule(data=st.data())
    def remove_one(self, data: st.DataObject) -> None:
        if self.model:
            slot = data.draw(st.sampled_from(self.model))
            self.sampler.remove(np.array([slot]))
            self.model[self.model.index(slot)] = self.model[-1]
            self.model.pop()

    @rule(data=st.data())
    def remove_many(self, data: st.DataObject) -> None:
        if self.model:
            gone = data.draw(st.lists(st.sampled_from(self.model), unique=True))
            self.sampler.remove(np.array(gone, np.int64))
            kept = len(self.model) - len(gone)
            movers = iter([slot for slot in self.model[kept:] if slot not in gone])
            self.model = [next(movers) if slot in gone else slot for slot in self.model[:kept]]

    @rule()
    def save_and_load(self) -> None:
        state = self.sampler.state_dict()
        self.sampler = Uniform()
        self.sampler.load_state_dict(state)

    @invariant()
    def agrees(self) -> None:
        self.sampler.check_valid()
        count = len(self.model)
        assert (len(self.sampler), self.sampler.mass) == (count, float(count))
        if count:
            slots, probabilities = self.sampler.draw((np.arange(count) + 0.5) / count)
            assert slots.tolist() == self.model
            assert probabilities.tolist() == [1.0 / count] * count


Machine.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=20)
TestAgainstAList = Machine.TestCase

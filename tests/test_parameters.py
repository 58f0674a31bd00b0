"""The parameter service keeps the newest version and its own bytes."""

from __future__ import annotations

import numpy as np
import pytest

from recollect.parameters import Parameters, Version


def test_versions_are_compared_by_epoch_and_then_by_updates() -> None:
    parameters = Parameters()
    assert parameters.version() is None
    parameters.publish(Version(0, 90), np.full(3, 1.0))
    parameters.publish(Version(1, 10), np.full(3, 2.0))
    parameters.publish(Version(0, 91), np.full(3, 3.0))
    latest = parameters.latest()
    assert latest is not None
    assert latest.version == Version(1, 10), "a restarted learner's parameters are newer"
    np.testing.assert_array_equal(latest.vector, [2, 2, 2])
    assert parameters.metrics() == {"published": 2.0}


def test_latest_answers_only_with_something_newer() -> None:
    parameters = Parameters()
    parameters.publish(Version(0, 1), np.zeros(2))
    assert parameters.latest(Version(0, 0)) is not None
    assert parameters.latest(Version(0, 1)) is None


def test_what_was_published_does_not_change_behind_the_services_back() -> None:
    parameters, vector = Parameters(), np.zeros(2)
    parameters.publish(Version(0, 0), vector)
    vector[:] = 7
    latest = parameters.latest()
    assert latest is not None
    np.testing.assert_array_equal(latest.vector, [0, 0])
    with pytest.raises(ValueError, match="read-only"):
        latest.vector[0] = 1


def test_what_was_saved_comes_back_and_stays_its_owners() -> None:
    parameters, other = Parameters(), Parameters()
    parameters.publish(Version(2, 1), np.arange(3.0))
    parameters.publish(Version(2, 5), np.arange(3.0))
    state = parameters.state_dict()
    saved = {**state, "latest": {**state["latest"], "vector": np.arange(3, dtype=np.float32)}}
    other.load_state_dict(saved)
    saved["latest"]["vector"][0] = 7
    latest = other.latest(Version(2, 4))
    assert latest is not None
    assert latest.version == Version(2, 5)
    assert latest.vector.tolist() == [0, 1, 2]
    assert other.metrics() == {"published": 2.0}
    with pytest.raises(ValueError, match="read-only"):
        latest.vector[0] = 1
    other.load_state_dict(Parameters().state_dict())
    assert other.latest() is None

"""The parameter service: publish and latest. It holds the bytes itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from recollect import states
from recollect.types import Array, Metrics


class Version(NamedTuple):
    """(epoch, updates), compared in that order: a restarted learner's parameters are newer."""

    epoch: int
    updates: int

    @classmethod
    def restored(cls, saved: Any) -> Version:
        """The version that was saved as a list; ValueError if that is none."""
        if not isinstance(saved, list) or len(saved) != 2:
            raise ValueError(f"a version is an epoch and updates, {saved!r} came")
        numbers = dict(zip(cls._fields, saved, strict=True))
        return cls(*(states.count(numbers, name) for name in cls._fields))


class Published(NamedTuple):
    """One version of the parameters: `vector` [P] float32, read-only."""

    version: Version
    vector: Array


class Parameters:
    """The latest published parameters of one network."""

    def __init__(self) -> None:
        self._latest: Published | None = None
        self._published = 0

    def publish(self, version: Version, vector: Array) -> None:
        """Make `vector` [P] the latest; one older than the latest is ignored."""
        if self._latest is not None and version < self._latest.version:
            return
        own = np.array(vector, np.float32, copy=True)
        own.setflags(write=False)
        self._latest = Published(Version(*version), own)
        self._published += 1

    def version(self) -> Version | None:
        """Version of the latest parameters, None before the first."""
        return None if self._latest is None else self._latest.version

    def latest(self, newer_than: Version | None = None) -> Published | None:
        """The latest parameters, or None if there are none newer than `newer_than`."""
        if self._latest is None or (newer_than is not None and self._latest.version <= newer_than):
            return None
        return self._latest

    def state_dict(self) -> dict[str, Any]:
        """The latest version, if there is one, and how many were published."""
        latest = self._latest and {
            "version": list(self._latest.version),
            "vector": self._latest.vector,
        }
        return {"published": self._published, "latest": latest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; ValueError, and nothing changed, if it is damaged."""
        published, saved = states.count(state, "published"), states.member(state, "latest")
        latest = None
        if saved is not None:
            vector = states.column(saved, "vector", np.float32)
            if self._latest is not None and len(vector) != len(self._latest.vector):
                raise ValueError(
                    f"{len(vector)} parameters were saved, {len(self._latest.vector)} were wanted"
                )
            vector.setflags(write=False)
            latest = Published(Version.restored(states.member(saved, "version")), vector)
        self._latest, self._published = latest, published

    def metrics(self) -> Metrics:
        """`published`: versions published so far."""
        return {"published": float(self._published)}

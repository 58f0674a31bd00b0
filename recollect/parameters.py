"""The parameter service: publish and latest. It holds the bytes itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recollect.types import Array, Metrics


class Version(NamedTuple):
    """(epoch, updates), compared in that order: a restarted learner's parameters are newer."""

    epoch: int
    updates: int


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

    def metrics(self) -> Metrics:
        """`published`: versions published so far."""
        return {"published": float(self._published)}

"""The parameter service: publish and latest. It holds the bytes itself."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recollect import states
from recollect.messages import DEADLINE, Handle, Pending, Posts, Shared, unless_lost
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


class Lag(NamedTuple):
    """How far parameters are behind the latest, in the updates of their versions and in seconds.

    The seconds are those since the first newer version was published: 0 for the latest.
    """

    updates: int
    seconds: float


class Parameters:
    """The latest published parameters of one network."""

    REMEMBERED = 1024
    """Publications of which the time is known, for `lag`."""

    def __init__(self) -> None:
        self._latest: Published | None = None
        self._published = 0
        self._times: deque[tuple[Version, float]] = deque(maxlen=self.REMEMBERED)

    def publish(self, version: Version, vector: Array) -> None:
        """Make `vector` [P] the latest; one older than the latest is ignored."""
        if self._latest is not None and version < self._latest.version:
            return
        own = np.array(vector, np.float32, copy=True)
        own.setflags(write=False)
        self._latest = Published(Version(*version), own)
        self._published += 1
        self._times.append((self._latest.version, time.monotonic()))

    def version(self) -> Version | None:
        """Version of the latest parameters, None before the first."""
        return None if self._latest is None else self._latest.version

    def latest(self, newer_than: Version | None = None) -> Published | None:
        """The latest parameters, or None if there are none newer than `newer_than`."""
        if self._latest is None or (newer_than is not None and self._latest.version <= newer_than):
            return None
        return self._latest

    def fetch(
        self, newer_than: Version | None = None
    ) -> tuple[Version | None, tuple[Version, Shared] | None]:
        """The latest version, and `latest(newer_than)`, for who asks from another process."""
        found = self.latest(newer_than)
        return self.version(), found and (found.version, Shared(found.vector))

    def lag(self, version: Version) -> Lag:
        """How far `version` is behind the latest; what is older than is remembered counts less."""
        if self._latest is None or version >= self._latest.version:
            return Lag(0, 0.0)
        newer = [at for published, at in self._times if published > version]
        seconds = time.monotonic() - newer[0] if newer else 0.0
        # A learner that was restarted may have gone back.
        return Lag(max(0, self._latest.version.updates - version.updates), seconds)

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
        self._times.clear()

    def metrics(self) -> Metrics:
        """`published`: versions published so far."""
        return {"published": float(self._published)}


class FarParameters:
    """The parameter service in another process, as those who publish or act with them hold it.

    While the service is gone, answers are what is known, and what is published is lost and counted:
    its learner publishes again once it was replaced.

    Args:
        services: a handle of `Parameters`, the only one.

    Nothing here raises for a service that died, but all may:
        PartSilentError: it does not answer in time.
        FencedError: we were replaced.
    """

    ASK_SECONDS = 1.0
    """The version that is known is at most so old, plus the way; before the first, less."""

    def __init__(self, services: Sequence[Handle]) -> None:
        (self._service,) = services
        self.posts = Posts(most=2)
        self._version: Version | None = None
        self._question: Pending | None = None
        self._asked = -1e9
        self._lag = Lag(0, 0.0)

    def publish(self, version: Version, vector: Array) -> None:
        """Send parameters [P]; waits only while two earlier ones are on their way."""
        self.posts.add(self._service.ask("publish", version, vector), vector.nbytes)

    def version(self) -> Version | None:
        """Version of the latest parameters as far as is known, None before the first."""
        if self._question is not None and self._question.ready():
            question, self._question = self._question, None
            self._hear(unless_lost(question))
        now = time.monotonic()
        period = 0.01 if self._version is None else self.ASK_SECONDS
        if self._question is None and now - self._asked >= period:
            self._asked, self._question = now, self._service.ask("version")
        return self._version

    def latest(self, newer_than: Version | None = None) -> Published | None:
        """The latest parameters, or None if none newer can be had; waits for the answer."""
        version, found = unless_lost(self._service.ask("fetch", newer_than), (None, None))
        self._hear(version)
        return None if found is None else Published(Version(*found[0]), found[1])

    def lag(self, version: Version) -> Lag:
        """As `Parameters.lag`; waits for the answer. While the service is gone, the last one."""
        self._lag = Lag(*unless_lost(self._service.ask("lag", version), self._lag))
        return self._lag

    def _hear(self, version: Version | None) -> None:
        """Take in a version, unless a newer one was heard of before."""
        if version is not None and (self._version is None or version > self._version):
            self._version = Version(*version)

    def flush(self, seconds: float = DEADLINE) -> None:
        """Wait until all that was published has arrived."""
        self.posts.flush(seconds)

    def send(self) -> None:
        """Nothing waits to be sent."""
        self.posts.look()

"""Which steps of an episode are learned from together: the geometry of windows.

Window k of an episode of T steps learns the steps [k period, min(k period + trace, T)). It exists
if k = 0 or if window k - 1 stopped before the episode's end, so every step is learned in some
window and none is shifted back. Before the learned steps stands a prefix of exactly `burn_in`
steps, or none where the episode is not old enough for a whole one; after them up to `tail` steps
that only serve the bootstrap of n-step returns.

    steps     kP - l       kP             kP + M     kP + M + n
              | prefix     | learned      | tail     | closing observation
    columns   0            l              l + M      l + M + n

With P = `period`, l = `burn_in`, M = `trace` and n = `tail`. A window without a prefix keeps its
columns: its first learned step stands at column l, and the columns before are masked.

Source: Kapturowski et al. 2019, section 2.3 and appendix (M = 80, l = 40 or 20, a start every 40);
what happens at an episode's ends is not stated there and is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from recollect.types import ConfigError


@dataclass(frozen=True)
class Window:
    """One window of an episode, in the episode's own steps.

    `start` is the first learned step; `prefix` steps stand before it, `learned` steps begin with it
    and `tail` steps follow them. The window's observations are those numbered
    [start - prefix, start + learned + tail], both ends included.
    """

    start: int
    prefix: int
    learned: int
    tail: int

    @property
    def first(self) -> int:
        """The first step, of the prefix if there is one."""
        return self.start - self.prefix

    @property
    def stop(self) -> int:
        """One past the last step, which is the number of the closing observation."""
        return self.start + self.learned + self.tail


@dataclass(frozen=True)
class Windows:
    """The windows of every episode: see the module for the picture.

    Args:
        burn_in: l >= 0, steps of the prefix.
        trace: M >= 1, steps learned from.
        period: P in [1, trace], steps from one window's start to the next one's; also the length of
            a block.
        tail: n >= 0, steps after the learned ones: `n_step`, or 0 to shorten n-step returns there.
        trajectory: whole episodes instead (DRQN's sequential updates): one window per episode,
            all its steps learned, of whatever length; see `trajectories`.

    Raises:
        ConfigError: a value out of its range.
    """

    burn_in: int
    trace: int
    period: int
    tail: int
    trajectory: bool = False

    def __post_init__(self) -> None:
        for name, least in (("burn_in", 0), ("trace", 1), ("period", 1), ("tail", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"{name} must be a whole number of at least {least}, not {value!r}"
                )
        if self.period > self.trace:
            raise ConfigError(
                f"period {self.period} is longer than trace_length {self.trace}, so steps between "
                "two windows would never be learned from: shorten period or raise trace_length"
            )
        if self.trajectory and (self.burn_in, self.tail, self.trace) != (0, 0, self.period):
            raise ConfigError(
                f"whole episodes have no burn_in ({self.burn_in}), no tail ({self.tail}) and no "
                f"trace ({self.trace}): use Windows.trajectories(period)"
            )

    @classmethod
    def trajectories(cls, period: int) -> Windows:
        """One window per episode, over blocks of `period` steps.

        Source: Hausknecht and Stone 2015, section 4.2, bootstrapped sequential updates.
        """
        return cls(burn_in=0, trace=period, period=period, tail=0, trajectory=True)

    @property
    def steps(self) -> int:
        """Steps l + M + n of the longest window; a batch has one more observation.

        Raises:
            RuntimeError: for whole episodes, which have no fixed length.
        """
        if self.trajectory:
            raise RuntimeError("whole episodes have no fixed length: read it off the batch")
        return self.burn_in + self.trace + self.tail

    @property
    def state_offsets(self) -> tuple[int, ...]:
        """Where in a block a window or a prefix may begin: there the block carries a state."""
        return tuple(sorted({0, -self.burn_in % self.period}))

    @property
    def blocks(self) -> int:
        """The most blocks one window lies in, its closing observation included.

        It is also the most blocks that a running episode has to keep for windows to come, when
        blocks are inserted one by one. For whole episodes, where there is no such number, 1.
        """
        if self.trajectory:
            return 1
        return (-self.burn_in % self.period + self.steps) // self.period + 1

    def exists(self, k: int, episode_steps: int) -> bool:
        """Whether an episode of `episode_steps` T >= 1 steps has a window k >= 0."""
        if k == 0 or self.trajectory:
            return k == 0
        return (k - 1) * self.period + self.trace < episode_steps

    def window(self, k: int, episode_steps: int) -> Window:
        """Window k of an episode of `episode_steps` steps.

        Of a running episode, `episode_steps` may be the steps so far, once the window is `ready`.

        Raises:
            ValueError: there is no such window.
        """
        if k < 0 or episode_steps < 1 or not self.exists(k, episode_steps):
            raise ValueError(f"an episode of {episode_steps} steps has no window {k}")
        if self.trajectory:
            return Window(0, 0, episode_steps, 0)
        start = k * self.period
        prefix = self.burn_in if start >= self.burn_in else 0
        learned = min(self.trace, episode_steps - start)
        return Window(start, prefix, learned, min(self.tail, episode_steps - start - learned))

    def windows_of(self, episode_steps: int) -> list[Window]:
        """All windows of an episode of `episode_steps` >= 1 steps, in order."""
        found: list[Window] = []
        while self.exists(len(found), episode_steps):
            found.append(self.window(len(found), episode_steps))
        return found

    def ready(self, k: int, steps_inserted: int, ended: bool) -> bool:
        """Whether window k is there, and all its observations lie in blocks inserted so far.

        Args:
            k: number of the window.
            steps_inserted: steps S of the episode in those blocks: they hold the observations
                0 .. S - 1, and S too if the episode has ended.
            ended: whether the episode's last block is among them, so that T = S.
        """
        if ended:
            return self.exists(k, steps_inserted)
        if self.trajectory:
            return False
        return k * self.period + self.trace + self.tail < steps_inserted

    def oldest_block(self, k: int) -> int:
        """The first block that window k or any later one may need.

        It never falls as k rises, although window k alone may need fewer blocks: where k period <
        burn_in <= (k + 1) period, window k begins later than window k + 1 with its prefix.
        """
        if self.trajectory:
            return 0
        return max(0, k * self.period - self.burn_in) // self.period

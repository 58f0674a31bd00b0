"""How much replay takes, and whether a capacity can be."""

from __future__ import annotations

from recollect.replay.blocks import BlockSpec
from recollect.replay.contents import BLOCK_OVERHEAD, ITEM_OVERHEAD
from recollect.replay.windows import Windows
from recollect.types import ConfigError


def memory_need(spec: BlockSpec, windows: Windows, capacity_steps: int) -> int:
    """Bytes that replay of `capacity_steps` steps takes at most, all in: if nothing can be packed.

    capacity / P blocks, each of P steps, a closing observation and one item, with the overhead of
    each. Episodes shorter than P take more per step, for their blocks are shorter: up to a whole
    block's overhead for an episode of one step. `capacity_bytes` bounds that too.

    Raises:
        ConfigError: blocks and windows of different periods.
    """
    _check_fit(spec, windows)
    blocks = -(-capacity_steps // spec.period)
    return blocks * (spec.nbytes(spec.period, True) + BLOCK_OVERHEAD + ITEM_OVERHEAD)


def check_capacity(
    spec: BlockSpec, windows: Windows, capacity_steps: int | None, capacity_bytes: int | None
) -> None:
    """Raise what `Replay` would.

    Raises:
        ConfigError: no capacity; one too small for a single window; blocks that do not
            serve the windows.
    """
    _check_fit(spec, windows)
    if capacity_steps is None and capacity_bytes is None:
        raise ConfigError("give replay a capacity, in steps, in bytes or both")
    block = spec.nbytes(spec.period, True) + BLOCK_OVERHEAD
    for capacity, least, unit in (
        (capacity_steps, windows.blocks * spec.period, "steps"),
        (capacity_bytes, windows.blocks * block + ITEM_OVERHEAD, "bytes"),
    ):
        if capacity is not None and capacity < least:
            raise ConfigError(
                f"a replay of {capacity:,} {unit} cannot hold one window, which lies in up to "
                f"{windows.blocks} blocks: {least:,} {unit} are the least"
            )


def _check_fit(spec: BlockSpec, windows: Windows) -> None:
    if spec.period != windows.period or not set(windows.state_offsets) <= set(spec.state_offsets):
        raise ConfigError(
            f"blocks of {spec.period} steps with states at {spec.state_offsets} do not serve "
            f"windows of period {windows.period} that begin at {windows.state_offsets} in a block: "
            "make the block spec from the windows"
        )

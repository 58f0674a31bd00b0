from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from recollect.replay.blocks import Block, BlockSpec
from recollect.replay.copying import copy_pieces, fill_cells
from recollect.replay.memory import ALIGNMENT
from recollect.types import Array, ArraySpec, ConfigError


def make_spec(**change: Any) -> BlockSpec:
    settings: dict[str, Any] = {
        "observation": {"screen": ArraySpec((2, 3), "uint8"), "level": ArraySpec((), "float32")},
        "action": ArraySpec((), "int64"),
        "state_size": 7,
        "period": 5,
        "state_offsets": (0, 3),
        "stack": 3,
    }
    return BlockSpec(**{**settings, **change})


def fields(spec: BlockSpec, steps: int, last: bool) -> dict[str, Any]:
    """What an actor would give, all values different."""
    rows = spec.stack - 1 + steps + last
    states = sum(offset < steps for offset in spec.state_offsets)
    discrete = np.dtype(spec.action.dtype).kind == "i"
    actions = np.arange(1, 1 + steps * max(1, int(np.prod(spec.action.shape))))
    return {
        "observations": {
            key: (np.arange(rows * int(np.prod(s.shape))) % 251 + i)
            .astype(s.dtype)
            .reshape(rows, *s.shape)
            for i, (key, s) in enumerate(spec.observation.items())
        },
        "actions": actions.astype(spec.action.dtype).reshape(steps, *spec.action.shape),
        "rewards": 100 + np.arange(steps, dtype=np.float32),
        "discounts": np.linspace(0.5, 0, steps, dtype=np.float32),
        "states": np.arange(states * spec.state_size, dtype=np.float32).reshape(
            states, spec.state_size
        ),
        "previous_action": -1 if discrete else spec.action.zeros(),
        "previous_reward": 0.25,
    }


def build(spec: BlockSpec, steps: int = 5, last: bool = False, **change: Any) -> Block:
    header = {"episode": 11, "index": 4, "last": last}
    return Block.build(spec, **{**header, **fields(spec, steps, last), **change})


@pytest.mark.parametrize(("steps", "last"), [(5, False), (5, True), (2, True), (4, True)])
@pytest.mark.parametrize("box", [False, True])
def test_a_block_holds_what_it_was_built_from(steps: int, last: bool, box: bool) -> None:
    spec = make_spec(action=ArraySpec((2,), "float32")) if box else make_spec()
    given = fields(spec, steps, last)
    block = build(spec, steps, last)
    assert (block.episode, block.index, block.steps, block.last) == (11, 4, steps, last)
    for key, array in given["observations"].items():
        np.testing.assert_array_equal(block.observation[key], array, strict=True)
        np.testing.assert_array_equal(block.context[key], array[:2], strict=True)
    for name in ("action", "reward", "discount"):
        np.testing.assert_array_equal(getattr(block, name), given[name + "s"], strict=True)
    np.testing.assert_array_equal(block.states, given["states"], strict=True)
    np.testing.assert_array_equal(block.previous_action, given["previous_action"])
    assert block.previous_reward == 0.25


def test_fields_do_not_overlap_and_are_aligned() -> None:
    spec = make_spec()
    for last in (False, True):
        for steps in range(spec.period + 1):
            starts = spec.offsets[int(last), steps]
            assert (starts % ALIGNMENT == 0).all()
            sizes = [spec.rows(i, steps, last) * f.spec.nbytes for i, f in enumerate(spec.fields)]
            assert (np.diff(starts) >= sizes).all()
            assert (np.diff(starts) < np.array(sizes) + ALIGNMENT).all()
    assert build(spec).address % ALIGNMENT == 0


def test_the_layout_does_not_depend_on_the_order_of_keys() -> None:
    spec = make_spec()
    other = make_spec(observation=dict(reversed(spec.observation.items())))
    assert other == spec
    assert bytes(build(other, **fields(spec, 5, False)).buffer) == bytes(build(spec).buffer)


def test_states_are_kept_at_the_offsets_below_the_blocks_length() -> None:
    spec = make_spec(state_offsets=(0, 3))
    assert build(spec, steps=3, last=True).states.shape == (1, 7)
    assert build(spec, steps=4, last=True).states.shape == (2, 7)
    every = make_spec(state_offsets=(0, 1, 2, 3, 4))
    assert every.every_state
    assert build(every, steps=4, last=True).states.shape == (4, 7)
    assert not spec.every_state
    assert not make_spec(state_size=0, state_offsets=(0, 1, 2, 3, 4)).every_state
    assert build(make_spec(state_size=0)).states.shape == (2, 0)


def test_a_block_is_immutable_and_does_not_share_what_it_was_built_from() -> None:
    spec = make_spec()
    given = fields(spec, 5, False)
    block = build(spec, **given)
    before = bytes(block.buffer)
    for array in (*given["observations"].values(), given["rewards"], given["states"]):
        array[...] = 0
    assert bytes(block.buffer) == before
    with pytest.raises(ValueError, match="read-only"):
        block.reward[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        block.observation["screen"][0] = 1


def test_a_block_survives_the_wire() -> None:
    spec = make_spec()
    block = build(spec, steps=4, last=True)
    again = Block.from_buffer(spec, 11, 4, 4, True, np.frombuffer(bytes(block.buffer), np.uint8))
    assert bytes(again.buffer) == bytes(block.buffer)
    np.testing.assert_array_equal(again.states, block.states)
    rebuilt = copy.deepcopy(block)  # by the same road as a pickle
    assert rebuilt.spec == spec
    assert (rebuilt.episode, rebuilt.index, rebuilt.steps, rebuilt.last) == (11, 4, 4, True)
    np.testing.assert_array_equal(rebuilt.buffer, block.buffer)
    assert not rebuilt.buffer.flags.writeable


def test_equal_blocks_have_equal_bytes() -> None:
    spec = make_spec()
    noise = [np.random.default_rng(i).integers(0, 255, 4096, np.uint8) for i in range(8)]
    first = bytes(build(spec).buffer)
    del noise  # so that padding would be found filled
    assert bytes(build(spec).buffer) == first


def test_a_buffer_is_copied_only_where_it_must_be() -> None:
    spec = make_spec()
    block = build(spec)
    header = (spec, 11, 4, 5, False)
    assert Block.from_buffer(*header, block.buffer).address == block.address
    writable = block.buffer.copy()
    kept = Block.from_buffer(*header, writable)
    writable[...] = 0
    assert bytes(kept.buffer) == bytes(block.buffer)
    message = np.zeros(3 * block.nbytes + ALIGNMENT, np.uint8)
    start = -message.ctypes.data % ALIGNMENT + block.nbytes
    message[start : start + block.nbytes] = block.buffer
    message.setflags(write=False)
    part = Block.from_buffer(*header, message[start : start + block.nbytes])
    assert part.address == message.ctypes.data + start, "aligned and read-only: not copied"
    assert part.owned().address != part.address, "but a store must not keep the whole message"
    assert bytes(part.owned().buffer) == bytes(block.buffer)
    assert block.owned() is block


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": np.zeros(4, np.float32)}, r"^reward must be float32 of shape \(5,\)"),
        ({"rewards": np.zeros(5)}, "^reward must be float32.*not float64"),
        ({"discounts": np.zeros((5, 1), np.float32)}, "^discount must be"),
        ({"states": np.zeros((1, 7), np.float32)}, r"^states must be .* \(2, 7\)"),
        ({"actions": np.zeros(5, np.int32)}, "^action must be int64"),
        ({"previous_action": np.zeros(2, np.int64)}, "^previous_action must be"),
        ({"observations": {"screen": 0}}, r"observations \['screen'\] came where"),
        ({"rewards": np.array([0, np.nan, 0, 0, 0], np.float32)}, "^reward holds .* not finite"),
        ({"discounts": np.array([0, np.inf, 0, 0, 0], np.float32)}, "^discount holds"),
        ({"states": np.full((2, 7), np.nan, np.float32)}, "^states holds"),
        ({"previous_reward": np.inf}, "^previous_reward holds"),
        ({"index": -1}, "blocks are numbered from 0"),
        ({"episode": -1}, "uid is not negative"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    """R9: nothing that is not finite comes in."""
    with pytest.raises(ValueError, match=message):
        build(make_spec(), **change)


def test_observations_are_checked_key_by_key() -> None:
    spec = make_spec()
    good = fields(spec, 5, False)["observations"]
    short = {**good, "screen": good["screen"][1:]}
    with pytest.raises(ValueError, match=r"^observation 'screen' must be uint8 of shape \(7, 2, 3"):
        build(spec, observations=short)
    wrong = {**good, "level": np.where(np.arange(7) == 6, np.nan, good["level"])}
    with pytest.raises(ValueError, match=r"^observation 'level' holds a value that is not"):
        build(spec, observations={**wrong, "level": wrong["level"].astype(np.float32)})


def test_only_the_last_block_of_an_episode_is_short() -> None:
    spec = make_spec()
    with pytest.raises(ValueError, match="block 4 has 3 steps: a block that is not the last"):
        build(spec, steps=3, last=False)
    with pytest.raises(ValueError, match="block 4 has 6 steps"):
        Block.from_buffer(spec, 11, 4, 6, True, np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="block 0 has 0 steps: a last block"):
        build(spec, steps=0, last=True, index=0)
    closing = build(spec, steps=0, last=True)
    assert closing.observation["screen"].shape == (3, 2, 3), "two frames of context and the last"
    assert closing.reward.shape == (0,)
    assert closing.states.shape == (0, 7)
    assert closing.previous_action == -1


def test_a_buffer_of_another_size_is_refused() -> None:
    spec = make_spec()
    size = spec.nbytes(5, False)
    for buffer in (np.zeros(size - 1, np.uint8), np.zeros(size + 64, np.uint8)):
        with pytest.raises(ValueError, match=f"takes {size} contiguous bytes"):
            Block.from_buffer(spec, 11, 4, 5, False, buffer)
    with pytest.raises(ValueError, match="row of bytes"):
        Block.from_buffer(spec, 11, 4, 5, False, np.zeros(size // 4, np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state_offsets": (3, 0)}, "state_offsets must rise from 0"),
        ({"state_offsets": (0, 5)}, "stay below period 5"),
        ({"state_offsets": (1,)}, "state_offsets must rise from 0"),
        ({"stack": 0}, "stack must be at least 1"),
        ({"period": 0}, "period must be at least 1"),
        ({"state_size": -1}, "state_size must be at least 0"),
        ({"observation": {}}, "at least one key"),
        ({"observation": {"text": ArraySpec((), "object")}}, "'text' must be numbers"),
        ({"observation": {"none": ArraySpec((0,), "float32")}}, "'none' must be numbers"),
        ({"action": ArraySpec((), "uint8")}, "signed whole numbers or floats"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_spec(**change)


def one_chain(blocks: list[Block]) -> tuple[Array, Array]:
    pieces = [[(block.address, block.steps, int(block.last)) for block in blocks]]
    return np.array(pieces, np.int64), np.array([len(blocks)])


def copied(blocks: list[Block], first: int, column: int, count: int, rows: int = 12) -> Any:
    """Rewards (field 3: one row of lead, none of closing), filled with 255 elsewhere."""
    out = np.zeros((rows, 1, 4), np.uint8)
    cells = [np.array([value]) for value in (first, column, count)]
    target = [[out.ctypes.data, rows, 4, 4, 4, 3, 1, 0, 255, 0]]
    targets, cells = np.array(target), np.array([[[first], [column], [count]]])
    pieces, held = one_chain(blocks)
    which = np.array([[0, k] for k in range(len(blocks))])
    if not copy_pieces(targets, cells, pieces, held, blocks[0].spec.offsets, which):
        return None
    if not fill_cells(targets, cells, 0, 1):
        return None
    return out.view(np.float32)[:, 0, 0]


def test_rows_are_copied_across_blocks_and_the_rest_is_filled() -> None:
    spec = make_spec()
    blocks = [build(spec), build(spec, steps=2, last=True, rewards=np.float32([7, 8]))]
    found = copied(blocks, first=3, column=2, count=5)
    np.testing.assert_array_equal(found[2:7], [102, 103, 104, 7, 8])
    assert np.isnan(found[:2]).all(), "all bits set"
    assert np.isnan(found[7:]).all()
    assert copied(blocks, first=0, column=0, count=1)[0] == 0.25, "row 0 is the one before"


def test_the_kernel_never_reads_or_writes_outside() -> None:
    spec = make_spec()
    blocks = [build(spec), build(spec, steps=2, last=True)]
    assert copied(blocks, first=0, column=0, count=8) is not None
    assert copied(blocks, first=0, column=0, count=9) is None, "the chain has 8 rows"
    assert copied(blocks, first=6, column=0, count=1) is None, "the first block has 6 rows"
    assert copied(blocks, first=-1, column=0, count=1) is None
    assert copied(blocks, first=0, column=5, count=8) is None, "12 rows of room"
    assert copied(blocks, first=0, column=-1, count=1) is None
    assert copied(blocks, first=0, column=0, count=-1) is None

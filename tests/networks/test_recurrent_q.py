from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from recollect.networks.recurrent_q import QNetwork, RecurrentQ
from recollect.types import NO_ACTION, ArraySpec, ConfigError

T, B, A, D, H = 7, 5, 3, 4, 6
SPEC = {"observation": ArraySpec((D,))}

Inputs = tuple[dict[str, Tensor], Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(core: str = "lstm", **changes: object) -> RecurrentQ:
    settings = {"torso_sizes": (8,), "pre_core": 9, "hidden": H, "head_hidden": 10} | changes
    return RecurrentQ(SPEC, A, core=core, **settings)  # type: ignore[arg-type]


def inputs(net: RecurrentQ, steps: int = T, batch: int = B) -> Inputs:
    return (
        {"observation": torch.randn(steps, batch, D)},
        torch.randint(NO_ACTION, A, (steps, batch)),
        torch.randn(steps, batch),
        torch.randn(batch, net.state_size),
    )


def steps_of(given: Inputs, which: slice, state: Tensor) -> Inputs:
    observation, action, reward, _ = given
    return {k: v[which] for k, v in observation.items()}, action[which], reward[which], state


CORES = ["lstm", "gru", "feed-forward"]


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("steps", [1, T])
def test_it_keeps_the_contract(core: str, steps: int) -> None:
    net = make(core)
    assert isinstance(net, QNetwork)
    assert net.state_size == {"lstm": 2 * H, "gru": H, "feed-forward": 0}[core]
    q, state = net(*inputs(net, steps))
    assert q.shape == (steps, B, A)
    assert state.shape == (B, net.state_size)
    assert q.dtype == state.dtype == torch.float32


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("cut", [1, 4, T - 1])
def test_trap_03_the_state_before_a_step_is_all_that_is_needed_to_go_on(
    core: str, cut: int
) -> None:
    net = make(core)
    given = inputs(net)
    whole, after = net(*given)
    first, state = net(*steps_of(given, slice(0, cut), given[3]))
    second, state = net(*steps_of(given, slice(cut, T), state))
    torch.testing.assert_close(torch.cat((first, second)), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(state, after, atol=1e-6, rtol=0)


@pytest.mark.parametrize("core", CORES)
def test_unrolling_step_by_step_equals_unrolling_at_once(core: str) -> None:
    net = make(core)
    given = inputs(net)
    whole, after = net(*given)
    state = given[3]
    for t in range(T):
        q, state = net(*steps_of(given, slice(t, t + 1), state))
        torch.testing.assert_close(q[0], whole[t], atol=1e-6, rtol=0)
    torch.testing.assert_close(state, after, atol=1e-6, rtol=0)


@pytest.mark.parametrize("core", CORES)
def test_sequences_of_a_batch_do_not_mix(core: str) -> None:
    net = make(core)
    observation, action, reward, state = inputs(net)
    order = torch.tensor([3, 0, 4, 2, 1])
    q, after = net({"observation": observation["observation"]}, action, reward, state)
    ordered = {"observation": observation["observation"][:, order]}
    q_ordered, after_ordered = net(ordered, action[:, order], reward[:, order], state[order])
    torch.testing.assert_close(q_ordered, q[:, order], atol=1e-6, rtol=0)
    torch.testing.assert_close(after_ordered, after[order], atol=1e-6, rtol=0)


def test_a_feed_forward_core_ignores_history() -> None:
    net = make("feed-forward", previous_action=False, previous_reward=False)
    observation, action, reward, state = inputs(net)
    q, _ = net(observation, action, reward, state)
    changed = observation["observation"].clone()
    changed[: T - 1] += 1
    q_changed, _ = net({"observation": changed}, action, reward, state)
    torch.testing.assert_close(q_changed[-1], q[-1], atol=1e-6, rtol=0)
    assert not torch.isclose(q_changed[:-1], q[:-1]).all(dim=2).any()


@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_a_recurrent_core_remembers(core: str) -> None:
    net = make(core)
    observation, action, reward, state = inputs(net)
    q, _ = net(observation, action, reward, state)
    changed = observation["observation"].clone()
    changed[0] += 1
    q_changed, _ = net({"observation": changed}, action, reward, state)
    assert not torch.equal(q_changed[-1], q[-1])


def test_trap_09_gradient_reaches_every_step() -> None:
    net = make()
    observation, action, reward, state = inputs(net)
    x = observation["observation"].requires_grad_()
    for t in range(T):  # Q at t alone: of all steps up to t, of none after
        q, _ = net(observation, action, reward, state)
        (gradient,) = torch.autograd.grad(q[t].square().sum(), x)
        reached = (gradient != 0).any(dim=2)  # [T, B]
        assert reached[: t + 1].all()
        assert not reached[t + 1 :].any()


def test_trap_07_no_gradient_flows_through_a_state_made_without_one() -> None:
    net = make()
    given = inputs(net)
    x = given[0]["observation"].requires_grad_()
    prefix = steps_of(given, slice(0, 3), given[3])  # cut here: inside, slicing would cut x itself
    with torch.no_grad():
        _, state = net(*prefix)
    q, _ = net(*steps_of(given, slice(3, T), state))
    (cut,) = torch.autograd.grad(q.square().sum(), x)
    assert not cut[:3].any()
    _, state = net(*prefix)
    q, _ = net(*steps_of(given, slice(3, T), state))
    (through,) = torch.autograd.grad(q.square().sum(), x)
    assert (through[:3] != 0).any(dim=2).all()


@pytest.mark.parametrize("settings", [{}, {"head_hidden": 0, "duelling": False}, {"core": "gru"}])
def test_gradient_reaches_every_parameter(settings: dict[str, object]) -> None:
    net = make(**settings)  # type: ignore[arg-type]
    net(*inputs(net))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


class Tape(nn.Module):
    """A core that keeps what it was given."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core, self.state_size, self.output_size = core, core.state_size, core.output_size
        self.x = torch.empty(0)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self.x = x
        return self.core(x, state)


def test_trap_33_no_action_is_all_zeros_and_action_0_is_not() -> None:
    net = make()
    net.core = Tape(net.core)  # type: ignore[assignment]
    action = torch.tensor([[NO_ACTION, 0, 1, 2]])
    reward = torch.tensor([[0.0, -2.0, 0.5, 300.0]])
    net({"observation": torch.zeros(1, 4, D)}, action, reward, torch.zeros(4, net.state_size))
    assert net.core.x[0, :, -(A + 1) :].tolist() == [
        [0, 0, 0, 0],
        [1, 0, 0, -2],
        [0, 1, 0, 0.5],
        [0, 0, 1, 300],
    ]


def test_trap_33_no_action_and_action_0_give_other_values() -> None:
    net = make()
    observation, action, reward, state = inputs(net, 1)
    q_none, _ = net(observation, torch.full_like(action, NO_ACTION), reward, state)
    q_zero, _ = net(observation, torch.zeros_like(action), reward, state)
    assert not torch.isclose(q_none, q_zero).all(dim=2).any()


@pytest.mark.parametrize("action", [-2, A])
def test_an_action_that_does_not_exist_is_refused(action: int) -> None:
    net = make()
    observation, actions, reward, state = inputs(net)
    actions[2, 3] = action
    with pytest.raises(IndexError):
        net(observation, actions, reward, state)


@pytest.mark.parametrize("core", CORES)
def test_trap_32_a_network_told_not_to_look_sees_neither_action_nor_reward(core: str) -> None:
    net = make(core, previous_action=False, previous_reward=False)
    observation, action, reward, state = inputs(net)
    q, after = net(observation, action, reward, state)
    q_other, after_other = net(observation, (action + 2) % A, reward - 1, state)
    assert torch.equal(q, q_other)
    assert torch.equal(after, after_other)


@pytest.mark.parametrize("sees", ["previous_action", "previous_reward"])
def test_each_of_action_and_reward_is_seen_alone(sees: str) -> None:
    hidden = {"previous_action": False, "previous_reward": False} | {sees: True}
    net = make("feed-forward", **hidden)
    observation, action, reward, state = inputs(net)
    q, _ = net(observation, action, reward, state)
    by_action, _ = net(observation, (action + 2) % A, reward, state)
    by_reward, _ = net(observation, action, reward - 1, state)
    assert torch.equal(q, by_action) == (sees != "previous_action")
    assert torch.equal(q, by_reward) == (sees != "previous_reward")


@pytest.mark.parametrize("head_hidden", [0, 10])
def test_duelling_heads_are_value_plus_centred_advantage(head_hidden: int) -> None:
    net = make("feed-forward", head_hidden=head_hidden)
    assert net.value is not None
    given = inputs(net)
    q, _ = net(*given)
    with torch.no_grad():
        net.per_action.weight.zero_()
    value, _ = net(*given)
    assert torch.equal(value, value[..., :1].expand(T, B, A))
    torch.testing.assert_close(q.mean(dim=2), value[..., 0], atol=1e-6, rtol=0)
    assert net.per_action.bias is None


def test_the_two_heads_share_no_hidden_unit() -> None:
    net = make("feed-forward", head_hidden=10)
    assert net.head_hidden is not None
    given = inputs(net)
    q, _ = net(*given)
    with torch.no_grad():
        net.head_hidden.weight[10:] += 1  # the value's half
    q_value, _ = net(*given)
    advantage, advantage_value = (x - x.mean(dim=2, keepdim=True) for x in (q, q_value))
    torch.testing.assert_close(advantage, advantage_value, atol=1e-6, rtol=0)
    assert not torch.isclose(q.mean(dim=2), q_value.mean(dim=2)).all()
    with torch.no_grad():
        net.head_hidden.weight[:10] += 1  # the advantage's half
    q_both, _ = net(*given)
    torch.testing.assert_close(q_both.mean(dim=2), q_value.mean(dim=2), atol=1e-6, rtol=0)
    assert not torch.isclose(q_both, q_value).all()


def test_without_duelling_one_head_gives_the_values() -> None:
    net = make("feed-forward", duelling=False, head_hidden=0, pre_core=0, torso_sizes=())
    observation, action, reward, state = inputs(net)
    q, _ = net(observation, action, reward, state)
    onehot = torch.cat([(action == a).float()[..., None] for a in range(A)], dim=2)
    x = torch.cat((observation["observation"], onehot, reward[..., None]), dim=2)
    torch.testing.assert_close(q, x @ net.per_action.weight.T + net.per_action.bias)


class Given(nn.Module):
    """A torso of a given width, without parameters."""

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        return observation["observation"]


@pytest.mark.parametrize(("pre_core", "millions"), [(512, 4.36), (0, 8.13)])
def test_the_papers_sizes_have_the_papers_number_of_parameters(
    pre_core: int, millions: float
) -> None:
    """S1-4: with DQN's convolutions before it and 18 actions."""
    features, actions = 64 * 7 * 7, 18
    with torch.device("meta"):
        net = RecurrentQ(SPEC, actions, torso=Given(features), pre_core=pre_core)
    before = features * 512 + 512 if pre_core else 0
    x = (pre_core or features) + actions + 1
    lstm = 4 * 512 * (x + 512 + 2)
    heads = 2 * (512 * 512 + 512) + (512 + 1) + 512 * actions
    assert sum(p.numel() for p in net.parameters()) == before + lstm + heads
    convolutions = (4 * 32 * 8**2 + 32) + (32 * 64 * 4**2 + 64) + (64 * 64 * 3**2 + 64)
    assert round((convolutions + before + lstm + heads) / 1e6, 2) == millions


def test_a_small_network_has_the_parameters_counted_by_hand() -> None:
    net = make()
    torso, pre_core = D * 8 + 8, 8 * 9 + 9
    lstm = 4 * H * ((9 + A + 1) + H + 2)
    heads = 2 * (H * 10 + 10) + (10 + 1) + 10 * A
    assert sum(p.numel() for p in net.parameters()) == torso + pre_core + lstm + heads
    assert sum(v.numel() for v in net.state_dict().values()) == torso + pre_core + lstm + heads


def test_a_torso_of_ones_own_sees_all_steps_of_all_sequences_at_once() -> None:
    net = RecurrentQ(SPEC, A, torso=Given(D), pre_core=0, hidden=H, head_hidden=0)
    observation, action, reward, state = inputs(net)
    seen: list[tuple[int, ...]] = []
    net.torso.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0]["observation"].shape)))
    net(observation, action, reward, state)
    assert seen == [(T * B, D)]


class Table(nn.Module):
    """A network that is not ours: Q of the number of steps seen so far."""

    def __init__(self) -> None:
        super().__init__()
        self.state_size = 1
        self.table = nn.Parameter(torch.zeros(10, A))

    def forward(
        self,
        observation: dict[str, Tensor],
        previous_action: Tensor,
        previous_reward: Tensor,
        recurrent_state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        steps = len(previous_action)
        seen = recurrent_state[:, 0] + torch.arange(steps)[:, None]  # [T, B]
        return self.table[seen.long()], recurrent_state + steps


def test_another_network_of_the_same_contract_is_a_q_network() -> None:
    net: QNetwork = Table()
    assert isinstance(net, QNetwork)
    assert not isinstance(nn.Linear(2, 3), QNetwork)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"core": "lstmm"}, "core wants one of .*'gru', 'lstm'.*, it is 'lstmm'"),
        ({"hidden": 0}, "hidden wants at least 1, it is 0"),
        ({"pre_core": -1}, "pre_core wants at least 0, it is -1"),
        ({"head_hidden": -1}, "head_hidden wants at least 0, it is -1"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="num_actions wants at least 1"):
        RecurrentQ(SPEC, 0)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("steps", [1, T])
def test_autocast_keeps_the_state_in_float32(core: str, steps: int) -> None:
    net = make(core, hidden=32, head_hidden=32, pre_core=32)
    given = inputs(net, steps)
    q, after = net(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q_low, after_low = net(*given)
    assert after_low.dtype == torch.float32
    torch.testing.assert_close(q_low.float(), q, atol=0.03, rtol=0)
    torch.testing.assert_close(after_low, after, atol=0.03, rtol=0)


ROWS = 16


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("core", ["lstm", "gru"])
@pytest.mark.parametrize("hidden", [64, 512])
def test_a_row_of_a_chunk_depends_on_no_other_row_and_not_on_the_chunk_bit_for_bit(
    core: str, hidden: int
) -> None:
    """Actors always compute 16 rows at a time: their experience cannot depend on who shares them.

    Matrix kernels round differently for other numbers of rows, so this holds for fixed ones only.
    """
    net = RecurrentQ(SPEC, A, core=core, hidden=hidden, pre_core=hidden, head_hidden=hidden)

    @torch.no_grad()
    def chunk(rows: Inputs, number: int) -> tuple[Tensor, Tensor]:
        which = slice(number * ROWS, (number + 1) * ROWS)
        observation, action, reward, state = rows
        part = {k: v[:, which] for k, v in observation.items()}
        q, after = net(part, action[:, which], reward[:, which], state[which])
        return q[0], after

    reference = inputs(net, 1, ROWS)
    q, after = chunk(reference, 0)
    for position in (0, 1, 7, 15):
        for number in range(3):
            others = inputs(net, 1, 3 * ROWS)
            row = number * ROWS + position
            others[0]["observation"][0, row] = reference[0]["observation"][0, position]
            for other, ours in zip(others[1:3], reference[1:3], strict=True):
                other[0, row] = ours[0, position]
            others[3][row] = reference[3][position]
            q_there, after_there = chunk(others, number)
            assert torch.equal(q_there[position], q[position])
            assert torch.equal(after_there[position], after[position])

"""Whether a network keeps what `QNetwork` promises, tried on observations the environment gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recollect.doctor.sheet import Sheet

Inputs = tuple[dict[str, Tensor], Tensor, Tensor, Tensor]


def examine(network: Any, inputs: Inputs, sheet: Sheet, patience: float) -> None:
    """Every promise by itself: one that is broken does not hide the next."""
    checks: list[tuple[str, Callable[[Any, Inputs, Sheet], None]]] = [
        ("finite", _finite),
        ("repeats", _repeats),
        ("buffers", _buffers),
        ("rows", _rows),
        ("pieces", _pieces),
        ("state", _state),
        ("inputs", _uses),
        ("gradient", _gradient),
    ]
    for name, check in checks:
        with sheet.stage(name, patience):
            check(network, inputs, sheet)
        if sheet.failed and name == "repeats":
            return  # what is compared below would differ for that alone


def _run(network: Any, inputs: Inputs) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        values, state = network(*inputs)
    return values.clone(), state.clone()


def _gap(one: Tensor, other: Tensor) -> float:
    """The largest difference, as a share of the largest number, or of 1 where that is larger."""
    scale = max(1.0, float(one.abs().max()))
    return float((one - other).abs().max()) / scale if one.numel() else 0.0


ROUNDING = 1e-3
"""A gap that float32 explains: sums over an image's pixels in another order reach 1e-4."""


def _kinds(network: Any, *kinds: str) -> str:
    """The names of modules in a network whose class begins so, to point at."""
    modules = network.named_modules() if hasattr(network, "named_modules") else []
    found = [
        f"{name or 'itself'}: {type(m).__name__}"
        for name, m in modules
        if type(m).__name__.startswith(kinds)
    ]
    return f" ({', '.join(found[:4])})" if found else ""


def _finite(network: Any, inputs: Inputs, sheet: Sheet) -> None:
    values, state = _run(network, inputs)
    kinds = {str(values.dtype), str(state.dtype)}
    if not (values.isfinite().all() and state.isfinite().all()):
        sheet.fail(
            "finite",
            "gives values or states that are not finite on real observations",
            "scale observations down, and look for divisions and logarithms",
        )
    elif kinds != {"torch.float32"}:
        sheet.fail("finite", f"gives {' and '.join(kinds)}", "give float32 values and states")
    else:
        largest = float(values.abs().max())
        sheet.ok("finite", f"values are finite, the largest {largest:.3g}", largest)


def _repeats(network: Any, inputs: Inputs, sheet: Sheet) -> None:
    one, other = _run(network, inputs), _run(network, inputs)
    if max(_gap(one[0], other[0]), _gap(one[1], other[1])) < 1e-6:
        sheet.ok("repeats", "the same inputs give the same values")
        return
    sheet.fail(
        "repeats",
        f"the same inputs give other values{_kinds(network, 'Dropout', 'AlphaDropout')}: stored "
        "states and priorities would mean nothing",
        "remove dropout and noise: the same network acts, learns and is its own target",
    )


def _buffers(network: Any, inputs: Inputs, sheet: Sheet) -> None:
    if not hasattr(network, "named_buffers"):
        return
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    _run(network, inputs)
    changed = [n for n, b in network.named_buffers() if not torch.equal(b, before[n])]
    if changed:
        sheet.fail(
            "buffers",
            f"buffers change while it runs: {', '.join(changed[:4])}. Actors and checkpoints are "
            "given parameters only",
            "make it a parameter or a constant, or keep it in the recurrent state",
        )


def _rows(network: Any, inputs: Inputs, sheet: Sheet) -> None:
    """Other inputs in row 0 must leave the rows beside it alone."""
    observation, action, reward, state = inputs
    base, base_state = _run(network, inputs)
    other = {key: x.clone() for key, x in observation.items()}
    for x in other.values():
        x[:, 0] = x[:, 1].flip(0)
    reward = reward.clone()
    reward[:, 0] += 3
    values, states = _run(network, (other, action, reward, state))
    gap = max(_gap(values[:, 1:], base[:, 1:]), _gap(states[1:], base_state[1:]))
    if gap < ROUNDING:
        sheet.ok("rows", "rows of a batch do not see one another")
        return
    sheet.fail(
        "rows",
        f"rows of a batch see one another (by {gap:.2g})"
        f"{_kinds(network, 'BatchNorm', 'SyncBatchNorm')}: actions depend on other episodes",
        "use LayerNorm instead of BatchNorm, and mix nothing along the batch",
    )


def _pieces(network: Any, inputs: Inputs, sheet: Sheet) -> None:
    """T steps at once equal T calls of one step each."""
    observation, action, reward, state = inputs
    whole, last = _run(network, inputs)
    rows = []
    for t in range(len(action)):
        one = slice(t, t + 1)
        # Of a stack of frames, step t sees rows t to t + stack - 1.
        seen = {k: x[t : t + 1 + len(x) - len(action)] for k, x in observation.items()}
        row, state = _run(network, (seen, action[one], reward[one], state))
        rows.append(row)
    pieces = torch.cat(rows)
    gap = max(_gap(pieces, whole), _gap(state, last))
    if gap < ROUNDING:
        sheet.ok("pieces", f"{len(action)} steps at once equal {len(action)} calls of one step")
        return
    wrong = (pieces - whole).abs().amax((1, 2)) > ROUNDING
    first = f"from step {int(wrong.nonzero()[0])} on" if wrong.any() else "in their last state"
    sheet.fail(
        "pieces",
        f"{len(action)} steps at once do not equal {len(action)} calls of one step: "
        f"{first}, by {gap:.2g}",
        "everything it remembers belongs in the recurrent state, and no step may see a later one",
    )


def _state(network: Any, inputs: Inputs, sheet: Sheet) -> None:
    observation, action, reward, state = inputs
    if network.state_size == 0:
        sheet.info("state", "has no recurrent state: it sees the present only")
        return
    base, after = _run(network, inputs)
    noise = torch.randn(state.shape, generator=torch.Generator().manual_seed(0))
    values, _ = _run(network, (observation, action, reward, state + 0.5 * noise))
    if torch.equal(values, base):
        sheet.warn(
            "state",
            "values do not depend on the recurrent state: it has no memory",
            "feed recurrent_state to the core and its output to the values",
        )
    elif torch.equal(after, state):
        sheet.warn(
            "state",
            "the recurrent state never changes: it has no memory",
            "return the state after the last step",
        )
    else:
        sheet.ok("state", f"values depend on the recurrent state (by {_gap(values, base):.2g})")


def _uses(network: Any, inputs: Inputs, sheet: Sheet) -> None:
    """Which inputs reach the values; trap 33."""
    observation, action, reward, state = inputs
    base, _ = _run(network, inputs)
    unused = []
    for key, x in observation.items():
        moved = x.roll(1, 1) if not torch.equal(x.roll(1, 1), x) else x + 1
        values, _ = _run(network, ({**observation, key: moved}, action, reward, state))
        if torch.equal(values, base):
            unused.append(key)
    if unused:
        sheet.warn(
            "inputs",
            f"values do not depend on {', '.join(unused)}",
            "feed it to the network, or leave it out of the environment",
        )
    used = []
    actions = base.shape[-1]
    values, _ = _run(network, (observation, (action.clamp(min=0) + 1) % actions, reward, state))
    if not torch.equal(values, base):
        used.append("previous action")
    values, _ = _run(network, (observation, action, reward + 1, state))
    if not torch.equal(values, base):
        used.append("previous reward")
    if len(used) == 2:
        sheet.ok("trap 33", "previous action and reward reach the values")
    else:
        missing = {"previous action", "previous reward"} - set(used)
        sheet.info("trap 33", f"{' and '.join(sorted(missing))} do not reach the values")


def _gradient(network: Any, inputs: Inputs, sheet: Sheet) -> None:
    parameters = dict(network.named_parameters())
    values, _ = network(*inputs)
    values.square().sum().backward()
    dead, wild = [], []
    for name, p in parameters.items():
        if p.requires_grad and (p.grad is None or not p.grad.any()):
            dead.append(name)
        elif p.grad is not None and not p.grad.isfinite().all():
            wild.append(name)
        p.grad = None
    if wild:
        sheet.fail(
            "gradient",
            f"the gradient of {_few(wild)} is not finite",
            "scale observations down, and look for divisions and logarithms",
        )
    if dead:
        sheet.warn(
            "gradient",
            f"no gradient reaches {_few(dead)}, of {len(parameters)} parameters",
            "use it in forward or take it out; detach() and argmax stop gradients",
        )
    if not dead and not wild:
        sheet.ok("gradient", f"gradient reaches all {len(parameters)} parameters")


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

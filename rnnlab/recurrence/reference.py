"""The reference backend: a Python loop over the cell, which is right for every cell and derivative.

Legend: `T` time, `B` batch; `*` stands for any further dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rnnlab.recurrence.contract import Call, Noise, State, step


class Eager:
    """One call of the cell for each step, differentiated by autograd to any order.

    Rows are sorted by length, and a step is computed for those rows alone that have it: what stands in the
    padding is never read, so that it can put no NaN into values or gradients. `torch.compile` and
    `torch.export` cannot follow that, as it depends on values; traced by them, every row takes every step,
    past its length on the inputs of its first one, and keeps nothing of it.
    """

    name = "eager"

    def refusal(self, call: Call) -> str | None:
        return None

    def run(self, call: Call) -> tuple[Tensor, State]:
        if call.lengths is None:
            return _loop(call.x, call, call.state, call.restart, call.resets, call.noise)
        if torch.compiler.is_compiling():
            valid = torch.arange(call.x.shape[0], device=call.x.device)[:, None] < call.lengths
            x = torch.where(_like(valid, call.x), call.x, call.x[:1])
            return _loop(x, call, call.state, call.restart, call.resets, call.noise, valid=valid)
        host = call.host_lengths if call.host_lengths is not None else call.lengths.cpu()
        descending, order = host.sort(descending=True, stable=True)
        lengths = descending.tolist()
        # active[t] is the number of rows that have a step at time t.
        active = [0] * call.x.shape[0]
        rows = len(lengths)
        for t in range(call.x.shape[0]):
            while rows and lengths[rows - 1] <= t:
                rows -= 1
            active[t] = rows
        order = order.to(call.x.device)
        outputs, state = _loop(
            call.x.index_select(1, order),
            call,
            tuple(s.index_select(0, order) for s in call.state),
            None if call.restart is None else tuple(s.index_select(0, order) for s in call.restart),
            None if call.resets is None else call.resets.index_select(1, order),
            tuple(_select(noise, order) for noise in call.noise),
            active,
        )
        back = order.argsort()
        return outputs.index_select(1, back), tuple(s.index_select(0, back) for s in state)


def _loop(
    x: Tensor,
    call: Call,
    state: State,
    restart: State | None,
    resets: Tensor | None,
    noise: tuple[Noise, ...],
    active: list[int] | None = None,
    valid: Tensor | None = None,
) -> tuple[Tensor, State]:
    length, batch = x.shape[:2]
    cell, spec = call.cell, call.spec
    outputs: list[Tensor | None] = [None] * length
    for t in reversed(range(length)) if call.reverse else range(length):
        n = batch if active is None else active[t]
        if n == 0 < batch:
            continue
        old = tuple(s[:n] for s in state) if n < batch else state
        if resets is not None and restart is not None:
            old = tuple(
                torch.where(_like(resets[t, :n], s), r[:n], s) for r, s in zip(restart, old, strict=True)
            )
        output, new = step(cell, spec, x[t, :n], old, [_at(item, t, n) for item in noise])
        new = tuple(fresh.to(s.dtype) for fresh, s in zip(new, old, strict=True))
        if n < batch:
            new = tuple(torch.cat([fresh, s[n:]]) for fresh, s in zip(new, state, strict=True))
            output = torch.cat([output, output.new_zeros(batch - n, *output.shape[1:])])
        if valid is not None:
            new = tuple(
                torch.where(_like(valid[t], s), fresh, s) for fresh, s in zip(new, state, strict=True)
            )
            output = torch.where(_like(valid[t], output), output, 0)
        outputs[t] = output
        state = new
    # A step that no row has, past the longest length, is all padding.
    known = next(output for output in outputs if output is not None)
    return torch.stack([torch.zeros_like(known) if o is None else o for o in outputs]), state


def _at(noise: Noise, t: int, rows: int) -> Tensor:
    if noise.per == "step":
        return noise.value[t, :rows]
    return noise.value[:rows] if noise.per == "sequence" else noise.value


def _select(noise: Noise, order: Tensor) -> Noise:
    if noise.per == "call":
        return noise
    return noise._replace(value=noise.value.index_select(1 if noise.per == "step" else 0, order))


def _like(mask: Tensor, other: Tensor) -> Tensor:
    """A mask with ones for its missing dimensions, to broadcast against another tensor."""
    return mask.view(*mask.shape, *[1] * (other.dim() - mask.dim()))

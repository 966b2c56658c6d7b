"""How far back the loss reaches: the norm of its gradient at earlier states, and the memory that this leaves.

Legend: `T` time, `B` batch, `K` lags, `R` rows of all batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnnlab.probes.record import Pass, Recording, StackCall

# Lags that fewer rows than this share have are left out: there the mean would jump as rows end.
LEAST_SHARE = 0.25


def gradients_by_lag(recording: Recording, loss: Tensor) -> list[tuple[Pass, Tensor]]:
    """The norms of the loss's gradient at earlier states.

        g(k) = || d loss_T / d s_(T-k) ||

    `s` is the whole state of a layer, `loss_T` the loss as far as it reads the network's output at step T or
    the final state, and T is the last step of a row that the loss reads at all. In the reverse direction T
    is the first step that it reads, and time counts the other way. Gradients go through the network's own
    recurrence and through all layers above.

    Args:
        recording: of the run that gave the loss.
        loss: a number.

    Returns:
        For each pass, `[K, B]`: `k` steps back, for each row; NaN where the row has no such step, or where
        the loss reads nothing of the row.

    Raises:
        ValueError: the loss is not finite, or depends on no recurrence.
    """
    if not torch.isfinite(loss).all():
        raise ValueError(f"the loss is {float(loss)}: there is no gradient to follow")
    found = [pair for call in recording.calls for pair in _of_call(call, loss)]
    if all(bool(norms.isnan().all()) for _, norms in found):
        raise ValueError("the loss depends on no output and no final state of any recurrence")
    return found


def _of_call(call: StackCall, loss: Tensor) -> list[tuple[Pass, Tensor]]:
    taps = [output.tensor for output in call.outputs]
    ends = [part for done in call.passes for part in done.final]
    wanted = [tensor for tensor in (*taps, *ends) if tensor.requires_grad]
    if not wanted:
        return []
    given = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
    gradients = {id(tensor): g for tensor, g in zip(wanted, given, strict=True) if g is not None}
    found = []
    for reverse in (False, True):
        passes = [done for done in call.passes if done.reverse is reverse]
        if passes:
            found += _one_way(call, passes, reverse, gradients)
    return found


def _one_way(
    call: StackCall, passes: list[Pass], reverse: bool, gradients: dict[int, Tensor]
) -> list[tuple[Pass, Tensor]]:
    """The layers of one direction: both ends of time are told apart by where the direction ends."""
    batch = passes[0].batch
    length = max(done.length for done in passes)
    device = passes[0].steps[0].x.device
    read = torch.zeros(length, batch, dtype=torch.bool, device=device)
    start = 0
    for output in call.outputs:
        gradient = gradients.get(id(output.tensor))
        steps = output.by_time(output.tensor.detach() if gradient is None else gradient)
        if gradient is not None:
            stop = min(start + len(steps), length)
            read[start:stop] |= (steps[: stop - start] != 0).reshape(stop - start, batch, -1).any(2)
        if call.streamed:
            start += len(steps)
    if call.order is not None:
        read = read[:, call.order]
    times = torch.arange(length, device=device)[:, None].expand(length, batch)
    if passes[0].lengths is not None:  # a sum over padded outputs reads zeros there, and no state
        read &= times < passes[0].lengths.to(device)
    end = (
        torch.where(read, times, length).amin(0) if reverse else torch.where(read, times, -1).amax(0)
    )  # past either end where the loss reads nothing
    for done in passes:
        for part in done.final:
            gradient = gradients.get(id(part))
            if gradient is not None:
                last = torch.full_like(end, 0 if reverse else done.length - 1)
                if done.lengths is not None and not reverse:
                    last = done.lengths.to(device) - 1
                used = (gradient != 0).flatten(1).any(1)
                end = torch.where(used, last, end)
    source = _source(call, passes, gradients, end, length)
    states = [part for done in passes for step in done.steps for part in step.after if part.requires_grad]
    if source is None or not states:
        return []
    back = torch.autograd.grad(source, states, retain_graph=True, allow_unused=True)
    by_id = {id(part): g for part, g in zip(states, back, strict=True) if g is not None}
    return [(done, _by_lag(done, by_id, end, length)) for done in passes]


def _source(
    call: StackCall, passes: list[Pass], gradients: dict[int, Tensor], end: Tensor, length: int
) -> Tensor | None:
    """A number whose gradient is that of the loss, as far as it is read at the end of each row."""
    terms: list[Tensor] = []
    own = end if call.order is None else torch.empty_like(end).scatter_(0, call.order, end)
    start = 0
    for output in call.outputs:
        steps = output.by_time(output.tensor)
        gradient = gradients.get(id(output.tensor))
        if gradient is not None:
            times = torch.arange(start, start + len(steps), device=end.device)[:, None]
            at_end = (times == own).view(*steps.shape[:2], *[1] * (steps.dim() - 2))
            terms.append((output.by_time(gradient.detach()) * at_end * steps).sum())
        if call.streamed:
            start += len(steps)
    for done in passes:
        for part in done.final:
            if (gradient := gradients.get(id(part))) is not None:
                terms.append((gradient.detach() * part).sum())
    return sum(terms, torch.zeros((), device=end.device)) if terms else None


def _by_lag(done: Pass, gradients: dict[int, Tensor], end: Tensor, length: int) -> Tensor:
    """`[K, B]` of one pass, of what autograd gave for its states."""
    found = torch.full((length, done.batch), math.nan, device=end.device, dtype=_wide(done.steps[0].after[0]))
    for step in done.steps:
        parts = [gradients[id(part)] for part in step.after if id(part) in gradients]
        rows = slice(len(step.x)) if done.rows is None else done.rows[: len(step.x)].to(end.device)
        found[step.t, rows] = row_norms(parts).nan_to_num(math.inf, math.inf).to(found) if parts else 0.0
    lags = torch.arange(length, device=end.device)[:, None]
    times = end + lags if done.reverse else end - lags
    valid = (times >= 0) & (times < length) & (end >= 0) & (end < length)
    norms = found.gather(0, times.clamp(0, length - 1))
    return torch.where(valid, norms, math.nan)


def row_norms(parts: Sequence[Tensor]) -> Tensor:
    """`[n]`, the norm of each row over tensors `[n, *]`, scaled so that no square over- or underflows."""
    flat = torch.cat([part.to(_wide(part)).flatten(1) for part in parts], dim=1)
    largest = flat.abs().amax(1)
    return largest * (flat / torch.where(largest > 0, largest, 1)[:, None]).square().sum(1).sqrt()


def _wide(tensor: Tensor) -> torch.dtype:
    """At least single precision; double only where it is there already, which not every device has."""
    return torch.promote_types(tensor.dtype, torch.float32)


@dataclass(frozen=True)
class Memory:
    """How many steps back the influence stays above a share of its largest value.

    Attributes:
        steps: the first lag from which on it stays below; the last lag measured where it never does.
        open: it is still above at the last lag measured: the memory is longer than was looked.
    """

    steps: int
    open: bool

    def __str__(self) -> str:
        return f"> {self.steps}" if self.open else str(self.steps)


def memory_length(curve: Tensor, share: float) -> Memory:
    """The effective memory of a curve of gradient norms by lag.

        m = min { k : g(j) < share * max_i g(i) for all j >= k }

    With `share` 1/e it is the characteristic time of forgetting of Tallec and Ollivier 2018, "Can recurrent
    neural networks warp time?", read off the gradient, as Bengio, Simard and Frasconi 1994 do for what a
    network can learn at all; with 0.01, the reach beyond which hardly anything is learned.

    Where `g` is 0 throughout, so is m.

    Args:
        curve: `[K]`, by lag, without NaN.
        share: from 0 to 1.

    Raises:
        ValueError: an empty curve, or a share out of range.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share}: expected a number between 0 and 1")
    if not len(curve):
        raise ValueError("an empty curve has no memory length: no lag was measured")
    above = ((curve > 0) & (curve >= share * curve.max())).nonzero().flatten()
    last = int(above[-1]) if len(above) else -1
    return Memory(min(last + 1, len(curve) - 1), last == len(curve) - 1)


def mean_curve(norms: Tensor) -> Tensor:
    """The mean over rows of `[K, R]`, for the lags that at least a quarter of the rows have: `[K']`."""
    counted = ~norms.isnan()
    enough = counted.sum(1) >= max(1.0, LEAST_SHARE * float(counted.any(0).sum()))
    usable = int(enough.long().cumprod(0).sum())
    return norms[:usable].nanmean(1)


def padded(parts: list[Tensor]) -> Tensor:
    """`[K, R]` of several batches side by side, shorter ones filled with NaN."""
    length = max(len(part) for part in parts)
    filled: list[Any] = [
        torch.cat([part, part.new_full((length - len(part), part.shape[1]), math.nan)]) for part in parts
    ]
    return torch.cat(filled, dim=1)

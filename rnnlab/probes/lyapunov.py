"""How fast nearby states part: the largest Lyapunov exponent of a driven recurrence.

Legend: `T` time, `B` batch; `*` stands for any further dimensions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rnnlab.probes.gradients import row_norms
from rnnlab.probes.record import Pass
from rnnlab.recurrence.contract import State, step

# The tangent has turned towards the fastest direction after some steps; the first tenth is left out.
TRANSIENT = 0.1


@dataclass(frozen=True)
class Exponent:
    """A largest Lyapunov exponent, in nats a step.

    Attributes:
        value: the mean over rows, each weighed by its steps; minus infinity where differences die in all.
        spread: the standard deviation over rows; NaN for a single one.
        rows: how many rows were averaged.
        died: rows that are not among them, because a difference in them died out altogether.
    """

    value: float
    spread: float
    rows: int
    died: int = 0

    def __str__(self) -> str:
        text = f"{self.value:+.3f}" + ("" if math.isnan(self.spread) else f" ± {self.spread:.3f}")
        return text + (f" (dies out in {self.died} of {self.rows + self.died} rows)" if self.died else "")


def local_growth(
    maps: Sequence[Callable[[State], State]], states: Sequence[State], *, seed: int = 0
) -> Tensor:
    """The growth of a small difference at each step along a trajectory.

        v_t = J_t v_(t-1) / || v_(t-1) ||,    growth_t = ln || v_t ||

    with `J_t` the Jacobian of step t at the state that the trajectory has there. The difference is one of
    first order, carried by forward-mode differentiation and renormalised at each step, so that it neither
    overflows nor leaves the trajectory (Benettin, Galgani, Giorgilli and Strelcyn 1980).

    Args:
        maps: for each step, the next state as a function of the state, input held.
        states: for each step the state before it, `[n, *]` each; a later step may have fewer rows.
        seed: of the first difference, drawn from a normal distribution.

    Returns:
        `[T, B]` on the host, in nats; NaN where a row has no such step, minus infinity where a difference
        dies out altogether (all units of a relu network off), after which it starts anew.

    Raises:
        NotImplementedError: an operator of a step has no forward-mode derivative.
    """
    first = states[0]
    batch = len(first[0])
    generator = torch.Generator().manual_seed(seed)

    def fresh() -> list[Tensor]:
        return [torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part) for part in first]

    growth = torch.full((len(maps), batch), math.nan, dtype=torch.float64)
    tangent, _ = _normalised(fresh())
    for t, (function, state) in enumerate(zip(maps, states, strict=True)):
        n = len(state[0])
        with torch.no_grad(), _dual_level():
            moved = function(
                tuple(forward_ad.make_dual(s, v[:n]) for s, v in zip(state, tangent, strict=True))
            )
            parts = [forward_ad.unpack_dual(part).tangent for part in moved]
        raw = [torch.zeros_like(s) if v is None else v for s, v in zip(state, parts, strict=True)]
        tangent, norm = _normalised(raw)
        dead = norm == 0
        growth[t, :n] = norm.cpu().double().log()
        if bool(dead.any()):
            again = [part[:n] for part in _normalised(fresh())[0]]
            tangent = [torch.where(_like(dead, a), a, v) for a, v in zip(again, tangent, strict=True)]
    return growth


@contextmanager
def _dual_level() -> Iterator[None]:
    """Forward-mode differentiation; its first use scripts, which PyTorch deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script. is", category=DeprecationWarning)
        with forward_ad.dual_level():
            yield


def exponent(growth: Tensor, *, transient: float = TRANSIENT) -> Exponent:
    """The largest Lyapunov exponent of `[T, B]` of `local_growth`: the mean growth after the transient.

        lambda = lim 1/T sum_t ln || J_t v_(t-1) || / || v_(t-1) ||

    Above 0, nearby states part and small errors grow (chaos, exploding gradients); below 0 they meet again
    (the past is forgotten, vanishing gradients); near 0 both are slow. See Engelken, Wolf and Abbott 2023,
    "Lyapunov spectra of chaotic recurrent neural networks", and Vogt et al. 2022, "On Lyapunov exponents for
    RNNs".

    Args:
        growth: of `local_growth`.
        transient: the share of each row's steps that is left out at its start.
    """
    there = ~growth.isnan()
    early = there.cumsum(0) <= (there.sum(0) * transient).floor()
    kept = torch.where(early, math.nan, growth)
    dead = (kept == -math.inf).any(0)
    used = (~kept.isnan()).any(0) & ~dead
    died = int(dead.sum())
    if not bool(used.any()):
        return Exponent(-math.inf if died else math.nan, math.nan, 0, died)
    counts = (~kept[:, used].isnan()).sum(0)
    each = kept[:, used].nanmean(0)
    spread = float(each.std()) if len(each) > 1 else math.nan
    return Exponent(float((each * counts).sum() / counts.sum()), spread, len(each), died)


def growth_of(done: Pass) -> Tensor:
    """`local_growth` of a recorded pass, `[T, B]` in the order in which its steps ran.

    The exponent of a layer by itself, its input held, is also one of the whole network's where layers feed
    only those above: its Jacobian is then block triangular, and the network's largest exponent is the largest
    of its layers'.
    """

    def map_of(x: Tensor, noise: Sequence[Tensor]) -> Callable[[State], State]:
        return lambda state: step(done.cell, done.spec, x, state, noise)[1]

    maps = [map_of(item.x, [noise.value for noise in item.noise]) for item in done.steps]
    states = [item.before for item in done.steps]
    if not done.reverse:
        return local_growth(maps, states)
    return _from_the_end(done, maps, states)


def _from_the_end(done: Pass, maps: list[Callable[[State], State]], states: list[State]) -> Tensor:
    """The same in the reverse direction, where rows begin one after the other and end together."""
    last = states[-1]

    def widened(state: State) -> State:
        missing = len(last[0]) - len(state[0])
        return tuple(torch.cat([s, s.new_zeros(missing, *s.shape[1:])]) if missing else s for s in state)

    def partly(function: Callable[[State], State], n: int) -> Callable[[State], State]:
        def run(state: State) -> State:
            new = function(tuple(s[:n] for s in state))
            # A row that has not begun keeps its tangent.
            return tuple(torch.cat([a, s[n:]]) for a, s in zip(new, state, strict=True))

        return run

    counts = [len(state[0]) for state in states]
    growth = local_growth(
        [partly(function, n) for function, n in zip(maps, counts, strict=True)], list(map(widened, states))
    )
    for t, n in enumerate(counts):
        growth[t, n:] = math.nan
    return growth


def _normalised(parts: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Tangents of norm 1 in each row over all states, and the norms `[B]` that they had."""
    norm = row_norms(parts)
    safe = torch.where(norm > 0, norm, 1)
    return [(part / _like(safe, part)).to(part.dtype) for part in parts], norm


def _like(values: Tensor, other: Tensor) -> Tensor:
    """`[n]` with ones for the missing dimensions."""
    return values.view(-1, *[1] * (other.dim() - 1))

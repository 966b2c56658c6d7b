"""Fused recurrences under `torch.compile`: a call as one node of the captured graph.

The compiler of cells is no code that `torch.compile` could follow. What it finds out about a cell is a
constant to it, the cell's parameters are read where it sees them, and the call itself is a function that it
leaves as it is; what traces that later finds the operators in it.

Legend: `T` time, `B` batch; `*` stands for any further dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.recurrence import fused
from rnnlab.recurrence import plan as plans
from rnnlab.recurrence.compiler import find
from rnnlab.recurrence.contract import Call, Noise, State, StepSpec, probe

_plans: list[tuple[plans.Plan, StepSpec]] = []


def spec(cell: nn.Module, x_t: Tensor) -> StepSpec:
    """What a step of the cell looks like, as a constant."""
    return StepSpec(*_spec(cell, x_t.shape[1:], x_t.dtype, x_t.device))


@torch.compiler.assume_constant_result
def _spec(
    cell: nn.Module, tail: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Any, ...]:
    return _fields(probe(cell, torch.zeros(1, *tail, dtype=dtype, device=device)))


def refusal(call: Call, dtype: torch.dtype) -> str | None:
    """Why the call cannot be fused, as a constant."""
    return _refusal(call.cell, _fields(call.spec), plans.describe(call), dtype)


def run(call: Call) -> tuple[Tensor, State]:
    """The call as one node of the graph."""
    number, paths = _number(call.cell, _fields(call.spec), plans.describe(call))
    fresh = call.restart is None or all([r is s for r, s in zip(call.restart, call.state, strict=True)])  # noqa: C419
    results = _node(
        number,
        call.reverse,
        call.named,
        [noise.per for noise in call.noise],
        call.x,
        list(call.state),
        None if fresh or call.restart is None else list(call.restart),
        call.lengths,
        call.resets,
        [noise.value for noise in call.noise],
        [find(call.cell, path) for path in paths],
    )
    return results[0], tuple(results[1:])


@torch.compiler.allow_in_graph
def _node(
    number: int,
    reverse: bool,
    named: bool,
    pers: list[Any],
    x: Tensor,
    state: list[Tensor],
    restart: list[Tensor] | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    noise: list[Tensor],
    parameters: list[Tensor],
) -> tuple[Tensor, ...]:
    plan, spec = _plans[number]
    states = tuple(state)
    call = Call(
        _NO_CELL,
        spec,
        x,
        states,
        states if restart is None else tuple(restart),
        lengths,
        None,
        resets,
        reverse,
        tuple([Noise(value, per) for value, per in zip(noise, pers, strict=True)]),
        named,
    )
    outputs, finals = fused.run(plan, call, plan.compiled.bind(parameters))
    return outputs, *finals


_NO_CELL = nn.Module()


def _fields(spec: StepSpec) -> tuple[Any, ...]:
    """A spec's fields in order: one that torch.compile has traced is no object that a constant could hold."""
    return (
        spec.state_shapes,
        spec.output_shape,
        spec.single,
        spec.output,
        spec.has_initial_state,
        spec.has_draw,
    )


@torch.compiler.assume_constant_result
def _refusal(cell: nn.Module, spec: Sequence[Any], description: Any, dtype: torch.dtype) -> str | None:
    return fused.refusal(cell, StepSpec(*spec), description, dtype)


@torch.compiler.assume_constant_result
def _number(cell: nn.Module, spec: Sequence[Any], description: Any) -> tuple[int, tuple[str, ...]]:
    """The number of the call's plan, and where the cell keeps the parameters that it reads."""
    plan, _ = plans.bound(cell, StepSpec(*spec), description)
    if isinstance(plan, str):
        raise ValueError(f"{type(cell).__name__} cannot be fused: {plan}")
    _plans.append((plan, StepSpec(*spec)))
    return len(_plans) - 1, plan.compiled.paths

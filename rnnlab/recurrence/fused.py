"""The `fused` backend: a whole sequence in one generated kernel, forward and backward.

Legend: `T` time, `B` batch; `*` stands for any further dimensions.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from rnnlab.recurrence import captured
from rnnlab.recurrence import plan as plans
from rnnlab.recurrence.contract import Call, State, StepSpec, autocast_dtype
from rnnlab.recurrence.operators import executor, recurrence
from rnnlab.recurrence.plan import Plan
from rnnlab.recurrence.reference import Eager

logger = logging.getLogger("rnnlab")


class Fused:
    """Kernels generated from the cell: C++ on a CPU, Triton on a GPU."""

    name = "fused"

    def refusal(self, call: Call) -> str | None:
        if torch.compiler.is_compiling():
            return captured.refusal(call, kernel_dtype(call))
        return refusal(call.cell, call.spec, plans.describe(call), kernel_dtype(call))

    def outruns(self, call: Call) -> str | None:
        """The backend that these kernels are known to be faster than: PyTorch's own, or none.

        On a CPU they are for all three standard cells (`rnnlab bench cpu`); on a GPU where `rnnlab tune`
        found so. Like a refusal, it looks at nothing but what `call.signature()` covers.
        """
        if call.x.device.type == "cpu":
            return "aten"
        if call.x.device.type != "cuda" or torch.compiler.is_compiling():
            return None
        plan, _ = plans.find(call)
        if isinstance(plan, str):
            return None
        from rnnlab_kernels.triton.choice import beats_aten

        compiled = plan.compiled
        program = compiled.derivative().forward if torch.is_grad_enabled() else compiled.program
        return "aten" if beats_aten(program, kernel_dtype(call), call.x.device) else None

    def run(self, call: Call) -> tuple[Tensor, State]:
        if torch.compiler.is_compiling():
            return captured.run(call)
        plan, values = plans.find(call)
        if isinstance(plan, str):
            # The choice was made before the cell changed into one that cannot be fused.
            logger.warning("%s runs on backend 'eager' (fused: %s)", type(call.cell).__name__, plan)
            return Eager().run(call)
        return run(plan, call, values)


def refusal(
    cell: nn.Module, spec: StepSpec, description: plans.Description, dtype: torch.dtype
) -> str | None:
    device = description[2]
    run = executor(device.type)
    if run is None:
        return f"there are no generated kernels for {device.type!r}"
    plan, _ = plans.bound(cell, spec, description)
    if isinstance(plan, str):
        return plan
    reason = run.refusal(plan.compiled.program, dtype)
    if reason is None and device.type == "cuda" and torch.is_grad_enabled():
        # A kernel for a GPU may be refused for its size, and the backward's is the larger one.
        derivative = plan.compiled.derivative()
        reason = run.refusal(derivative.forward, dtype) or run.refusal(derivative.adjoint, dtype)
    return reason


def run(plan: Plan, call: Call, values: dict[int, Tensor]) -> tuple[Tensor, State]:
    """Run a plan, given the tensors of the step's parameters."""
    compiled, x = plan.compiled, call.x
    batch, dtype = x.shape[1], kernel_dtype(call)
    rows = valid_rows(call) if compiled.has_rows else None
    inputs = compiled.inputs(values, x, call.noise, rows)
    states, as_given = [], True
    for state in call.state:
        if state.dtype is not dtype or state.dim() != 2:
            state, as_given = state.reshape(batch, -1).to(dtype), False
        states.append(state)
    resets = call.resets
    restart = resets is not None and call.restart is not call.state
    if resets is not None and call.restart is not None and restart:
        inputs.append(resets.unsqueeze(2).to(dtype))
        inputs += [s.reshape(batch, -1) for s in call.restart]
        resets = None
    for i, tensor in enumerate(inputs):
        if tensor.dtype is not dtype:
            inputs[i] = tensor.to(dtype)
    requires: tuple[bool, ...] | None = None
    if torch.is_grad_enabled():
        requires = tuple([t.requires_grad for t in inputs])
        if True not in requires and not any([s.requires_grad for s in states]):  # noqa: C419 (quicker)
            requires = None
    outputs, finals = recurrence(
        plan.entry(requires, restart, call.named), inputs, states, call.lengths, resets, call.reverse
    )
    y = compiled.output(values, outputs, rows)
    if as_given:
        return y, tuple(finals)
    likes = zip(finals, call.state, strict=True)
    return y.to(call.state[0].dtype), tuple([final.reshape(s.shape).to(s.dtype) for final, s in likes])


def kernel_dtype(call: Call) -> torch.dtype:
    """The data type that the kernel reads: autocast's, or that of the state."""
    return autocast_dtype(call.x.device.type) or call.state[0].dtype


def valid_rows(call: Call) -> Tensor | None:
    """The places in `[T*B]` that are no padding; None for all, a mask where their number must not matter."""
    if call.lengths is None:
        return None
    steps = torch.arange(call.x.shape[0], device=call.x.device)
    mask = (steps[:, None] < call.lengths).flatten()
    return mask if torch.compiler.is_compiling() else mask.nonzero().squeeze(1)

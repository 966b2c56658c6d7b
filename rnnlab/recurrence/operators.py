"""A Program and its adjoint as operators of PyTorch: `rnnlab::recurrence`, `rnnlab::recurrence_backward`.

Programs stand in a table of the process; an operator is given a Program's number. Outside of `torch.compile`
and of tensor subclasses an autograd function calls the backend directly, since the dispatcher would cost as
much as a short sequence does.

Legend: `T` time, `B` batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol

import torch
from rnnlab_kernels.program import Contraction, Operand, Program, contract_all, interpret
from torch import Tensor, nn

from rnnlab.recurrence.contract import CannotRun
from rnnlab.recurrence.derivative import Derivative, differentiate, strip

logger = logging.getLogger("rnnlab")


class Executor(Protocol):
    """What runs Programs: `rnnlab_kernels.cpu`, `rnnlab_kernels.triton`, or the interpreter.

    One that has a `contract_all` as `rnnlab_kernels.program` finds all parameters' gradients by it; one whose
    `TOTALS` is true is given Programs with totals.
    """

    def run(
        self,
        program: Program,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        reverse: bool = False,
    ) -> tuple[list[Tensor], list[Tensor]]: ...

    def refusal(self, program: Program, dtype: torch.dtype) -> str | None: ...


class Interpreter:
    """The definition of a Program as an executor: always right, and slow."""

    TOTALS = True
    run = staticmethod(interpret)
    contract_all = staticmethod(contract_all)

    @staticmethod
    def refusal(program: Program, dtype: torch.dtype) -> str | None:
        return None


_MODULES = {"cpu": "rnnlab_kernels.cpu", "cuda": "rnnlab_kernels.triton"}
executors: dict[str, Executor | None] = {}
"""The executor of each type of device, found on first use."""


def executor(device: str) -> Executor | None:
    """What runs Programs on a type of device; None if nothing does."""
    found = executors.get(device)
    if found is None and device in _MODULES:
        module = import_module(_MODULES[device])
        found = executors[device] = module if hasattr(module, "run") else None
    return found


class Entry:
    """A Program for the table, with its adjoint where one is asked for.

    Args:
        program: a forward Program as `tidy` leaves it, in which `simplify.DETACH` may stand.
        requires: for each input, whether its gradient will be asked for; None for a Program that will not be
            differentiated.
        strict: whether a kernel that cannot be built is an error; it is interpreted, slowly, without.
        totals: whether the adjoint loop may sum up gradients itself: not every backend can.
    """

    def __init__(
        self,
        program: Program,
        requires: tuple[bool, ...] | None,
        strict: bool = False,
        totals: bool = False,
    ) -> None:
        self.marked = program
        self.requires = requires
        self.strict = strict
        self.totals = totals
        self.outputs = len(program.outputs)
        self.derivative: Derivative | None = None
        self.program = strip(program)
        if requires is not None:
            self.derivative = differentiate(program, requires, totals)
            self.program = self.derivative.forward
        self._backwards: dict[tuple[bool, ...], _Backward] = {}
        self.number = -1

    def enter(self) -> Entry:
        """Put the entry into the table, for the operators to find; returns it."""
        self.number = len(_table)
        _table.append(self)
        return self

    def backward(self, given: tuple[bool, ...]) -> _Backward:
        """The adjoint where some of the outputs have a gradient."""
        found = self._backwards.get(given)
        if found is None:
            assert self.derivative is not None
            assert self.requires is not None
            some = self.derivative
            if not all(given):
                some = some.without(self.requires, given, self.totals)
            found = self._backwards[given] = _Backward(self, some)
        return found

    def kept_bytes(self, itemsize: int) -> int:
        """The bytes that one step of one row keeps for the backward, beyond the outputs.

        The values that a state starts a step with are those that it ended the last one with, so that of an
        output, or of two that are kept, they take no further bytes.
        """
        program = self.program
        stored = {output.value for output in program.outputs}
        own = {output.value for output in program.outputs[: self.outputs]}
        shared = {s.value for s in program.states if s.next in stored} | own
        return itemsize * sum(o.width for o in program.outputs if o.value not in shared)


_table: list[Entry] = []


def recurrence(
    entry: Entry,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Run a Program over a whole sequence, differentiably where its entry has an adjoint.

    Args:
        entry: the Program.
        inputs: one tensor for each of its inputs.
        states: the initial states, `[B, width]`.
        lengths, resets, reverse: as for `rnnlab_kernels.program.interpret`.

    Returns:
        The outputs `[T, B, width]` and the final states `[B, width]`.

    Raises:
        CannotRun: the kernel could not be built.
    """
    count = entry.outputs
    if _transforming():
        # vmap, grad, jvp and the like: PyTorch's own operators carry their rules, generated kernels none.
        return interpret(entry.marked, inputs, states, lengths=lengths, resets=resets, reverse=reverse)
    if torch.compiler.is_compiling() or not _PLAIN.issuperset(map(type, (*inputs, *states))):
        results = torch.ops.rnnlab.recurrence(entry.number, inputs, states, lengths, resets, reverse)
    elif entry.derivative is None:
        return _execute(entry.program, inputs, states, lengths, resets, reverse, strict=True)
    else:
        results = _Function.apply((entry, len(inputs), reverse), lengths, resets, *inputs, *states)
    return results[:count], results[len(results) - len(states) :]


_PLAIN = frozenset((Tensor, nn.Parameter))
# Whether a transform of torch.func is under way: what autograd.Function itself asks.
_transforming: Callable[[], bool] = torch._C._are_functorch_transforms_active


def _execute(
    program: Program,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    *,
    strict: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run a Program. If its kernel cannot be built, raise CannotRun where `strict`, else interpret it."""
    run = executor(states[0].device.type)
    assert run is not None
    try:
        return run.run(program, inputs, states, lengths=lengths, resets=resets, reverse=reverse)
    except (OSError, getattr(run, "ToolchainError", OSError)) as error:
        kind = "backward" if program.adjoint else "forward"
        if strict:
            raise CannotRun(f"its {kind} kernel could not be built: {error}") from error
        if program.key not in _failed:
            _failed.add(program.key)
            logger.warning("a %s kernel is interpreted, slowly, since it could not be built: %s", kind, error)
        return interpret(program, inputs, states, lengths=lengths, resets=resets, reverse=reverse)


_failed: set[str] = set()


class _Backward:
    """How a derivative's adjoint is run: everything about it that does not depend on a call."""

    def __init__(self, entry: Entry, derivative: Derivative) -> None:
        program = entry.program
        lists = {"input": 0, "output": 1, "gradient": 2}
        self.program = derivative.adjoint
        self.feeds = [(lists[feed.kind], feed.index) for feed in derivative.feeds]
        self.like = next(i for i, item in enumerate(program.inputs) if item.per == "step")
        self.rows = [(i, o, program.inputs[i].per == "sequence") for i, o in derivative.rows]
        # Equal contractions are computed once, whichever parameters they belong to.
        sums: dict[Contraction, list[tuple[int, int | None]]] = {}
        for contraction in derivative.contractions:
            item = program.inputs[contraction.parameter]
            part = contraction.kind != "outer" and derivative.width(contraction.right) < item.width
            target = contraction.parameter, contraction.start if part else None
            sums.setdefault(replace(contraction, parameter=0, start=0), []).append(target)
        self.sums = list(sums)
        # Each operand once, so that a backend sees which contractions share it.
        operands = (o for contraction in sums for o in (contraction.left, contraction.right))
        self.factors = list(dict.fromkeys(o for o in operands if o is not None))
        places = {operand: place for place, operand in enumerate(self.factors)}
        self.operands = [(None if s.left is None else places[s.left], places[s.right]) for s in sums]
        self.targets = list(sums.values())
        # What the loop sums up itself stands behind its outputs.
        count = len(self.program.outputs)
        self.totals: list[tuple[int, list[tuple[int, int | None]]]] = [
            (count + n, []) for n in range(len(self.program.totals))
        ]
        for total in derivative.totals:
            part = self.program.totals[total.index].width < program.inputs[total.parameter].width
            self.totals[total.index][1].append((total.parameter, total.start if part else None))
        self._zeros: list[Tensor | None] = [None] * len(self.program.states)

    def zeros(self, state: int, like: Tensor) -> Tensor:
        """Zeros `[1, width]`, a row for all rows, for a final state that has no gradient."""
        found = self._zeros[state]
        if found is None or found.dtype is not like.dtype or found.device != like.device:
            found = self._zeros[state] = like.new_zeros(1, self.program.states[state].width)
        return found


def _execute_adjoint(
    entry: Entry,
    gradients: Sequence[Tensor | None],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
) -> tuple[list[Tensor | None], list[Tensor]]:
    """The gradients of all inputs, None where none is asked for, and of the initial states."""
    count = entry.outputs
    plan = entry.backward(tuple([g is not None for g in gradients[:count]]))
    lists: tuple[Sequence[Any], ...] = (inputs, outputs, gradients)
    feeds: list[Tensor] = [lists[kind][index] for kind, index in plan.feeds]
    like = inputs[plan.like]
    finals = [plan.zeros(state, like) if g is None else g for state, g in enumerate(gradients[count:])]
    stored, states = _execute(plan.program, feeds, finals, lengths, resets, reverse, strict=entry.strict)
    run = executor(like.device.type)
    assert run is not None
    found: list[Tensor | None] = [None] * len(inputs)
    for i, output, once in plan.rows:
        found[i] = stored[output].sum(0) if once else stored[output]
    rows = None if lengths is None else _valid(lengths, like.shape[0])
    factors = [_operand(operand, feeds, stored) for operand in plan.factors]
    lefts = [None if left is None else factors[left] for left, _ in plan.operands]
    rights = [factors[right] for _, right in plan.operands]
    together = getattr(run, "contract_all", contract_all)
    parts = [*zip(together(plan.sums, lefts, rights, rows), plan.targets, strict=True)]
    parts += [(stored[index], targets) for index, targets in plan.totals]
    for part, targets in parts:
        for i, start in targets:
            so_far = found[i]
            if start is not None:
                so_far = part.new_zeros(entry.program.inputs[i].width) if so_far is None else so_far.clone()
                so_far[start : start + part.shape[0]] += part
                found[i] = so_far
            else:
                # Never in place: several parameters may share the tensor.
                found[i] = part if so_far is None else so_far + part
    return found, states


def _operand(operand: Operand, feeds: Sequence[Tensor], stored: Sequence[Tensor]) -> Tensor:
    """What a contraction reads."""
    tensor = (feeds if operand.source == "input" else stored)[operand.index]
    return tensor if operand.width is None else tensor.narrow(2, operand.start, operand.width)


def _valid(lengths: Tensor, length: int) -> Tensor:
    """The places in [T*B] that are no padding: what a contraction sums up."""
    steps = torch.arange(length, device=lengths.device)
    return (steps[:, None] < lengths).flatten().nonzero().squeeze(1)


def _save(
    ctx: Any,
    entry: Entry,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    outputs: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
) -> None:
    """Keep what the backward may read; `outputs` are the Program's own and those that its adjoint reads."""
    ctx.save_for_backward(*inputs, *states, *outputs, lengths, resets)
    ctx.options = entry, len(inputs), len(inputs) + len(states), reverse


def _saved(ctx: Any) -> tuple[Entry, Any, Any, Any, Tensor | None, Tensor | None, bool]:
    """The arguments of `_save`, in its order."""
    entry, count, before, reverse = ctx.options
    saved = ctx.saved_tensors
    return entry, saved[:count], saved[count:before], saved[before:-2], saved[-2], saved[-1], reverse


class _Function(torch.autograd.Function):
    """The Program of an entry and its adjoint, for autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        options: tuple[Entry, int, bool],
        lengths: Tensor | None,
        resets: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        entry, count, reverse = options
        inputs, states = tensors[:count], tensors[count:]
        outputs, finals = _execute(entry.program, inputs, states, lengths, resets, reverse, strict=True)
        ctx.set_materialize_grads(False)
        _save(ctx, entry, inputs, states, outputs, lengths, resets, reverse)
        # What is kept for the backward is no result: each would cost autograd a microsecond.
        return (*outputs[: entry.outputs], *finals)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        entry, inputs, states, outputs, lengths, resets, reverse = _saved(ctx)
        if torch.is_grad_enabled():
            needed = ctx.needs_input_grad[3:]
            found = _differentiable(entry, gradients, inputs, states, lengths, resets, reverse, needed)
            return None, None, None, *found
        parts, firsts = _execute_adjoint(entry, gradients, inputs, outputs, lengths, resets, reverse)
        return None, None, None, *parts, *firsts


def _differentiable(
    entry: Entry,
    gradients: Sequence[Tensor | None],
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients as functions that can be differentiated again: through the interpreter."""
    outputs, finals = interpret(entry.marked, inputs, states, lengths=lengths, resets=resets, reverse=reverse)
    pairs = [
        (r, g)
        for r, g in zip([*outputs, *finals], gradients, strict=True)
        if g is not None and r.requires_grad
    ]
    wanted = [t for t, on in zip([*inputs, *states], needed, strict=True) if on]
    if not pairs:
        return [None] * len(needed)
    results = torch.autograd.grad(
        [r for r, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, allow_unused=True
    )
    parts = iter(results)
    return [next(parts) if on else None for on in needed]


# The operators, for torch.compile and everything else that works by dispatch.

_library = torch.library.Library("rnnlab", "DEF")
_library.define(
    "recurrence(int number, Tensor[] inputs, Tensor[] states, Tensor? lengths, Tensor? resets, bool reverse) "
    "-> Tensor[]"
)
_library.define(
    "recurrence_backward(int number, Tensor?[] gradients, Tensor[] inputs, Tensor[] states, "
    "Tensor[] outputs, Tensor? lengths, Tensor? resets, bool reverse) -> Tensor[]"
)


def _forward_kernel(
    number: int,
    inputs: list[Tensor],
    states: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
) -> list[Tensor]:
    entry = _table[number]
    outputs, finals = _execute(entry.program, inputs, states, lengths, resets, reverse, strict=entry.strict)
    return _apart([*outputs, *finals])


def _backward_kernel(
    number: int,
    gradients: list[Tensor | None],
    inputs: list[Tensor],
    states: list[Tensor],
    outputs: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
) -> list[Tensor]:
    entry = _table[number]
    found, firsts = _execute_adjoint(entry, gradients, inputs, outputs, lengths, resets, reverse)
    assert entry.requires is not None
    asked = [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient, on in zip(inputs, found, entry.requires, strict=True)
        if on
    ]
    return _apart([*asked, *firsts])


def _apart(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors that share no memory, as the results of an operator must not, each of its plain layout."""
    seen: set[int] = set()
    result = []
    for tensor in tensors:
        memory = tensor.untyped_storage()._cdata
        result.append(tensor.clone() if memory in seen or not tensor.is_contiguous() else tensor)
        seen.add(memory)
    return result


def _remember(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    number, given, states, lengths, resets, reverse = inputs
    _save(ctx, _table[number], given, states, output[: len(output) - len(states)], lengths, resets, reverse)


def _derive(ctx: Any, gradients: Sequence[Tensor | None]) -> tuple[Any, ...]:
    entry, inputs, states, outputs, lengths, resets, reverse = _saved(ctx)
    count = len(inputs)
    wanted = [*gradients[: entry.outputs], *gradients[len(gradients) - len(states) :]]
    requires = entry.requires or (False,) * count
    needed = (*requires, *(True for _ in states))
    found: list[Tensor | None]
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        needed = tuple(on and t.requires_grad for on, t in zip(needed, [*inputs, *states], strict=True))
        found = _differentiable(entry, wanted, inputs, states, lengths, resets, reverse, needed)
    elif entry.derivative is None:
        raise RuntimeError("this Program was compiled without its adjoint: run it under torch.no_grad()")
    else:
        some = torch.ops.rnnlab.recurrence_backward(
            entry.number, wanted, inputs, states, outputs, lengths, resets, reverse
        )
        parts = iter(some)
        found = [next(parts) if on else None for on in needed]
    return None, found[:count], found[count:], None, None, None


def _forward_fake(
    number: int,
    inputs: list[Tensor],
    states: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
) -> list[Tensor]:
    program = _table[number].program
    first = next(t for t, item in zip(inputs, program.inputs, strict=True) if item.per == "step")
    length, batch = first.shape[:2]
    outputs = [first.new_empty(length, batch, output.width) for output in program.outputs]
    return [*outputs, *(state.new_empty(batch, state.shape[-1]) for state in states)]


def _backward_fake(
    number: int,
    gradients: list[Tensor | None],
    inputs: list[Tensor],
    states: list[Tensor],
    outputs: list[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
) -> list[Tensor]:
    requires = _table[number].requires
    assert requires is not None
    asked = [tensor for tensor, on in zip(inputs, requires, strict=True) if on]
    return [t.new_empty(t.shape) for t in (*asked, *states)]


for _device in ("CPU", "CUDA"):
    _library.impl("recurrence", _forward_kernel, _device)
    _library.impl("recurrence_backward", _backward_kernel, _device)
torch.library.register_fake("rnnlab::recurrence", _forward_fake, lib=_library)
torch.library.register_fake("rnnlab::recurrence_backward", _backward_fake, lib=_library)
torch.library.register_autograd("rnnlab::recurrence", _derive, setup_context=_remember, lib=_library)

"""A recording of what a network's recurrences did: every step, every state, in the graph of autograd.

While it records, every recurrence runs on the reference backend, which calls the cell once a step; the cell
itself is watched, so any cell will do.

Legend: `T` time, `B` batch; `*` stands for any further dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from rnnlab.nn import DeepRNN
from rnnlab.recurrence import Recurrence, StepSpec
from rnnlab.recurrence.contract import Call, Noise, State
from rnnlab.recurrence.reference import Eager


@dataclass(frozen=True)
class Step:
    """One step of one layer and direction.

    Attributes:
        t: the time of the step.
        x: `[n, *]`, its input; `n` rows of the batch still have a step.
        before: `[n, *]` each, the state that it was given.
        after: `[n, *]` each, the state that it returned: nodes of their own in autograd's graph, which lead
            to nothing but the next step and the output.
        noise: one step's masks.
    """

    t: int
    x: Tensor
    before: State
    after: State
    noise: tuple[Noise, ...] = ()


@dataclass
class Pass:
    """One layer and direction over one sequence, its steps in the order in which they ran.

    Attributes:
        name: where the network keeps the layer.
        rows: `[B]`, the rows of the batch in the order of the steps' rows; None where it is their own.
        lengths: `[B]`, the steps of each row of the batch; None where each has all.
        final: `[B, *]` each, the state after each row's last step, nodes of their own; empty step by step.
    """

    name: str
    cell: nn.Module
    spec: StepSpec
    batch: int
    reverse: bool
    rows: Tensor | None = None
    lengths: Tensor | None = None
    steps: list[Step] = field(default_factory=list)
    final: State = ()

    @property
    def length(self) -> int:
        """T."""
        return 1 + max((step.t for step in self.steps), default=-1)


@dataclass(frozen=True)
class Output:
    """What a stack gave, a node of its own in autograd's graph, and how its numbers become `[T, B, *]`."""

    tensor: Tensor
    by_time: Callable[[Tensor], Tensor]


@dataclass
class StackCall:
    """One call of a stack of layers, or its calls step by step.

    Attributes:
        passes: the layers and directions that ran.
        outputs: of the call; step by step, one for each step.
        order: `[B]`, the rows of the outputs in the order of the passes' rows; None where it is the same.
    """

    passes: list[Pass] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    order: Tensor | None = None
    streamed: bool = False


class Recording:
    """What one run of a network did: a `StackCall` for each call of each of its stacks.

    Args:
        module: holds the networks, such as a task.

    Raises:
        ValueError: there is no recurrence in it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.calls: list[StackCall] = []
        self._open: dict[int, StackCall] = {}
        self._stacks = list(stacks(module))
        if not self._stacks:
            kinds = sorted({type(m).__name__ for m in module.modules() if isinstance(m, nn.RNNBase)})
            hint = f"; it holds torch.nn's own {', '.join(kinds)}: take rnnlab's" if kinds else ""
            raise ValueError(
                f"{type(module).__name__} has no recurrent layer of rnnlab "
                f"(DeepRNN, LSTM, GRU, RNN, Recurrence){hint}"
            )

    @contextmanager
    def running(self) -> Iterator[Recording]:
        """Record what runs meanwhile."""
        with ExitStack() as undo:
            for name, stack, layers in self._stacks:
                owner = stack
                if not isinstance(stack, DeepRNN | Recurrence):  # a stand-in makes a network for its backend
                    undo.enter_context(_backend(stack, "eager"))
                    owner = stack._network()
                for layer_name, layer in layers():
                    full = ".".join(part for part in (name, layer_name) if part)
                    undo.enter_context(_backend(layer, "eager"))
                    undo.enter_context(_replaced(layer, "_chosen", self._chosen(owner, full)))
                    undo.enter_context(_replaced(layer, "step", self._stepping(owner, full, layer)))
                    hook = layer.cell.register_forward_hook(self._taken)
                    undo.callback(hook.remove)
                undo.enter_context(_replaced(owner, "forward", self._watched(owner, streamed=False)))
                undo.enter_context(_replaced(owner, "step", self._watched(owner, streamed=True)))
            yield self

    def _watched(self, stack: Any, streamed: bool) -> Callable[..., Any]:
        """`forward` or `step` of a stack, with what it gives kept."""
        method = stack.step if streamed else stack.forward

        def run(*args: Any, **options: Any) -> Any:
            call = self._open.get(id(stack))
            if call is None or not (streamed and call.streamed):
                call = self._open[id(stack)] = StackCall(streamed=streamed)
                self.calls.append(call)
            outputs, final = method(*args, **options)
            if isinstance(given := args[0] if args else options.get("x"), PackedSequence):
                call.order = given.sorted_indices
            batched = isinstance(given, Tensor) and given.dim() > (1 if streamed else 2)
            tapped = []
            for output in outputs if type(outputs) is tuple else (outputs,):
                tap, by_time = _tapped(output, batched, streamed, getattr(stack, "batch_first", False))
                data = tap.data if isinstance(tap, PackedSequence) else tap
                call.outputs.append(Output(data, by_time))
                tapped.append(tap)
            return (tuple(tapped) if type(outputs) is tuple else tapped[0]), final

        return run

    def _chosen(self, stack: nn.Module, name: str) -> Callable[[Call], Any]:
        """The choice of a backend: the reference, behind a record of the call."""
        recording = self

        class Watched(Eager):
            def run(self, call: Call) -> tuple[Tensor, State]:
                rows = None
                if call.lengths is not None:
                    # The order in which the reference sorts its rows.
                    rows = call.lengths.cpu().sort(descending=True, stable=True)[1]
                found = Pass(name, call.cell, call.spec, call.x.shape[1], call.reverse, rows, call.lengths)
                recording._current(stack).passes.append(found)
                times = iter(_times(call.x.shape[0], call.lengths, call.reverse))
                recording._running = found, times, call.noise
                try:
                    outputs, final = super().run(call)
                finally:
                    recording._running = None
                found.final = tuple(_tap(part) for part in final)
                return outputs, found.final

        return lambda call: Watched()

    _running: tuple[Pass, Iterator[int], tuple[Noise, ...]] | None = None

    def _current(self, stack: nn.Module) -> StackCall:
        call = self._open.get(id(stack))
        if call is None:  # a layer of the stack was called by itself
            call = self._open[id(stack)] = StackCall()
            self.calls.append(call)
        return call

    def _stepping(self, stack: nn.Module, name: str, layer: Recurrence) -> Callable[..., Any]:
        """A layer's `step`, as the next step of its pass."""
        method = layer.step

        def step(x_t: Tensor, state: Any = None) -> Any:
            spec, call = layer.spec(x_t), self._current(stack)
            found = next((p for p in call.passes if p.name == name), None)
            if found is None:
                found = Pass(name, layer.cell, spec, len(x_t), layer.reverse)
                call.passes.append(found)
            self._running = found, iter((len(found.steps),)), ()
            try:
                return method(x_t, state)
            finally:
                self._running = None

        return step

    def _taken(self, cell: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
        """Write down a step of a cell, and put nodes of their own in the place of its new state."""
        if self._running is None:  # called to find out what a step looks like
            return result
        found, times, noise = self._running
        t = next(times)
        spec = found.spec
        own = result[1] if spec.output == "returned" else result
        after = tuple(_tap(part) for part in spec.from_cell(own))
        kept = tuple(Noise(value, item.per) for value, item in zip(args[2:], noise, strict=False))
        before = tuple(part.detach() for part in spec.from_cell(args[1]))
        found.steps.append(Step(t, args[0].detach(), before, after, kept))
        state = spec.to_cell(after)
        return (result[0], state) if spec.output == "returned" else state


def stacks(module: nn.Module) -> Iterator[tuple[str, Any, Callable[[], Any]]]:
    """The outermost networks of a module: name, network, and a function that gives its layers."""
    inside: set[int] = set()
    for name, part in module.named_modules():
        if id(part) in inside:
            continue
        if isinstance(part, DeepRNN):
            inside.update(id(m) for m in part.modules())
            yield name, part, part.layers.items
        elif isinstance(part, Recurrence):
            inside.update(id(m) for m in part.modules())
            yield name, part, partial(dict.items, {"": part})
        elif isinstance(part, nn.RNNBase) and hasattr(part, "_network"):
            yield name, part, partial(_layers_of, part)


def _layers_of(stand_in: Any) -> Any:
    return stand_in._network().layers.items()


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of one object in the place of its class's."""
    before = owner.__dict__.get(name)
    owner.__dict__[name] = value
    try:
        yield
    finally:
        del owner.__dict__[name]
        if before is not None:
            owner.__dict__[name] = before


@contextmanager
def _backend(owner: Any, name: str) -> Iterator[None]:
    before, owner.backend = owner.backend, name
    try:
        yield
    finally:
        owner.backend = before


def _times(length: int, lengths: Tensor | None, reverse: bool) -> list[int]:
    """The times at which the reference calls the cell: those that some row has."""
    longest = length if lengths is None or not len(lengths) else int(lengths.max())
    return list(reversed(range(longest))) if reverse else list(range(longest))


def _tap(tensor: Tensor) -> Tensor:
    """The same values as a node that autograd can be asked about, and that nothing else uses."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.clone() if tensor.requires_grad else tensor.detach().requires_grad_()


def _tapped(
    output: Any, batched: bool, streamed: bool, batch_first: bool
) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """An output as a node of its own, and the function that brings its numbers into `[T, B, *]`."""
    if isinstance(output, PackedSequence):
        packed = output._replace(data=_tap(output.data))
        return packed, lambda data: pad_packed_sequence(packed._replace(data=data))[0]
    tap = _tap(output)
    if streamed:
        return tap, lambda data: (data if batched else data.unsqueeze(0)).unsqueeze(0)
    if not batched:
        return tap, lambda data: data.unsqueeze(1)
    return tap, lambda data: data.transpose(0, 1) if batch_first else data

"""Capture one step of a cell as a graph of core operators.

The step is run on the cell's own parameters with two tiny batches, beneath a `TorchDispatchMode` that sees
every operator PyTorch really executes. Where the two runs differ, and only there, a number is the batch size,
so the graph holds for every batch. It takes milliseconds, where an export takes a second, and it sees what an
export erases: `detach`, `no_grad` and an autograd function of the user's own.

Legend: `B` batch.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from rnnlab.recurrence import decompositions
from rnnlab.recurrence.contract import State, StepSpec, step
from rnnlab.recurrence.graph import Operation, Rows, Size, Trace, Unsupported, Value

# Two batch sizes without a common multiple below any real width; their difference tells a batch from a width.
_BATCHES = (3, 5)
_HERE = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)


def trace(
    cell: nn.Module,
    spec: StepSpec,
    x: Tensor,
    states: Sequence[Tensor],
    noise: Sequence[tuple[Tensor, Literal["step", "sequence", "call"]]] = (),
) -> Trace:
    """Capture one step of a cell.

    Args:
        cell: the cell, whose parameters are read and not written.
        spec: what its step looks like.
        x: `[B, *]`, for its shape, dtype and device alone, as all that follow.
        states: `[B, *]` each.
        noise: one step's masks `[B, *]`, or of any shape if per "call".

    Raises:
        Unsupported: the step depends on the values of tensors, changes a tensor or an attribute in place,
            draws random numbers, or calls an autograd function of its own.
    """
    first, second = (_run(cell, spec, x, states, noise, batch) for batch in _BATCHES)
    return _generalise(first, second)


def _run(
    cell: nn.Module,
    spec: StepSpec,
    x: Tensor,
    states: Sequence[Tensor],
    noise: Sequence[tuple[Tensor, Literal["step", "sequence", "call"]]],
    batch: int,
) -> Trace:
    def sample(like: Tensor, rows: bool = True) -> Tensor:
        shape = (batch, *like.shape[1:]) if rows else tuple(like.shape)
        return torch.ones(shape, dtype=like.dtype, device=like.device)

    device = x.device.type
    autocast = (
        torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
    )
    with torch.inference_mode(False), torch.enable_grad(), autocast, _frozen(cell):
        recorder = _Recorder(cell)
        x_t = sample(x)
        states_t = tuple(sample(s) for s in states)
        noise_t = tuple(sample(value, per != "call") for value, per in noise)
        # A view of all of an argument takes its place in the recorder, so its value is kept here.
        x_value = recorder.enter(x_t, "x", "x", given=True)
        state_values = tuple(
            recorder.enter(state, f"state{i}", "state", given=True, index=i)
            for i, state in enumerate(states_t)
        )
        noise_values = tuple(
            recorder.enter(value, f"noise{i}", "noise", given=True, per=per, index=i)
            for i, (value, (_, per)) in enumerate(zip(noise_t, noise, strict=True))
        )
        try:
            with recorder, _Watch(recorder):
                output, new = step(cell, spec, x_t, states_t, noise_t)
        except Unsupported:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            raise Unsupported(f"a step raises {type(error).__name__}: {lines[0]}") from error
        return recorder.finish(x_value, state_values, noise_values, output, new)


@contextmanager
def _frozen(cell: nn.Module) -> Iterator[None]:
    """The cell with detached aliases of its parameters, so that nothing is recorded for autograd.

    What a step sets on a module is put back, and reported as `Unsupported`.
    """
    modules = list(cell.modules())
    kept = [(m, dict(m.__dict__), dict(m._parameters), dict(m._buffers), _sizes(m)) for m in modules]
    for module in modules:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = parameter.detach()  # type: ignore[assignment]
    changed: list[str] = []
    try:
        yield
    finally:
        for module, attributes, parameters, buffers, sizes in kept:
            now = {**module.__dict__, **module._buffers}
            before = {**attributes, **buffers}
            changed += [
                f"{type(module).__name__}.{name}"
                for name in {*now, *before}
                if now.get(name, kept) is not before.get(name, kept)
            ]
            changed += [
                f"{type(module).__name__}.{n}" for n, size in sizes.items() if len(now.get(n, ())) != size
            ]
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for holder, values in ((module._parameters, parameters), (module._buffers, buffers)):
                holder.clear()
                holder.update(values)  # type: ignore[arg-type]
    if changed:
        raise Unsupported(f"a step changes {sorted(changed)[0]}")


def _sizes(module: nn.Module) -> dict[str, int]:
    """The sizes of what a step might append to."""
    return {n: len(v) for n, v in module.__dict__.items() if isinstance(v, list | dict | set)}


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for tensors that are the same view of the same memory."""
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


class _Recorder(TorchDispatchMode):
    """Writes down every operator of a step, by the memory that its tensors occupy."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.values: dict[tuple[Any, ...], Value] = {}
        self.alive: list[Tensor] = []
        self.operations: list[Operation] = []
        self.parameters: list[Value] = []
        self.constants: list[Value] = []
        self.stale: set[tuple[Any, ...]] = set()
        """What an overlapping view has overwritten since it was recorded."""
        self.given: set[int] = set()
        """The memory that the step did not make itself, and must not change."""
        self.source = ""
        self.inner = False
        for path, tensor in (*cell.named_parameters(), *cell.named_buffers(), *_tensors(cell)):
            if _identity(tensor) not in self.values:
                self.parameters.append(self.enter(tensor, path, "parameter", given=True, path=path))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # By default the first call of a mode imports the whole of torch._dynamo, a second's work.
        return False

    def enter(self, tensor: Tensor, name: str, role: Any, *, given: bool = False, **fields: Any) -> Value:
        """Give a tensor a value of its own."""
        identity = _identity(tensor)
        value = self.values[identity] = Value(name, tuple(tensor.shape), tensor.dtype, role, **fields)
        self.stale.discard(identity)
        self.alive.append(tensor)
        if given:
            self.given.add(identity[0])
        return value

    def read(self, tensor: Tensor) -> Value:
        """The value that a tensor holds now."""
        identity = _identity(tensor)
        if identity in self.stale:
            raise self.refuse("a tensor is read after a part of it was changed in place")
        value = self.values.get(identity)
        if value is None:
            name = f"constant{len(self.constants)}"
            value = self.enter(tensor, name, "constant", given=True)
            value.tensor = tensor
            self.constants.append(value)
        return value

    def refuse(self, reason: str) -> Unsupported:
        return Unsupported(f"{reason} ({self.source})" if self.source else reason)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.inner:
            return self.record(func, args, kwargs)
        self.source, custom = _where()
        if custom:
            raise self.refuse("an autograd function with a derivative of its own")
        decomposition = decompositions.TABLE.get(func)
        if decomposition is None:
            return self.record(func, args, kwargs)
        self.inner = True
        try:
            with self:
                result = decomposition(*args, **kwargs)
                if func._schema.is_mutable:
                    result = args[0].copy_(result)
        except NotImplementedError as error:
            raise self.refuse(f"{func}, {error}") from None
        finally:
            self.inner = False
        return result

    def record(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator and write it down as one without side effects."""
        returns = func._schema.returns
        if any("Tensor" not in str(r.type) for r in returns) or _by_value(func, args):
            raise self.refuse("the step depends on the values of a tensor")
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise self.refuse(f"{func} draws random numbers inside the step; return them from draw() instead")
        values = _map((args, kwargs), self.read)
        mutated = _mutated(func, args, kwargs)
        for tensor in mutated:
            if tensor.untyped_storage()._cdata in self.given:
                raise self.refuse(f"{func} changes a parameter or an argument of the step in place")
        target = func if not func._schema.is_mutable else _functional(func)
        if target is None or len(mutated) > 1:
            raise self.refuse(f"the operator {func}")
        result = func(*args, **kwargs)
        detached = not torch.is_grad_enabled() or func is torch.ops.aten.detach.default
        if detached and not mutated:
            result = self.apart(result)
        for tensor in mutated:
            self.overwrite(tensor)
        tensors = result if isinstance(result, tuple | list) else (result,)
        operation = Operation(target, values[0], values[1], (), self.source, detached)
        outputs = [
            self.enter(t, f"{func.__name__.split('.')[0]}{len(self.operations)}", "node", node=operation)
            if isinstance(t, Tensor)
            else None
            for t in tensors
        ]
        operation.outputs = tuple(outputs)
        self.operations.append(operation)
        return result

    def apart(self, result: Any) -> Any:
        """Results that share memory with no other value: that with a gradient and that without differ."""
        if isinstance(result, tuple | list):
            return type(result)(self.apart(item) for item in result)
        if not isinstance(result, Tensor) or result.untyped_storage()._cdata not in self.storages():
            return result
        result = result.clone()
        self.alive.append(result)
        self.given.add(result.untyped_storage()._cdata)
        return result

    def storages(self) -> set[int]:
        """The memory of all values so far."""
        return {tensor.untyped_storage()._cdata for tensor in self.alive}

    def overwrite(self, tensor: Tensor) -> None:
        """Note that every other view of the memory of `tensor` no longer holds what was recorded."""
        mine = _elements(tensor)
        identity = _identity(tensor)
        for other in self.alive:
            known = _identity(other)
            if known[0] == identity[0] and known != identity and not mine.isdisjoint(_elements(other)):
                self.stale.add(known)

    def finish(
        self, x: Value, states: tuple[Value, ...], noise: tuple[Value, ...], output: Tensor, new: State
    ) -> Trace:
        """The recorded step, from its arguments to its results."""
        self.source = ""
        for got, old in zip(new, states, strict=True):
            if tuple(got.shape) != old.shape:
                raise Unsupported(f"a state of shape {_star(old.shape)} becomes {_star(got.shape)}")
        return Trace(
            x,
            states,
            noise,
            tuple(self.parameters),
            tuple(self.constants),
            tuple(self.operations),
            self.read(output),
            tuple(self.read(n) for n in new),
        )


class _Watch(TorchFunctionMode):
    """Sees what hands the memory of a tensor to other libraries, which is no operator of PyTorch."""

    _LEAVING = (Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr)

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self._LEAVING:
            self.recorder.source, _ = _where()
            raise self.recorder.refuse(f"Tensor.{func.__name__}: the step leaves PyTorch")
        return func(*args, **(kwargs or {}))


def _star(shape: Sequence[Any]) -> list[Any]:
    return ["B", *shape[1:]]


def _tensors(cell: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that modules hold as plain attributes."""
    for prefix, module in cell.named_modules():
        for name, value in module.__dict__.items():
            if isinstance(value, Tensor):
                yield f"{prefix}.{name}" if prefix else name, value


def _elements(tensor: Tensor) -> set[int]:
    """The positions in its storage that a tensor covers."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    places = torch.arange(size).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return set(places.flatten().tolist())


def _by_value(func: OpOverload, args: tuple[Any, ...]) -> bool:
    """Whether the shape or the meaning of a result depends on the values of tensors."""
    if torch.Tag.data_dependent_output in func.tags:
        return True
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    # Indexing has the tag, but its shape depends on values for masks alone.
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else None
    return indices is None or any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _mutated(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that an operator writes to."""
    found: list[Tensor] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[i] if i < len(args) else kwargs.get(argument.name)
            found += [given] if isinstance(given, Tensor) else list(given or ())
    return found


def _functional(func: OpOverload) -> OpOverload | None:
    """The operator that returns what an operator in place writes."""
    name = func.overloadpacket.__name__
    packet = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") else None
    return getattr(packet, func._overloadname, None)


_own_files: dict[str, bool] = {}


def _where() -> tuple[str, bool]:
    """The user's line that is being run, and whether it runs inside an autograd function of their own."""
    frame = sys._getframe(2)
    found = fallback = ""
    custom = False
    while frame is not None and frame.f_code is not _run.__code__:
        file = frame.f_code.co_filename
        inside = _own_files.get(file)
        if inside is None:
            inside = _own_files[file] = file.startswith((_TORCH, _HERE))
        if not inside:
            found = found or _line(file, frame.f_lineno)
        elif file.endswith("autograd/function.py") and frame.f_code.co_name == "apply":
            custom = True
        elif not fallback and "/nn/modules/" in file and not file.endswith("module.py"):
            fallback = _line(file, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return found or fallback, custom


def _line(file: str, number: int) -> str:
    text = linecache.getline(file, number).strip()
    return f"{Path(file).name}:{number}: {text}"


def _map(item: Any, read: Callable[[Tensor], Value]) -> Any:
    """Arguments with their tensors replaced."""
    if isinstance(item, Tensor):
        return read(item)
    if isinstance(item, tuple | list):
        return type(item)(_map(i, read) for i in item)
    if isinstance(item, dict):
        return {k: _map(v, read) for k, v in item.items()}
    return item


def _generalise(first: Trace, second: Trace) -> Trace:
    """The step for any batch: numbers in which the two runs differ become multiples of the batch size."""
    if len(first.operations) != len(second.operations) or len(first.constants) != len(second.constants):
        raise Unsupported("the step takes another course for another batch size")
    twins: dict[Value, Value] = {}

    def shape(a: Value, b: Value) -> None:
        if twins.setdefault(a, b) is not b or len(a.shape) != len(b.shape) or a.dtype != b.dtype:
            raise Unsupported("the step takes another course for another batch size")
        a.shape = tuple(_size(i, j) for i, j in zip(a.shape, b.shape, strict=True))

    for name in ("states", "noise", "parameters", "constants"):
        for a, b in zip(getattr(first, name), getattr(second, name), strict=True):
            shape(a, b)
    shape(first.x, second.x)
    for a, b in zip(first.operations, second.operations, strict=True):
        if a.target is not b.target or len(a.outputs) != len(b.outputs):
            raise Unsupported("the step takes another course for another batch size")
        a.args = _merge(a.args, b.args, twins)
        a.kwargs = _merge(a.kwargs, b.kwargs, twins)
        for i, j in zip(a.outputs, b.outputs, strict=True):
            if i is not None and j is not None:
                shape(i, j)
    results = zip((first.output, *first.next_states), (second.output, *second.next_states), strict=True)
    for a, b in results:
        if twins.get(a) is not b:
            raise Unsupported("the step takes another course for another batch size")
    return first


def _size(a: Any, b: Any) -> Size:
    if a == b:
        return a
    multiple = a // _BATCHES[0]
    if (a, b) != (multiple * _BATCHES[0], multiple * _BATCHES[1]):
        raise Unsupported("the step computes with the batch size beyond shapes")
    return Rows(multiple)


def _merge(a: Any, b: Any, twins: dict[Value, Value]) -> Any:
    """Arguments of the two runs as one, with `Rows` where they differ."""
    if isinstance(a, Value):
        if twins.get(a) is not b:
            raise Unsupported("the step takes another course for another batch size")
        return a
    if isinstance(a, tuple | list):
        return type(a)(_merge(i, j, twins) for i, j in zip(a, b, strict=True))
    if isinstance(a, dict):
        return {k: _merge(v, b[k], twins) for k, v in a.items()}
    if isinstance(a, int) and not isinstance(a, bool) and isinstance(b, int):
        return _size(a, b)
    if a != b and a is not b:
        raise Unsupported("the step computes with the batch size beyond shapes")
    return a

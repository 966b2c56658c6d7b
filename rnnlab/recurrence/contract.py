"""The contract between a cell, the code that runs it over time, and the backends.

Legend: `T` time, `B` batch, `I` input, `H` hidden; `*` stands for any further dimensions, none included.

A cell is any `nn.Module` with `forward(x_t, state) -> new_state`:

- `x_t` is `[B, *]`; a state is a tensor `[B, *]` or a tuple of such tensors. A state keeps its shape and
  dtype from step to step; a new state of another dtype (autocast) is cast back.
- The output of a step is the first tensor of the new state, unless the cell defines `output(state)`, or its
  `forward` returns `(output, new_state)`.
- `initial_state(batch)` is optional and may return learned parameters. Without it the state starts at zeros,
  one to four tensors of the cell's `hidden_size`, which a probing call finds out.
- `draw(length, batch, *, device, dtype)` is optional and returns the random masks of one sequence, a tuple of
  `Noise` (or of plain pairs `(value, per)`, or of tensors `[T, B, *]`, which are per step): a cell need not
  import anything. It returns `()` in eval mode. Each mask is handed to the step as a further argument:
  `forward(x_t, state, *noise_t)`.

A returned `(h, c)` can be a state of two tensors, or an output with a state of one. The structure of the
state that went in decides: what has that structure is a new state, a pair whose second half has it is an
output and a new state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from traceback import extract_tb
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]

# A batch size of its own, so that a dimension of this size in a state is the batch and not a width.
_PROBE_BATCH = 7
_TORCH = str(Path(torch.__file__).parent)


class CannotRun(RuntimeError):
    """A backend found out that it cannot run a call after all, before it computed anything; says why."""


class Noise(NamedTuple):
    """Random values drawn once for a sequence, outside the recurrence.

    `per="step"`: `value` is `[T, B, *]`, and the step at time t gets `value[t]`, in either direction.
    `per="sequence"`: `value` is `[B, *]`, the same at every step (variational dropout).
    `per="call"`: any shape, the same for every step and row (a mask of a weight matrix).
    """

    value: Tensor
    per: Literal["step", "sequence", "call"] = "step"


class Lengths(NamedTuple):
    """Checked lengths: `values` `[B]` int64 where the inputs are, `host` the same on the CPU if known."""

    values: Tensor
    host: Tensor | None


@dataclass(frozen=True)
class StepSpec:
    """What one step of a cell looks like, without the batch dimension: found once by `probe`."""

    state_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    single: bool
    """The cell's state is a bare tensor, not a tuple."""
    output: Literal["state", "method", "returned"]
    """Where the output comes from: the first state, `cell.output(state)`, or `forward` itself."""
    has_initial_state: bool
    has_draw: bool

    def to_cell(self, state: State) -> Tensor | State:
        """A tuple of states in the structure that the cell itself uses."""
        return state[0] if self.single else state

    def from_cell(self, state: Any) -> State:
        """The cell's own structure as a tuple of states."""
        return (state,) if self.single else tuple(state)


@dataclass(slots=True, eq=False)  # to freeze it would take as long as a short step does
class Call:
    """One layer and one direction over a whole sequence: all that a backend is given, to read.

    A backend returns `(outputs [T, B, *], final_state)`: outputs are zero past a row's length, and the final
    state is the one after the row's own last step in the direction of processing.
    """

    cell: nn.Module
    spec: StepSpec
    x: Tensor
    """`[T, B, *]`; anything may stand past a row's length, NaN included, and must not be read."""
    state: State
    """`[B, *]` each: the state before the first step. Carried dtypes are those of these tensors."""
    restart: State | None = None
    """`[B, *]` each: the cell's own initial state, to which a reset returns. Given exactly if `resets` is;
    the same object as `state` where the sequence starts fresh, another where the caller passed a state."""
    lengths: Tensor | None = None
    """`[B]` int64 on the device of `x`, each from 1 to T; None where every row has T steps."""
    host_lengths: Tensor | None = None
    """The same on the CPU, where it is known without waiting for the device."""
    resets: Tensor | None = None
    """`[T, B]` bool: before the step at time t is computed, the state restarts. Shifted if `reverse`."""
    reverse: bool = False
    noise: tuple[Noise, ...] = ()
    named: bool = False
    """The caller named the backend: what it cannot run is an error, and nothing else runs it instead."""

    def signature(self) -> tuple:
        """What a backend may base its refusal on: neither values nor T nor B, so that choices can be kept.

        It stands for `spec` too, which follows from the cell's class and the shape of the inputs.
        """
        cell, x = self.cell, self.x
        device = x.device
        return (
            type(cell),
            has_hooks(cell),
            x.dtype,
            device,
            x.shape[2:],
            tuple([s.dtype for s in self.state]),
            self.lengths is None,
            self.resets is None,
            self.reverse,
            tuple([n.per for n in self.noise]) if self.noise else (),
            torch.is_grad_enabled(),
            self.lengths is not None and torch.compiler.is_compiling(),
            autocast_dtype(device.type),
        )


_AUTOCAST = ("cpu", "cuda")  # which have it, as each call need not ask again


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype that autocast computes in on a type of device; None where it is off, or unknown ("meta")."""
    if device not in _AUTOCAST and not torch.amp.is_autocast_available(device):
        return None
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does more than its `forward`: hooks that only a real call runs."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def step(
    cell: nn.Module, spec: StepSpec, x_t: Tensor, state: State, noise_t: Sequence[Tensor] = ()
) -> tuple[Tensor, State]:
    """One step of a cell as `(output, new_state)`, whichever form the cell itself has."""
    result = cell(x_t, state[0] if spec.single else state, *noise_t)
    if spec.output == "returned":
        output, new = result[0], spec.from_cell(result[1])
    else:
        new = spec.from_cell(result)
        output = cell.output(result) if spec.output == "method" else new[0]  # type: ignore[operator]
    return output, new


def draw(
    cell: nn.Module, length: int, batch: int, *, device: torch.device, dtype: torch.dtype
) -> tuple[Noise, ...]:
    """The random masks of one sequence, from `cell.draw`; empty in eval mode."""
    method: Any = cell.draw
    noise = tuple(
        Noise(n) if isinstance(n, Tensor) else Noise(*n)
        for n in method(length, batch, device=device, dtype=dtype)
    )
    for n in noise:
        wanted = {"step": (length, batch), "sequence": (batch,), "call": ()}.get(n.per)
        if wanted is None:
            raise ValueError(
                f"{type(cell).__name__}.draw returned noise per {n.per!r}: "
                "it must be per 'step', 'sequence' or 'call'"
            )
        if tuple(n.value.shape[: len(wanted)]) != wanted:
            raise ValueError(
                f"{type(cell).__name__}.draw returned noise per {n.per!r} of shape {list(n.value.shape)} for "
                f"{length} steps and {batch} rows: it must start with {list(wanted)}"
            )
    return noise


def initial_state(cell: nn.Module, spec: StepSpec, batch: int, x: Tensor) -> State:
    """The state before the first step: `cell.initial_state(batch)` with its gradient, else zeros.

    Zeros have the dtype of the cell's parameters (of `x`, if it has none) and the device of `x`.
    """
    if spec.has_initial_state:
        return spec.from_cell(cell.initial_state(batch))  # type: ignore[operator]
    dtype, device = _float_dtype(cell, x), x.device
    return tuple([torch.zeros(batch, *shape, dtype=dtype, device=device) for shape in spec.state_shapes])


def probe(cell: nn.Module, x_t: Tensor) -> StepSpec:
    """Find out what a step of the cell looks like, by calling it on zeros shaped like `x_t` `[B, *]`.

    The cell is called in eval mode and without gradients. Raises ValueError where no state can be found that
    the cell both takes and returns.
    """
    x = torch.zeros((_PROBE_BATCH, *x_t.shape[1:]), dtype=x_t.dtype, device=x_t.device)
    modes = [(module, module.training) for module in cell.modules()]
    try:
        cell.eval()
        with torch.no_grad():
            if hasattr(cell, "initial_state"):
                state = _checked_state(cell, cell.initial_state(_PROBE_BATCH))  # type: ignore[operator]
                return _spec(cell, cell(x, state), state)
            return _search(cell, x)
    finally:
        for module, training in modes:
            module.training = training


def _search(cell: nn.Module, x: Tensor) -> StepSpec:
    """The state's structure of a cell that does not tell: by `state=None`, then by zeros of its size."""
    name = type(cell).__name__
    tried: list[tuple[Tensor | State | None, Exception]] = []
    candidates: list[Tensor | State] = []
    try:
        result = cell(x, None)
    except Exception as error:
        tried.append((None, error))
    else:
        # The whole result may be the state, as with nn.LSTMCell, or its second half, as in (output, state).
        for found in (result, result[1] if isinstance(result, tuple | list) and len(result) == 2 else None):
            if _is_state(found):
                candidates.append(_zeros_like(found))
        if not candidates:
            tried.append((None, _Misfit(f"without a state, {name} returned {_describe(result)}")))
    for width in _widths(cell):
        zero = torch.zeros(x.shape[0], width, dtype=_float_dtype(cell, x), device=x.device)
        # Tuples first: a cell that unpacks a tuple can misread a tensor's rows, but none misreads a tuple.
        candidates += [(zero,) * 2, (zero,) * 3, (zero,) * 4, (zero,), zero]
    for state in candidates:
        try:
            return _spec(cell, cell(x, state), state)
        except Exception as error:
            tried.append((state, error))
    nearest, fault = min(tried, key=lambda one: _distance(one[1]))
    given = "no state" if nearest is None else f"the state {_describe(nearest)}"
    raise ValueError(
        f"no state found that {name} takes and returns: with inputs {list(x.shape)} and {given}, "
        + (str(fault) if isinstance(fault, _Misfit) else f"it raises {_first_line(fault)}{_place(fault)}")
        + "; a cell whose state is not one to four tensors [batch, hidden_size] has an "
        "initial_state(batch) that returns it, a tensor or a tuple of tensors [batch, *]"
    ) from fault


class _Misfit(ValueError):
    """A step returned what is no new state."""


def _widths(cell: nn.Module) -> list[int]:
    """How wide a state may be: what the cell says itself, else every size that its parameters have."""
    own = getattr(cell, "hidden_size", None)
    if isinstance(own, int):
        return [own]
    return sorted({size for parameter in cell.parameters() for size in parameter.shape})[:16]


def _distance(error: Exception) -> int:
    """How far a trial was from fitting: the nearest one tells what is wrong."""
    if isinstance(error, _Misfit):
        return 0
    text = str(error)
    if "unpack" in text or "tuple" in text or "NoneType" in text:
        return 2
    return 1


def _place(error: Exception) -> str:
    """The user's own line that raised an error."""
    frames = [f for f in extract_tb(error.__traceback__) if not f.filename.startswith((_TORCH, __file__))]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line})" if frames else ""


def _spec(cell: nn.Module, result: Any, state: Tensor | State) -> StepSpec:
    single = isinstance(state, Tensor)
    shapes = [s.shape for s in ((state,) if isinstance(state, Tensor) else state)]
    output: Literal["state", "method", "returned"]
    if _has_shapes(result, single, shapes):
        if hasattr(cell, "output"):
            output, value = "method", cell.output(result)  # type: ignore[operator]
        else:
            output, value = "state", result if single else result[0]
    elif isinstance(result, tuple | list) and len(result) == 2 and _has_shapes(result[1], single, shapes):
        output, value = "returned", result[0]
    else:
        raise _Misfit(
            f"{type(cell).__name__} was given a state {_describe(state)} and returned {_describe(result)}: "
            "it must return a new state of the same structure and shapes, or (output, new_state)"
        )
    if not isinstance(value, Tensor) or value.shape[:1] != (_PROBE_BATCH,):
        raise _Misfit(
            f"the output of {type(cell).__name__} must be a tensor [{_PROBE_BATCH}, *] for a batch of "
            f"{_PROBE_BATCH}, got {_describe(value)}"
        )
    return StepSpec(
        tuple(tuple(s[1:]) for s in shapes),
        tuple(value.shape[1:]),
        single,
        output,
        hasattr(cell, "initial_state"),
        hasattr(cell, "draw"),
    )


def _has_shapes(value: Any, single: bool, shapes: list[torch.Size]) -> bool:
    if single:
        return isinstance(value, Tensor) and value.shape == shapes[0]
    return _is_state(value) and not isinstance(value, Tensor) and [v.shape for v in value] == shapes


def _is_state(value: Any) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, tuple | list) and len(value) > 0 and all(isinstance(v, Tensor) for v in value)
    )


def _checked_state(cell: nn.Module, state: Any) -> Tensor | State:
    tensors = (state,) if isinstance(state, Tensor) else state
    if not _is_state(state) or any(t.shape[:1] != (_PROBE_BATCH,) for t in tensors):
        raise ValueError(
            f"{type(cell).__name__}.initial_state({_PROBE_BATCH}) returned {_describe(state)}: "
            f"it must be a tensor or a tuple of tensors [{_PROBE_BATCH}, *]"
        )
    return state if isinstance(state, Tensor) else tuple(state)


def _zeros_like(state: Any) -> Tensor | State:
    return torch.zeros_like(state) if isinstance(state, Tensor) else tuple(torch.zeros_like(s) for s in state)


def _float_dtype(cell: nn.Module, x: Tensor) -> torch.dtype:
    for parameter in chain(cell._parameters.values(), cell.parameters()):
        if parameter is not None and parameter.is_floating_point():
            return parameter.dtype
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(_describe(v) for v in value) + ")"
    return type(value).__name__


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:160]


def check_lengths(
    lengths: Tensor | Sequence[int] | Lengths, length: int, batch: int, device: torch.device
) -> Lengths | None:
    """Lengths `[B]` checked and put on `device`; None if every row has all `length` steps.

    Raises TypeError for lengths that are no integers, ValueError for a wrong count or range. The range is
    checked where the values can be read without waiting for a device.
    """
    if isinstance(lengths, Lengths):
        return lengths
    if not isinstance(lengths, Tensor):
        if isinstance(lengths, str):
            raise TypeError(f"lengths must be integers, a tensor [B] or one for each row, got {lengths!r}")
        lengths = torch.tensor(list(lengths))
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must be integers, got {lengths.dtype}")
    if lengths.shape != (batch,):
        raise ValueError(f"lengths must be [B] = [{batch}], one for each row, got {list(lengths.shape)}")
    lengths = lengths.long()
    host = lengths if lengths.device.type == "cpu" else None
    if host is not None and batch and not torch.compiler.is_compiling():
        values = host.tolist()
        low, high = min(values), max(values)
        if low < 1 or high > length:
            wrong = low if low < 1 else high
            raise ValueError(
                f"lengths must be from 1 to T={length}, got {wrong} in row {values.index(wrong)}; "
                + ("leave empty rows out" if low < 1 else "x is too short, or lengths count something else")
            )
        if low == length:
            return None
    return Lengths(lengths.to(device), host)


def check_resets(resets: Tensor, length: int, batch: int, device: torch.device) -> Tensor:
    """Resets `[T, B]` checked. Raises TypeError unless bool, ValueError for a wrong shape or device."""
    if not isinstance(resets, Tensor) or resets.dtype != torch.bool:
        got = resets.dtype if isinstance(resets, Tensor) else type(resets).__name__
        raise TypeError(f"resets must be a bool tensor [T, B], got {got}")
    if resets.shape != (length, batch):
        raise ValueError(f"resets must be [T, B] = [{length}, {batch}], got {list(resets.shape)}")
    if resets.device != device:
        raise ValueError(f"resets are on {resets.device}, the inputs on {device}")
    return resets


def shift_resets(resets: Tensor, lengths: Tensor | None) -> Tensor:
    """Resets for the reverse direction: where a document ends, which is one step before the next one starts.

    What is marked in the padding is left out, so that a row starts its own end with the state it was given.
    """
    shifted = torch.cat([resets[1:], resets.new_zeros(1, resets.shape[1])])
    if lengths is not None:
        steps = torch.arange(1, len(resets) + 1, device=resets.device)
        shifted = shifted & (steps[:, None] < lengths)
    return shifted

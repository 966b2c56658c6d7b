"""The checks of a cell, one function each: what a cell owes the contract, and a backend the cell.

Legend: `T` time, `B` batch, `I` input.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.recurrence.accuracy import Tally, results
from rnnlab.recurrence.choice import names
from rnnlab.recurrence.contract import Noise, StepSpec, draw, probe, step
from rnnlab.recurrence.layer import Recurrence

T, B = 6, 4
LENGTHS = (6, 1, 4, 3)


class Failed(Exception):
    """A check found a fault; the message says what was seen, `backend` where, if not in the reference."""

    def __init__(self, message: str, backend: str | None = None) -> None:
        super().__init__(message)
        self.backend = backend


class Skipped(Exception):
    """A check does not apply; the message says why."""


@dataclass
class Subject:
    """The cell under examination: float64 copies of it, and inputs for it."""

    cell: nn.Module
    width: int
    spec: StepSpec = field(init=False)

    @property
    def double(self) -> nn.Module:
        """A copy in float64 and eval mode."""
        return copy.deepcopy(self.cell).double().eval()

    def inputs(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """`[T, B, I]`, the same at every call."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(T, B, self.width, generator=generator, dtype=torch.float64).to(dtype)

    def state(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        """A state that the cell reaches, of which nothing is zero by chance."""
        layer = Recurrence(self.double, backend="eager")
        with torch.no_grad():
            final = layer(2 * self.inputs().flip(0))[1]
        return tuple(s.to(dtype) for s in self.spec.from_cell(final))

    def reference(self, **options: Any) -> Recurrence:
        """The eager loop over a float64 copy."""
        return Recurrence(self.double, backend="eager", **options)


def contract(subject: Subject) -> str:
    """The cell takes and returns a state, and all else can be asked of it."""
    cell = subject.cell
    subject.spec = spec = probe(cell, torch.zeros(B, subject.width, dtype=_dtype(cell)))
    x = torch.zeros(B, subject.width, dtype=_dtype(cell))
    with torch.no_grad():
        state = Recurrence(cell, backend="eager")(x[None])[1]
    if any(not s.is_floating_point() for s in spec.from_cell(state)):
        raise Failed("a state is not of a floating-point type")
    states = ", ".join(str(["B", *shape]).replace("'", "") for shape in spec.state_shapes)
    kind = {
        "state": "the first state",
        "method": "what output(state) gives",
        "returned": "what forward returns beside the state",
    }[spec.output]
    return f"state {states}; output {list(spec.output_shape)}, {kind}"


def _moves(subject: Subject) -> None:
    double = subject.double
    outputs, final = Recurrence(double, backend="eager")(subject.inputs())
    for name, tensor in {"the output": outputs, "the state": subject.spec.from_cell(final)[0]}.items():
        if tensor.dtype != torch.float64:
            raise Failed(f"in float64, {name} is {tensor.dtype}")


def pure(subject: Subject) -> None:
    """A step changes nothing but its results, and gives the same ones again."""
    cell = subject.double
    x, state = subject.inputs()[0], subject.spec.to_cell(subject.state())
    kept = [t.clone() for t in (x, *subject.spec.from_cell(state), *cell.buffers())]
    first = _flat(cell(x, state))
    if not all(map(torch.equal, kept, (x, *subject.spec.from_cell(state), *cell.buffers()))):
        raise Failed("a step changes its inputs or the cell's buffers in place")
    if _repeats(cell, x, state, first):
        return
    if _repeats(cell, x, state, seed=0):
        raise Failed("forward draws random numbers of its own, in eval mode too")
    raise Failed("the same step gives another result after a step in between")


def _repeats(
    cell: nn.Module, x: Tensor, state: Any, first: tuple[Tensor, ...] | None = None, seed: int | None = None
) -> bool:
    """Whether a step gives its result again after another; with a `seed`, if its random numbers repeat."""

    def run(x: Tensor) -> tuple[Tensor, ...]:
        if seed is not None:
            torch.manual_seed(seed)
        return _flat(cell(x, state))

    first = run(x) if first is None else first
    run(x + 1)
    return all(map(_same, first, run(x)))


def _rows(subject: Subject) -> None:
    x, state = subject.inputs(), subject.state()
    # In training mode by twos, since statistics over a batch refuse a single row.
    for size, mode in ((1, ""), (2, ", in training mode")):
        layer = Recurrence(subject.double.train(bool(mode)), backend="eager")
        whole = layer(x, state)[0]
        if mode and not _same(layer(x, state)[0], whole):
            return  # rows differ by their random numbers
        for row in range(0, B, size):
            at = slice(row, row + size)
            alone = layer(x[:, at], tuple(s[at] for s in state))[0]
            _close(alone, whole[:, at], f"row {row} by itself gives another output than in its batch{mode}")


def _steps(subject: Subject) -> None:
    layer, x, state = subject.reference(), subject.inputs(), subject.state()
    outputs, final = layer(x, state)
    current: Any = state
    for t in range(T):
        output, current = layer.step(x[t], current)
        _close(output, outputs[t], f"step {t} by itself gives another output than the sequence")
    for one, other in zip(_flat(current), _flat(final), strict=True):
        _close(one, other, "the state after the last step is not the final state of the sequence")


def _per_backend(one: Callable[[Subject, str], None]) -> Callable[[Subject], str]:
    """A check that every backend which can run the cell must pass; a fault names the backend."""

    def every(subject: Subject) -> str:
        able = _able(subject)
        for name in able:
            try:
                one(subject, name)
            except Exception as error:
                reason = str(error) if isinstance(error, Failed) else first_line(error)
                raise Failed(f"backend {name}: {reason}", name) from error
        return ", ".join(able)

    return every


@_per_backend
def _splits(subject: Subject, backend: str) -> None:
    layer, x = Recurrence(subject.double, backend=backend), subject.inputs()
    outputs, final = layer(x)
    first, between = layer(x[:2])
    second, end = layer(x[2:], between)
    _close(torch.cat([first, second]), outputs, "two halves give other outputs than the whole")
    for one, other in zip(_flat(end), _flat(final), strict=True):
        _close(one, other, "two halves end in another state than the whole")


@_per_backend
def _padding(subject: Subject, backend: str) -> None:
    lengths = torch.tensor(LENGTHS)
    x = subject.inputs()
    padded = torch.where((torch.arange(T)[:, None] < lengths)[..., None], x, float("nan"))
    for reverse in (False, True):
        layer = Recurrence(subject.double, reverse=reverse, backend=backend)
        found = results(layer, padded, lengths=lengths)
        outputs, final = found["outputs"], found["final state 0"]
        direction = " in reverse" if reverse else ""
        for row, length in enumerate(LENGTHS):
            at = slice(row, row + 1)
            alone, end = layer(x[:length, at])
            _close(outputs[:length, at], alone, f"what stands in the padding changes an output{direction}")
            _close(final[at], _flat(end)[0], f"what stands in the padding changes the final state{direction}")
            if outputs[length:, row].any():
                raise Failed(f"an output past the row's length is not zero{direction}")
        for key, value in found.items():
            if not value.isfinite().all():
                raise Failed(f"NaN in the padding reaches {key}{direction}")


@_per_backend
def _gradients(subject: Subject, backend: str) -> None:
    _gradcheck(torch.autograd.gradcheck, *_function(subject, backend))


@_per_backend
def _second(subject: Subject, backend: str) -> None:
    _gradcheck(torch.autograd.gradgradcheck, *_function(subject, backend, length=2))


def _reached(subject: Subject) -> None:
    # Parameters of the initial state act where it is not given; of the recurrence, most where it is.
    runs = [results(subject.reference(), subject.inputs(), state) for state in (None, subject.state())]
    keys = {name: f"gradient of cell.{name}" for name, _ in subject.cell.named_parameters()}
    dead = [name for name, key in keys.items() if not any(run[key].any() for run in runs)]
    if dead:
        raise Failed(f"no gradient reaches {', '.join(dead)}")


def _fused(subject: Subject) -> str:
    """The error rule, over directions, lengths, resets, and with and without an initial state."""
    _require_fused(subject)
    x, lengths = subject.inputs(), torch.tensor(LENGTHS)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2, 0] = resets[3, 2] = resets[0, 1] = True
    single = copy.deepcopy(subject.cell).float().eval()
    given: tuple[dict[str, Any], ...] = (
        {},
        {"lengths": lengths},
        {"resets": resets},
        {"lengths": lengths, "resets": resets},
    )
    tally = Tally()
    for reverse in (False, True):
        for options in given:
            for state in (None, subject.state()):
                small = None if state is None else tuple(s.float() for s in state)
                exact = results(subject.reference(reverse=reverse), x, state, **options)
                eager, fused = (
                    results(Recurrence(single, reverse=reverse, backend=name), x.float(), small, **options)
                    for name in ("eager", "fused")
                )
                case = [*options, *(["initial state"] if state else []), *(["reverse"] * reverse)]
                tally.add(fused, eager, exact, case=", ".join(case) or "plain")
    for verdict in (tally.singles(), tally.verdict()):
        if not verdict.ok:
            raise Failed(verdict.worst, "fused")
    return f"at most {tally.verdict().worst.partition(': ')[2]}"


@_per_backend
def _masks(subject: Subject, backend: str) -> None:
    """In training mode: random masks come from `draw` alone, and every backend sees the same."""
    cell = subject.double.train()
    x = subject.inputs()
    noise = [n.value[0] if n.per == "step" else n.value for n in _drawn(cell, 1, x)]
    once, twice = (step(cell, subject.spec, x[0], subject.state(), noise) for _ in range(2))
    if not all(map(_same, _flat(once), _flat(twice))):
        raise Failed("in training mode, forward draws random numbers of its own")
    if _refusal(Recurrence(cell, backend=backend), x) is not None:
        return  # it runs the cell in eval mode alone
    found: list[dict[str, Tensor]] = []
    for name in ("eager", backend):
        torch.manual_seed(7)
        found.append(results(Recurrence(cell, backend=name), x))
    for key, value in found[0].items():
        _close(found[1][key], value, f"{key} differs although the seed is the same")


def _drawn(cell: nn.Module, length: int, x: Tensor) -> tuple[Noise, ...]:
    if not hasattr(cell, "draw"):
        return ()
    return draw(cell, length, x.shape[1], device=x.device, dtype=x.dtype)


@_per_backend
def _compiles(subject: Subject, backend: str) -> None:
    layer, x = Recurrence(subject.double, backend=backend), subject.inputs()
    torch.compiler.reset()  # or the cells checked before count towards the limit of recompilations
    expected = results(layer, x)
    found = results(_Compiled(layer), x)
    for key, value in expected.items():
        _close(found[key], value, f"compiled, {key} is another")


@_per_backend
def _autocasts(subject: Subject, backend: str) -> None:
    layer = Recurrence(copy.deepcopy(subject.cell).float().eval(), backend=backend)
    x = subject.inputs(torch.float32)
    state = subject.state()
    exact = subject.reference()(x.double(), state)[0]
    layer.spec(x[0])
    with torch.autocast("cpu", torch.bfloat16):
        outputs, final = layer(x, tuple(s.float() for s in state))
        outputs.float().sum().backward()
    if any(s.dtype != torch.float32 for s in _flat(final)):
        raise Failed(f"the state is carried as {_flat(final)[0].dtype}, not as float32")
    difference = float((outputs.double() - exact).norm() / (exact.norm() + 1e-12))
    if not difference < 0.1:
        raise Failed(f"under bfloat16 the outputs are {difference:.1%} off")


def _copies(subject: Subject) -> None:
    cell = subject.double
    layer, x = Recurrence(cell, backend="eager"), subject.inputs()
    expected = layer(x)[0]
    others = {"a deep copy": copy.deepcopy(cell)}
    try:
        others["what pickle restored"] = pickle.loads(pickle.dumps(cell))
    except Exception as error:
        raise Failed(f"the cell cannot be pickled: {first_line(error)}") from error
    loaded = copy.deepcopy(cell)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
    loaded.load_state_dict(cell.state_dict())
    others["what load_state_dict restored"] = loaded
    for name, other in others.items():
        _close(Recurrence(other, backend="eager")(x)[0], expected, f"{name} computes something else")


class _Compiled(nn.Module):
    """A layer under `torch.compile(fullgraph=True)`, called like the layer."""

    def __init__(self, layer: Recurrence) -> None:
        super().__init__()
        self.layer = layer
        self.run = torch.compile(layer.forward, fullgraph=True, backend="aot_eager")

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return self.layer.named_parameters(*args, **options)

    def forward(self, x: Tensor, state: Any, **options: Any) -> Any:
        return self.run(x, state, **options)


CHECKS: tuple[tuple[str, Callable[[Subject], str | None], str], ...] = (
    (
        "the contract is kept",
        contract,
        "write forward(x_t, state) -> new_state with states [B, *] of a constant shape; where the start is "
        "not zeros, or there are several states, add initial_state(batch)",
    ),
    (
        "dtype follows the parameters",
        _moves,
        "make constants and initial states with new_zeros or *_like of a parameter, never with a dtype of "
        "your own",
    ),
    (
        "a step has no side effect",
        pure,
        "keep nothing on self between steps, and use no in-place operation on arguments: what must be "
        "remembered is a state; random numbers come from draw(length, batch, *, device, dtype)",
    ),
    (
        "rows do not see each other",
        _rows,
        "normalise or reduce over the features of a row (dim=-1), never over the batch",
    ),
    ("step equals sequence", _steps, "a step may depend on x_t and state alone"),
    ("a split sequence equals a whole one", _splits, "everything that is remembered must be in the state"),
    ("padding changes nothing", _padding, "a step may depend on its own row alone; see also: rows"),
    (
        "gradients are right, in float64",
        _gradients,
        "look for detach(), .data, item(), rounding, or a custom backward; a kink (relu, abs, max) met "
        "exactly is a false alarm: try other parameters",
    ),
    ("the second derivative is right", _second, "a custom autograd.Function needs a differentiable backward"),
    ("every parameter is reached", _reached, "remove a parameter that nothing reads, or read it"),
    ("fused equals eager", _fused, ""),
    (
        "masks are the same on every backend",
        _masks,
        "draw random numbers in draw(length, batch, *, device, dtype), never in forward",
    ),
    (
        "torch.compile takes it whole",
        _compiles,
        "print, .item(), and branches on values of tensors break a graph: use torch.where",
    ),
    ("autocast works", _autocasts, "do not fix a dtype inside the step; exp and division want a wider range"),
    (
        "copies and checkpoints restore it",
        _copies,
        "keep lambdas and open handles off the cell; register tensors",
    ),
)


def _able(subject: Subject) -> list[str]:
    """The backends that can run the cell, the reference first."""
    x = subject.inputs()
    rest = [n for n in names() if n != "eager" and _refusal(Recurrence(subject.double, backend=n), x) is None]
    return ["eager", *rest]


def _refusal(layer: Recurrence, x: Tensor) -> str | None:
    """Why the layer's backend does not run it; None if it does."""
    try:
        with torch.random.fork_rng(devices=[]):
            layer(x[:1])
    except ValueError as error:
        return str(error)
    return None


def _require_fused(subject: Subject) -> None:
    if "fused" not in names():
        raise Skipped("there is no fused backend here")
    reason = _refusal(Recurrence(subject.double, backend="fused"), subject.inputs())
    if reason is not None:
        raise Skipped(f"not fused: {reason}")


def _function(subject: Subject, backend: str, length: int = 3) -> tuple[Callable[..., Any], list[Tensor]]:
    """The recurrence as a function of its inputs, states and parameters, for two rows."""
    layer = Recurrence(subject.double, backend=backend)
    keys = [key for key, _ in layer.named_parameters()]
    states = tuple(s[:2] for s in subject.state())

    def run(x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(keys, tensors[len(states) :], strict=True))
        outputs, final = torch.func.functional_call(layer, parameters, (x, tensors[: len(states)]))
        return tuple(t for t in (outputs, *_flat(final)) if t.requires_grad)

    values = [subject.inputs()[:length, :2], *states, *layer.parameters()]
    return run, [v.detach().clone().requires_grad_() for v in values]


def _gradcheck(function: Callable[..., bool], run: Callable[..., Any], values: Sequence[Tensor]) -> None:
    try:
        function(run, tuple(values), fast_mode=True, nondet_tol=0.0)
    except RuntimeError as error:
        raise Failed(first_line(error)) from error


def _close(actual: Tensor, expected: Tensor, message: str) -> None:
    """Equal up to the rounding of float64: another order of sums may change the last digits, and no more."""
    if actual.shape != expected.shape:
        raise Failed(f"{message} (shape {list(actual.shape)}, not {list(expected.shape)})")
    if not torch.allclose(actual, expected, rtol=1e-9, atol=1e-10, equal_nan=True):
        raise Failed(f"{message} (largest difference {(actual - expected).abs().max().item():.1e})")


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _flat(value: Any) -> tuple[Tensor, ...]:
    """All tensors of nested tuples, in order."""
    if isinstance(value, Tensor):
        return (value,)
    return tuple(tensor for item in value for tensor in _flat(item))


def _dtype(cell: nn.Module) -> torch.dtype:
    return next((p.dtype for p in cell.parameters() if p.is_floating_point()), torch.get_default_dtype())


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]

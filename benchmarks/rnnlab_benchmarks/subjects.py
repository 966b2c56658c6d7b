"""Who is measured: each subject runs the same cell, with the same weights, over the same sequence.

A subject refuses a case with a reason, or prepares a `Runner`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from rnnlab import cells
from rnnlab.recurrence import Recurrence, backends
from rnnlab_benchmarks.cases import Case

Forward = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]


@dataclass
class Problem:
    """A case with its numbers: weights, inputs [T, B, I], and a random cotangent of the outputs [T, B, *]."""

    case: Case
    cell: nn.Module
    x: Tensor
    cotangent: Tensor

    @classmethod
    def of(cls, case: Case, seed: int = 0) -> Problem:
        shape, dtype = case.shape, getattr(torch, case.dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            options = {"proj_size": (shape.H + 1) // 2} if case.cell == "projected_lstm" else {}
            cell = cells.find(case.cell)(shape.I, shape.H, **options).to(dtype)
            x = torch.randn(shape.T, shape.B, shape.I, dtype=dtype)
            width = Recurrence(cell).spec(x[0]).output_shape
            cotangent = torch.randn(shape.T, shape.B, *width, dtype=dtype)
        return cls(case, cell, x, cotangent)


class Runner(Protocol):
    """A subject ready to run one case."""

    def infer(self) -> Any:
        """The forward pass, without what a backward would need."""

    def train(self) -> Any:
        """A forward and a backward pass, with gradients of weights and inputs."""

    def results(self) -> dict[str, Tensor]:
        """Outputs, final states and gradients, by the names that the cell gives them."""


class Subject(Protocol):
    """Somebody to be measured."""

    name: str

    def refusal(self, case: Case) -> str | None:
        """Why this subject cannot run the case; None if it can."""

    def prepare(self, problem: Problem) -> Runner:
        """Copy the weights and get ready."""


@dataclass
class TorchRunner:
    """Anything that runs in PyTorch with autograd."""

    forward: Forward
    parameters: dict[str, nn.Parameter]
    x: Tensor
    cotangent: Tensor
    _input: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._input = self.x.clone().requires_grad_()

    def infer(self) -> Tensor:
        with torch.no_grad():
            return self.forward(self.x)[0]

    def kept(self) -> Any:
        """A forward pass that a backward could follow."""
        return self.forward(self._input)

    def train(self) -> None:
        for tensor in (self._input, *self.parameters.values()):
            tensor.grad = None
        outputs, _ = self.forward(self._input)
        outputs.backward(self.cotangent)

    def results(self) -> dict[str, Tensor]:
        for tensor in (self._input, *self.parameters.values()):
            tensor.grad = None
        outputs, final = self.forward(self._input)
        outputs.backward(self.cotangent)
        outputs, final = outputs.detach(), tuple(s.detach() for s in final)
        found = {"outputs": outputs} | {f"final state {k}": state for k, state in enumerate(final)}
        named = {"inputs": self._input, **self.parameters}
        return found | {f"gradient of {k}": t.grad for k, t in named.items() if t.grad is not None}


class Ours:
    """One of rnnlab's own backends, by name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def refusal(self, case: Case) -> str | None:
        return None if self.name in backends() else f"there is no backend {self.name!r}"

    def prepare(self, problem: Problem) -> Runner:
        layer = Recurrence(problem.cell, backend=self.name)

        def forward(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            outputs, final = layer(x)
            return outputs, final if isinstance(final, tuple) else (final,)

        return TorchRunner(forward, dict(problem.cell.named_parameters()), problem.x, problem.cotangent)


class Aten:
    """`torch.nn`'s own layer: oneDNN or ATen's own loop on a CPU."""

    name = "aten"
    layers: ClassVar[dict[str, Callable[..., nn.Module]]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}

    def refusal(self, case: Case) -> str | None:
        return None if case.cell in self.layers else "torch.nn has no such layer"

    def prepare(self, problem: Problem) -> Runner:
        shape = problem.case.shape
        layer = self.layers[problem.case.cell](shape.I, shape.H, dtype=problem.x.dtype)
        named = dict(problem.cell.named_parameters())
        parameters = {name: getattr(layer, f"{name}_l0") for name in named}
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(named[name])

        def forward(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            outputs, final = layer(x)
            return outputs, tuple(s[0] for s in final) if isinstance(final, tuple) else (final[0],)

        return TorchRunner(forward, parameters, problem.x, problem.cotangent)


class Scan:
    """`torch.compile` of `torch._higher_order_ops.scan`, the scan that PyTorch has; it runs compiled only."""

    name = "scan"

    def refusal(self, case: Case) -> str | None:
        return None

    def prepare(self, problem: Problem) -> Runner:
        from torch._higher_order_ops.scan import scan

        cell = problem.cell
        spec = Recurrence(cell).spec(problem.x[0])
        zeros = Recurrence(cell, backend="eager")(problem.x[:1])[1]
        initial = tuple(torch.zeros_like(s) for s in spec.from_cell(zeros))
        if hasattr(cell, "initial_state"):
            initial = tuple(s.detach() for s in spec.from_cell(cell.initial_state(problem.x.shape[1])))  # type: ignore[operator]

        def combine(state: tuple[Tensor, ...], x_t: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            new = spec.from_cell(cell(x_t, spec.to_cell(state)))
            return tuple(s.clone() for s in new), new[0].clone()  # scan refuses aliases

        def run(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            final, outputs = scan(combine, tuple(s.clone() for s in initial), x, dim=0)
            return outputs, final

        # Each shape for itself, as in a process of its own: not with sizes that vary, nor up to a limit.
        torch.compiler.reset()
        compiled = torch.compile(run, fullgraph=True)

        def forward(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's own
                return compiled(x)

        return TorchRunner(forward, dict(cell.named_parameters()), problem.x, problem.cotangent)


def subjects(names: list[str] | None = None) -> dict[str, Subject]:
    """The subjects of those names, all of them without a name.

    Raises:
        ValueError: a name that nobody has.
    """
    from rnnlab_benchmarks.jax_peer import Jax

    every: dict[str, Subject] = {s.name: s for s in (Ours("fused"), Aten(), Ours("eager"), Scan(), Jax())}
    unknown = [name for name in names or () if name not in every]
    if unknown:
        raise ValueError(f"there is no peer {unknown[0]!r}; there are {', '.join(every)}")
    return {name: every[name] for name in names or every}

"""The error rule that a backend is held to: against float64, at most twice what the eager loop errs.

Both errors are measured in the same dtype, for every output, final state and gradient. The bound follows the
problem (a long or ill-conditioned recurrence may err more) and needs no tolerance chosen by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

FACTOR = 2.0


@dataclass(frozen=True)
class Accuracy:
    """How results compare under the rule."""

    ok: bool
    worst: str
    """The result that comes nearest to its bound, or is furthest past it, in words."""


def error(actual: Tensor, exact: Tensor) -> float:
    """The error in the Euclidean norm, relative to the exact value; infinite where NaN or infinity differ."""
    if actual.shape != exact.shape:
        return float("inf")
    actual, exact = actual.detach().double(), exact.detach().double()
    finite = exact.isfinite()
    if not finite.all():
        if not torch.equal(torch.where(finite, 0, exact).nan_to_num(3, 1, 2), _odd(actual, finite)):
            return float("inf")
        actual, exact = actual[finite], exact[finite]
    if not actual.isfinite().all():
        return float("inf")
    scale = float(exact.norm())
    return float((actual - exact).norm()) / (scale if scale > 0 else 1.0)


def compare(
    results: Mapping[str, Tensor],
    eager: Mapping[str, Tensor],
    exact: Mapping[str, Tensor],
    *,
    factor: float = FACTOR,
) -> Accuracy:
    """Hold results to the rule, name by name; all three must have the same names.

    Args:
        results: what is judged.
        eager: the reference's results in the same dtype.
        exact: the reference's results in float64.
        factor: how many times eager's error is allowed. One rounding unit of the dtype always is.
    """
    if set(results) != set(exact):
        missing = sorted(set(exact) ^ set(results))
        return Accuracy(False, f"{', '.join(missing)}: given by one side alone")
    worst, worst_share, ok = "nothing to compare", -1.0, True
    for name, value in results.items():
        ours, theirs = error(value, exact[name]), error(eager[name], exact[name])
        bound = factor * theirs + torch.finfo(value.dtype).eps
        share = ours / bound
        if not ours <= bound:
            ok = False
        if share > worst_share:
            worst_share = share
            worst = f"{name}: error {ours:.1e}, eager's {theirs:.1e}, at most {bound:.1e} allowed"
    return Accuracy(ok, worst)


class Tally:
    """The rule over several runs: at most twice eager's error on the geometric mean, eight times in each.

    A recurrence amplifies rounding errors, and a single run compares two draws of that noise: an
    ill-conditioned cell, such as one with layer normalisation, would fail by chance now and then.
    """

    PEAK = 8.0

    def __init__(self) -> None:
        self._ratios: dict[str, list[float]] = {}
        self._runs: list[tuple[str, str, float, float]] = []

    def add(
        self,
        results: Mapping[str, Tensor],
        eager: Mapping[str, Tensor],
        exact: Mapping[str, Tensor],
        *,
        case: str = "",
    ) -> Accuracy:
        """Count a run, named `case`; the verdict is that of this run alone, by the bound of a single one."""
        single = compare(results, eager, exact, factor=self.PEAK)
        for name in set(results) & set(exact):
            ours, theirs = error(results[name], exact[name]), error(eager[name], exact[name])
            rounding = torch.finfo(results[name].dtype).eps / FACTOR
            self._ratios.setdefault(name, []).append((ours + rounding) / (theirs + rounding))
            self._runs.append((name, case, ours, theirs + rounding))
        return single

    def singles(self) -> Accuracy:
        """The verdict on each run alone: at most eight times eager's error, there or as it usually is.

        Eager's error in one run is a draw as well, and a lucky one is no measure: of a normalised cell's
        results one in 150 would fail, with any backend.
        """
        finite = [(name, theirs) for name, *_, theirs in self._runs if math.isfinite(theirs)]
        usual = {
            name: _geometric_mean([theirs for other, theirs in finite if other == name] or [0.0])
            for name in self._ratios
        }
        for name, case, ours, theirs in self._runs:
            bound = self.PEAK * max(theirs, usual[name])
            if not ours <= bound:
                said = f"{name}: error {ours:.1e}, eager's {theirs:.1e}, at most {bound:.1e} allowed ({case})"
                return Accuracy(False, said)
        return Accuracy(bool(self._runs), "each run alone")

    def verdict(self) -> Accuracy:
        """The verdict over all runs that were added."""
        means = {name: _geometric_mean(ratios) for name, ratios in self._ratios.items()}
        if not means:
            return Accuracy(False, "nothing to compare")
        worst = max(means, key=lambda name: means[name])
        runs = len(self._ratios[worst])
        said = f"{worst}: {means[worst]:.2f} times eager's error on the geometric mean of {runs} runs"
        return Accuracy(means[worst] <= FACTOR, said)


def results(
    layer: nn.Module, x: Tensor, state: tuple[Tensor, ...] | None = None, *, seed: int = 0, **options: Any
) -> dict[str, Tensor]:
    """Everything that a recurrence gives, by name, gradients for random cotangents on all of it included.

    Args:
        layer: a `Recurrence`, or what is called like one.
        x: `[T, B, *]`.
        state: the states before the first step, in a tuple.
        seed: of the cotangents, which are the same in every dtype.
        options: `lengths` and `resets`.

    Returns:
        "outputs", "final state k", and "gradient of" the inputs, each initial state and each parameter; one
        that depends on nothing has a gradient of zeros.
    """
    x = x.detach().clone().requires_grad_()
    given = None if state is None else tuple(s.detach().clone().requires_grad_() for s in state)
    outputs, final = layer(x, given, **options)
    finals = (final,) if isinstance(final, Tensor) else tuple(final)
    found = {"outputs": outputs} | {f"final state {k}": s for k, s in enumerate(finals)}
    generator = torch.Generator().manual_seed(seed)
    leaves = {"inputs": x} | {f"state {k}": s for k, s in enumerate(given or ())}
    leaves |= dict(layer.named_parameters())
    drawn = [(t, torch.randn(t.shape, generator=generator, dtype=torch.float64)) for t in found.values()]
    roots, cotangents = zip(*((t, c.to(t)) for t, c in drawn if t.requires_grad), strict=True)
    gradients = torch.autograd.grad(
        roots, list(leaves.values()), cotangents, allow_unused=True, materialize_grads=True
    )
    named = {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)}
    return {name: t.detach() for name, t in (found | named).items()}


def _geometric_mean(values: list[float]) -> float:
    if 0.0 in values:
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values)) if all(map(math.isfinite, values)) else math.inf


def _odd(actual: Tensor, finite: Tensor) -> Tensor:
    return torch.where(finite, 0, actual).nan_to_num(3, 1, 2)

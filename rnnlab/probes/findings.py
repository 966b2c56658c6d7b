"""All probes of a network at once, and what follows from them.

Legend: `K` lags, `T` time, `R` rows of all batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.probes.gradients import Memory, gradients_by_lag, mean_curve, memory_length, padded
from rnnlab.probes.lyapunov import Exponent, exponent, growth_of
from rnnlab.probes.record import Recording
from rnnlab.probes.saturation import Activation, saturation
from rnnlab.recurrence.graph import Unsupported

# Shares of the largest influence: the characteristic time, and the reach of what is learned.
E_FOLD, PERCENT = 1 / math.e, 0.01
# A gradient that loses 99 % within this share of the sequence, and 99 % of the rest, vanishes; one that grows
# tenfold over the farther half explodes. (Layers above make it grow in proportion to the lag, too: that is no
# explosion.)
SHORT, GROWS = 0.25, 10.0


@dataclass(frozen=True)
class LayerFindings:
    """What the probes found in one layer and direction.

    Attributes:
        name: where the network keeps it.
        cell: the class of its cell.
        gradient: `[K, R]`, the norm of the gradient k steps back, for each row.
        growth: `[T, R]`, of `local_growth`; None where it could not be measured.
        activations: how its gates were used; None where the step could not be captured.
        reasons: why something is missing, by its name.
    """

    name: str
    cell: str
    gradient: Tensor
    growth: Tensor | None = None
    activations: tuple[Activation, ...] | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    @cached_property
    def curve(self) -> Tensor:
        """`[K]`, the mean norm of the gradient at each lag."""
        return mean_curve(self.gradient)

    @property
    def rate(self) -> float:
        """The factor by which the gradient changes for each step back, on the whole; NaN where unknown."""
        last = int((self.curve > 0).nonzero()[-1]) if bool((self.curve > 0).any()) else 0
        if last == 0 or self.curve[0] <= 0:
            return math.nan
        return float((self.curve[last] / self.curve[0]) ** (1 / last))

    def memory(self, share: float) -> Memory | None:
        """See `memory_length`; None where the loss reads no step that has one before it, or none at all."""
        known = len(self.curve) > 1 and bool((self.curve > 0).any())
        return memory_length(self.curve, share) if known else None

    @cached_property
    def exponent(self) -> Exponent | None:
        """The largest Lyapunov exponent, in nats a step; None where it could not be measured."""
        return None if self.growth is None else exponent(self.growth)

    @property
    def saturated(self) -> float | None:
        """The share of gate activations (sigmoids) that are saturated; None where there is no gate."""
        gates = [a for a in self.activations or () if a.kind == "sigmoid"]
        total = sum(a.count for a in gates)
        return sum(a.saturated * a.count for a in gates) / total if total else None

    @property
    def verdict(self) -> str:
        """`vanishes`, `explodes`, or nothing."""
        reach = self.memory(PERCENT)
        if reach is None:
            return ""
        if (
            not bool(torch.isfinite(self.curve).all())
            or self.curve[-1] > GROWS * self.curve[len(self.curve) // 2]
        ):
            return "explodes"
        if reach.open or reach.steps >= SHORT * len(self.curve):
            return ""
        # A gated memory may take a small share of the last step's gradient and keep it: that is no vanishing.
        return "vanishes" if self.curve[-1] < PERCENT * self.curve[reach.steps] else ""


@dataclass(frozen=True)
class Findings:
    """What the probes found in a network, layer by layer, the lowest first."""

    layers: tuple[LayerFindings, ...]

    def numbers(self) -> dict[str, float]:
        """Everything that is one number, by the name under which it is logged."""
        found: dict[str, float] = {}
        for layer in self.layers:
            key = f"probe/{layer.name}/" if layer.name else "probe/"
            for name, share in (("memory_e_steps", E_FOLD), ("memory_1pct_steps", PERCENT)):
                if (memory := layer.memory(share)) is not None:
                    found[key + name] = float(memory.steps)
            if len(layer.curve):
                found[f"{key}gradient_rate"] = layer.rate
                found[f"{key}gradient_first"] = float(layer.curve[0])
                found[f"{key}gradient_last"] = float(layer.curve[-1])
            if layer.exponent is not None:
                found[f"{key}lyapunov"] = layer.exponent.value
            if layer.saturated is not None:
                found[f"{key}saturated"] = layer.saturated
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def records(self) -> list[dict[str, Any]]:
        """Everything in JSON's own types, one record a layer."""
        return [
            {
                "layer": layer.name,
                "cell": layer.cell,
                "verdict": layer.verdict or None,
                "gradient_by_lag": layer.curve.tolist(),
                "gradient_rate": _finite(layer.rate),
                "memory_e": _memory(layer.memory(E_FOLD)),
                "memory_1pct": _memory(layer.memory(PERCENT)),
                "lyapunov": None if layer.exponent is None else _finite(layer.exponent.value),
                "lyapunov_spread": None if layer.exponent is None else _finite(layer.exponent.spread),
                "activations": [vars(a) for a in layer.activations or ()],
                "not_measured": dict(layer.reasons),
            }
            for layer in self.layers
        ]

    def advice(self) -> dict[str, str]:
        """What is wrong, and what to try, for each layer where something is."""
        found = {}
        for layer in self.layers:
            reach, last = layer.memory(PERCENT), len(layer.curve) - 1
            if layer.verdict == "vanishes":
                found[layer.name] = (
                    f"{layer.name}: the gradient vanishes: {reach} steps back less than 1 % of it is left, "
                    f"of {last} steps measured. {TRY['vanishes']}"
                )
            elif layer.verdict == "explodes":
                times = float(layer.curve[-1] / layer.curve[0])
                found[layer.name] = (
                    f"{layer.name}: the gradient explodes: {last} steps back it is {times:.3g} times as "
                    f"large as at the last step. {TRY['explodes']}"
                )
        return found


TRY = {
    "vanishes": (
        "Try a gated cell (cell=lstm, cell=gru) with its memory open at first (cell.forget_bias=1), "
        "cell=layer_norm_lstm, or model.residual=true; for an ungated cell an orthogonal cell.init"
    ),
    "explodes": (
        "Try trainer.gradient_clip_val=1.0 or a smaller one, a smaller optim.lr, a gated cell (cell=lstm, "
        "cell=gru), cell=layer_norm_lstm, or cell=antisymmetric_rnn"
    ),
}


def probe(module: nn.Module, loss: Callable[[], Tensor]) -> Findings:
    """Run a network once and look at its inside.

    Args:
        module: the network, or a task that holds it; put it in evaluation mode to leave dropout out.
        loss: runs the network on held-out data and returns its loss, a number.

    Raises:
        ValueError: there is no recurrence, or the loss does not depend on any.
    """
    recording = Recording(module)
    with torch.enable_grad(), recording.running():
        value = loss()
    layers = []
    order = [id(done) for call in recording.calls for done in call.passes]
    gradients = sorted(gradients_by_lag(recording, value), key=lambda pair: order.index(id(pair[0])))
    for done, norms in gradients:
        reasons: dict[str, str] = {}
        growth = activations = None
        if not bool((norms > 0).any()):
            reasons["gradient"] = "it is 0 at every step: the loss does not depend on this layer"
        try:
            growth = growth_of(done)
        except (NotImplementedError, RuntimeError) as error:
            reasons["lyapunov"] = _first_line(error)
        try:
            activations = tuple(saturation(done))
        except Unsupported as error:
            reasons["saturation"] = _first_line(error)
        layers.append(
            LayerFindings(done.name, type(done.cell).__name__, norms.cpu(), growth, activations, reasons)
        )
    return merge([Findings((layer,)) for layer in layers])


def merge(findings: Iterable[Findings]) -> Findings:
    """The findings of several batches as one: rows side by side, activations counted together."""
    by_name: dict[str, list[LayerFindings]] = {}
    for found in findings:
        for layer in found.layers:
            by_name.setdefault(layer.name, []).append(layer)
    return Findings(tuple(_merged(layers) for layers in by_name.values()))


def _merged(layers: Sequence[LayerFindings]) -> LayerFindings:
    if len(layers) == 1:
        return layers[0]
    growths = [layer.growth for layer in layers if layer.growth is not None]
    activations = [layer.activations for layer in layers if layer.activations is not None]
    joined = list(activations[0]) if activations else None
    for more in activations[1:]:
        assert joined is not None
        joined = [a.joined(b) for a, b in zip(joined, more, strict=True)]
    return LayerFindings(
        layers[0].name,
        layers[0].cell,
        padded([layer.gradient for layer in layers]),
        padded(growths) if growths else None,
        None if joined is None else tuple(joined),
        {key: reason for layer in layers for key, reason in layer.reasons.items()},
    )


def _memory(memory: Memory | None) -> dict[str, Any] | None:
    return None if memory is None else {"steps": memory.steps, "longer": memory.open}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

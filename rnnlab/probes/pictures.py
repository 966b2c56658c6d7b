"""Pictures of what the probes found, one PNG each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from rnnlab.probes.findings import E_FOLD, PERCENT, Findings, LayerFindings

# How far down gradients are drawn, as a share of the largest: what is below is gone.
DEPTH = 1e-12
# From the lowest layer to the highest; the reverse direction is dashed.
_COLOURS = ("#2f6db5", "#c8442c", "#3a8f5c", "#8a5bb0", "#b8860b", "#4a9fb5", "#a03b6b", "#6b6b6b")


def draw(findings: Findings, folder: str | Path) -> list[Path]:
    """Draw `gradients.png`, `saturation.png`, `lyapunov.png` and `memory.png`.

    Returns:
        The pictures that there was something to draw for.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, function in (
        ("gradients", _gradients),
        ("saturation", _saturation),
        ("lyapunov", _lyapunov),
        ("memory", _memory),
    ):
        figure = function(findings)
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=120)
            drawn.append(folder / f"{name}.png")
    return drawn


def _figure(height_inch: float, width_inch: float = 8.0) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, paid only where one draws
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inch, height_inch), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _short(findings: Findings) -> dict[str, str]:
    """Names without what all of them begin with, up to a dot."""
    names = [layer.name for layer in findings.layers]
    shared = names[0].split(".")[:-1] if names else []
    while shared and not all(name.split(".")[: len(shared)] == shared for name in names):
        shared.pop()
    return {name: ".".join(name.split(".")[len(shared) :]) or name for name in names}


def _style(findings: Findings) -> dict[str, dict[str, Any]]:
    """One colour a layer, one dash a direction."""
    colours: dict[str, str] = {}
    styles = {}
    for layer in findings.layers:
        pair = layer.name.removesuffix("_reverse")
        colour = colours.setdefault(pair, _COLOURS[len(colours) % len(_COLOURS)])
        styles[layer.name] = {"color": colour, "linestyle": "--" if pair != layer.name else "-"}
    return styles


def _legend(axes: Any, count: int) -> None:
    axes.legend(fontsize=9, frameon=False, ncols=1 if count < 9 else 2)


def _gradients(findings: Findings) -> Any:
    shown = [layer for layer in findings.layers if layer.memory(PERCENT) is not None]
    if not shown:
        return None
    figure, axes = _figure(4.2)
    names, styles = _short(findings), _style(findings)
    for layer in shown:
        curve = layer.curve
        rows = layer.gradient[: len(curve)]
        axes.plot(
            torch.where(curve > 0, curve, math.nan),
            label=f"{names[layer.name]} ({layer.cell})",
            linewidth=1.8,
            **styles[layer.name],
        )
        if rows.shape[1] > 3:
            low, high = (rows.double().nanquantile(q, dim=1).clamp(min=1e-45) for q in (0.25, 0.75))
            axes.fill_between(
                range(len(curve)), low, high, color=styles[layer.name]["color"], alpha=0.12, linewidth=0
            )
    axes.set_yscale("log")
    finite = torch.cat([layer.curve[layer.curve.isfinite() & (layer.curve > 0)] for layer in shown])
    if len(finite) and finite.min() < DEPTH * finite.max():
        axes.set_ylim(DEPTH * float(finite.max()), 10 * float(finite.max()))
    axes.set_xlim(0, max(1, *(len(layer.curve) - 1 for layer in shown)))
    axes.set_title("gradient of the loss at earlier states", fontsize=11)
    axes.set_xlabel("steps back from where the loss reads the output", fontsize=9)
    axes.set_ylabel("norm (mean of rows; band: quartiles)", fontsize=9)
    axes.grid(alpha=0.25)
    _legend(axes, len(shown))
    return figure


def _lyapunov(findings: Findings) -> Any:
    shown = [layer for layer in findings.layers if layer.exponent is not None and layer.exponent.rows]
    if not shown:
        return None
    figure, axes = _figure(4.2)
    names, styles = _short(findings), _style(findings)
    for layer in shown:
        assert layer.growth is not None and layer.exponent is not None
        growth = torch.where(layer.growth.isinf(), math.nan, layer.growth)
        local = growth.nanmean(1).nan_to_num()
        counts = torch.arange(1, len(local) + 1)
        axes.plot(
            counts,
            local.cumsum(0) / counts,
            label=f"{names[layer.name]}: {layer.exponent}",
            linewidth=1.8,
            **styles[layer.name],
        )
    axes.axhline(0, color="#555555", linewidth=1)
    axes.set_title("largest Lyapunov exponent: above 0 errors grow, below 0 the past fades", fontsize=11)
    axes.set_xlabel("steps", fontsize=9)
    axes.set_ylabel("mean growth so far, nats a step", fontsize=9)
    axes.grid(alpha=0.25)
    _legend(axes, len(shown))
    return figure


def _memory(findings: Findings) -> Any:
    shown = [layer for layer in findings.layers if layer.memory(PERCENT) is not None]
    if not shown:
        return None
    figure, axes = _figure(1.6 + 0.55 * len(shown))
    names = _short(findings)
    longest = max(len(layer.curve) - 1 for layer in shown)
    for place, layer in enumerate(shown):
        for share, offset, colour, label in (
            (E_FOLD, -0.19, "#2f6db5", "falls below 1/e"),
            (PERCENT, 0.19, "#9db8d8", "falls below 1 %"),
        ):
            memory = layer.memory(share)
            assert memory is not None
            width = max(memory.steps, 0.004 * longest)
            axes.barh(place + offset, width, 0.36, color=colour, label=label if not place else None)
            axes.annotate(
                f" {memory}", (memory.steps, place + offset), va="center", fontsize=9, color="#333333"
            )
    axes.set_yticks(range(len(shown)), [f"{names[layer.name]} ({layer.cell})" for layer in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(1, longest))
    axes.axvline(longest, color="#555555", linewidth=1, linestyle=":")
    axes.set_title("effective memory: steps back until the gradient stays below a share", fontsize=11)
    axes.set_xlabel("steps (dotted: as far as was measured)", fontsize=9)
    figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=2)
    return figure


def _saturation(findings: Findings) -> Any:
    names = _short(findings)
    rows: list[tuple[LayerFindings, Any]] = [
        (layer, activation) for layer in findings.layers for activation in layer.activations or ()
    ]
    if not rows:
        return None
    figure, axes = _figure(1.4 + 0.3 * len(rows))
    place = 0.0
    ticks: list[float] = []
    labels: list[str] = []
    before = None
    for layer, activation in rows:
        if before is not None and before is not layer:
            place += 0.6
        before = layer
        middle = 1 - activation.low - activation.high
        first = not ticks
        start = 0.0
        for share, colour, label in (
            (activation.low, "#c8442c", "at the low end"),
            (middle, "#dfe5ec", "in between"),
            (activation.high, "#2f6db5", "at the high end"),
        ):
            axes.barh(place, share, 0.8, left=start, color=colour, label=label if first else None)
            if share >= 0.04:
                dark = colour != "#dfe5ec"
                axes.annotate(
                    f"{100 * share:.0f} %",
                    (start + share / 2, place),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "#333333",
                )
            start += share
        ticks.append(place)
        labels.append(f"{names[layer.name]}  {activation.name}")
        place += 1
    axes.set_yticks(ticks, labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.spines[["bottom"]].set_visible(False)
    axes.set_title("activations: sigmoid below 0.1 or above 0.9, tanh beyond 0.9, relu at 0", fontsize=11)
    figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=3)
    return figure

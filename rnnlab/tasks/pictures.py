"""Pictures of what a model says. Legend: `T` context, `H` horizon, `O` columns, `K` keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

INK, TRUTH, SAID = "#9aa7b8", "#2b3440", "#c8442c"


def forecasts(
    file: Path, columns: Sequence[str], windows: Sequence[tuple[Tensor, Tensor, Tensor]], until: Sequence[str]
) -> None:
    """Draw forecast and truth, a row of panels a column, a column of panels a window.

    Args:
        file: the picture.
        columns: names of the O columns.
        windows: what was known `[T, O]`, the forecast `[H, O]` and the truth `[H, O]`.
        until: the last time that was known in each window.
    """
    shown = list(range(min(len(columns), 8)))
    figure = _figure(4.2 * len(windows), 1.7 * len(shown) + 0.5)
    for place, ((known, said, truth), time) in enumerate(zip(windows, until, strict=True)):
        # As much of the past as helps to judge the forecast; lists, as Matplotlib warns of tensors.
        past = known[-4 * len(truth) :]
        before, after = range(-len(past) + 1, 1), range(1, len(truth) + 1)
        for row, column in enumerate(shown):
            axes = figure.add_subplot(len(shown), len(windows), row * len(windows) + place + 1)
            axes.plot(before, past[:, column].tolist(), color=INK, linewidth=1.2, label="known")
            axes.plot(
                [0, *after],
                [past[-1, column].item(), *truth[:, column].tolist()],
                color=TRUTH,
                linewidth=1.3,
                label="truth",
            )
            axes.plot(after, said[:, column].tolist(), color=SAID, linewidth=1.6, label="forecast")
            axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
            axes.margins(x=0.01)
            if row == 0:
                axes.set_title(f"known until {time}", fontsize=9)
            if row < len(shown) - 1:
                axes.set_xticklabels([])
            else:
                axes.set_xlabel("rows", fontsize=8)
            if place == 0:
                axes.set_ylabel(columns[column], fontsize=8)
            _plain(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, ncols=3, loc="outside lower center")
    figure.savefig(file, dpi=110)


def piano_roll(file: Path, roll: Tensor, *, lowest: int, frames_per_second: float, given: int = 0) -> None:
    """Draw which keys sound when.

    Args:
        file: the picture.
        roll: `[T, K]`, not zero where a key sounds.
        lowest: the MIDI number of the first key.
        frames_per_second: of the roll.
        given: frames at the start that were given to the model.
    """
    played = roll.any(0).nonzero().flatten()
    low, high = (int(played[0]), int(played[-1])) if len(played) else (lowest, lowest + 12)
    low, high = max(0, low - 2), min(roll.shape[1] - 1, high + 2)
    figure = _figure(min(14.0, 3.0 + 0.05 * len(roll)), 1.2 + 0.07 * (high - low + 1))
    axes = figure.add_subplot()
    extent = (0.0, len(roll) / frames_per_second, low + lowest - 0.5, high + lowest + 0.5)
    axes.imshow(
        (roll[:, low : high + 1] > 0).T.int().tolist(),
        origin="lower",
        aspect="auto",
        cmap="Greys",
        extent=extent,
        interpolation="nearest",
        vmax=1.2,
    )
    octaves = [key for key in range(low + lowest, high + lowest + 1) if key % 12 == 0]
    axes.set_yticks(octaves, [f"C{key // 12 - 1}" for key in octaves])
    axes.grid(axis="y", alpha=0.4)
    if given:
        axes.axvline(given / frames_per_second, color=SAID, linewidth=1.2)
    axes.set_xlabel("seconds", fontsize=8)
    _plain(axes, grid=False)
    figure.savefig(file, dpi=110)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, paid only by who draws
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Any, *, grid: bool = True) -> None:
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(alpha=0.25)

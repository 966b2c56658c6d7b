"""A picture of where a decoder looked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor


def attention_map(source: Sequence[str], target: Sequence[str], weights: Tensor, picture: str | Path) -> None:
    """Draw attention weights as a heat map: a column a token that was read, a row a token that was written.

    Args:
        source: S tokens.
        target: T tokens.
        weights: `[T, S]`, each row summing to 1; dark is much.
        picture: the file, a PNG or whatever its name says.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, paid only by who draws
    from matplotlib.figure import Figure

    size = (1.6 + 0.38 * len(source), 1.4 + 0.34 * len(target))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(weights.float().numpy(), cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    upright = max(map(len, source)) <= 2
    axes.set_xticks(range(len(source)), [_visible(token) for token in source])
    axes.tick_params(axis="x", labelrotation=0 if upright else 60, top=True, labeltop=True, bottom=False)
    axes.tick_params(axis="x", labelbottom=False, labelsize=9)
    axes.set_yticks(range(len(target)), [_visible(token) for token in target], fontsize=9)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
    bar.set_label("weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    figure.savefig(Path(picture), dpi=140)


def _visible(token: str) -> str:
    """A space as a sign; no token is read as a formula."""
    return ("\u2423" if token == " " else token).replace("$", r"\$")

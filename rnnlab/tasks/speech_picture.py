"""A picture of what is heard when. Legend: `T` steps, `F` frames, `M` mel filters, `V` symbols."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor


def draw_transcripts(
    file: Path, sounds: Sequence[tuple[str, Tensor, Tensor]], alphabet: Sequence[str], step_ms: float
) -> None:
    """Draw the features of sounds, and below each the probability of every symbol that is heard.

    Args:
        file: the picture.
        sounds: a title, the frames `[F, M]`, and the probabilities `[T, V]`, the blank first.
        alphabet: the V symbols.
        step_ms: milliseconds a step.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, paid only by who draws
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 2.6 * len(sounds)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2 * len(sounds), 1)
    for (title, frames, probabilities), heard, spelt in zip(sounds, panels[::2], panels[1::2], strict=True):
        heard.imshow(frames.T.numpy(), origin="lower", aspect="auto", cmap="magma", interpolation="nearest")
        heard.set_title(title, fontsize=9, loc="left")
        heard.set_ylabel("mel", fontsize=7)
        heard.set_xticks([])
        path = probabilities.argmax(1).tolist()
        for symbol in sorted({*path} - {0}):
            (line,) = spelt.plot(probabilities[:, symbol].numpy(), linewidth=1.4)
            for step, (before, found) in enumerate(pairwise([0, *path])):
                if found == symbol != before:
                    place = (step, float(probabilities[step, symbol]))
                    spelt.annotate(alphabet[symbol], place, color=line.get_color(), fontsize=8)
        spelt.plot(probabilities[:, 0].numpy(), color="#c3ccd6", linewidth=0.8)
        spelt.set_xlim(-0.5, len(probabilities) - 0.5)
        spelt.set_ylim(0.0, 1.2)
        spelt.set_ylabel("probability", fontsize=7)
        for axes in (heard, spelt):
            axes.tick_params(labelsize=6)
    panels[-1].set_xlabel(f"step of {step_ms:g} ms", fontsize=7)
    figure.savefig(file, dpi=110)

"""Pictures of a run."""

from pathlib import Path

from rnnlab.training.loggers import read_metrics


def learning_curve(metrics: str | Path, picture: str | Path, size_inch: tuple[float, float]) -> None:
    """Draw the series of a `metrics.csv` over the steps, one panel a quantity, one line a split.

    `train/loss`, `val/loss` share the panel `loss`; a lone point is drawn as a dot. Learning rates are left
    out: they are set, not learned.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, paid only by runs that draw
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for key, points in read_metrics(metrics).items():
        split, _, quantity = key.partition("/")
        if quantity and split in ("train", "val") and not quantity.startswith("lr"):
            panels.setdefault(quantity.removesuffix("_step"), {})[split] = points
    shown = sorted(panels.items(), key=lambda panel: (panel[0] != "loss", panel[0]))
    if not shown:
        return
    columns = 2 if len(shown) == 4 else min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(size_inch[0], size_inch[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    colours = {"train": "#7a8ca3", "val": "#c8442c"}
    for index, (quantity, lines) in enumerate(shown):
        axes = figure.add_subplot(rows, columns, index + 1)
        for split, points in sorted(lines.items()):
            steps, values = zip(*points, strict=True)
            many = len(points) > 30
            axes.plot(
                steps,
                values,
                label=split,
                color=colours[split],
                linewidth=1.2 if many else 1.8,
                marker=None if many else "o",
                markersize=4,
            )
        axes.set_xlim(left=0)
        axes.set_title(quantity, fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(Path(picture), dpi=120)

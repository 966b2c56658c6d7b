"""A report as one page that needs nothing else: no network, no files beside it."""

from __future__ import annotations

import html
import json
import math
import time
from pathlib import Path
from string import Template
from typing import Any

from rnnlab.experiments.reports.gather import (
    Report,
    Spread,
    command,
    is_number,
    measure,
    ordered,
    reason,
    text,
)
from rnnlab.experiments.sweeps.folder import Job
from rnnlab.training.loggers import read_metrics

# Points of a curve that are kept; more than a screen can show is left out evenly.
POINTS = 300
_HERE = Path(__file__).parent


def plotly_script() -> str:
    """The source of plotly.js, as the Python package has it.

    Raises:
        ValueError: the package is missing.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ValueError(
            "the page needs the package plotly: pip install 'rnnlab[report]', or give page=false for the "
            "tables alone"
        ) from error
    source: str = get_plotlyjs()
    return source.replace("</script", "<\\/script")


def render(report: Report, plotly: str) -> str:
    """The page as text."""
    template = Template((_HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(f"{report.sweep.folder.name}: report"),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        # In a script element no text but `</script` and `<!--` means anything.
        data=json.dumps(payload(report), allow_nan=False).replace("<", "\\u003c"),
        plotly=plotly,
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
    )


def payload(report: Report) -> dict[str, Any]:
    """What the page shows, in JSON's own types."""
    sweep = report.sweep
    best = report.metric.partition("/")[2]
    fronts = {cost: set(map(id, report.front(cost))) for cost in ("seconds", "parameters")}
    return {
        "title": sweep.folder.resolve().name,
        "made": f"Made by rnnlab on {time.strftime('%Y-%m-%d at %H:%M')} from {sweep.folder.resolve()}.",
        "metric": report.metric,
        "mode": report.mode,
        "curve": f"val/{best}",
        "metrics": report.metrics,
        "counts": report.counts,
        "planned": report.planned,
        "others": len(sweep.others),
        "axes": list(sweep.axes),
        "order": {key: [text(value) for value in ordered(values)] for key, values in sweep.axes.items()},
        "seeds": report.seeds,
        "settings": [
            {
                "rank": place if setting.measure(report.metric).count else None,
                "label": setting.label,
                "point": {key: _cell(value) for key, value in setting.point.items()},
                "jobs": [job.id for job in setting.jobs],
                "finished": len(setting.finished),
                "values": {name: _spread(setting.measure(name)) for name in report.metrics},
                "parameters": _spread(setting.parameters),
                "seconds": _spread(setting.seconds),
                "front": {cost: id(setting) in front for cost, front in fronts.items()},
            }
            for place, setting in enumerate(report.settings, 1)
        ],
        "jobs": [_job(job, report) for job in sweep.jobs],
        "factors": [
            {
                "name": factor.name,
                "numeric": factor.numeric,
                "continuous": factor.continuous,
                "balanced": factor.balanced or factor.continuous,
                "share": None if factor.continuous else factor.share,
                "correlation": factor.correlation,
                "levels": [
                    {
                        "label": label,
                        "value": level.value if factor.continuous else None,
                        **_spread(level.spread),
                        "jobs": list(level.jobs),
                    }
                    for label, level in zip(factor.labels, factor.levels, strict=True)
                ],
            }
            for factor in report.factors
        ],
        "damaged": [{"name": folder.name, "reason": reason} for folder, reason in sweep.damaged],
    }


def _job(job: Job, report: Report) -> dict[str, Any]:
    values = job.measures | {name: measure(job, name) for name in report.metrics}
    return {
        "id": job.id,
        "number": job.number,
        "label": job.label,
        "state": job.outcome,
        "point": {key: text(value) for key, value in job.point.items()},
        "metrics": {name: value for name, value in values.items() if math.isfinite(value)},
        "parameters": job.status.parameters,
        "seconds": round(job.status.seconds, 2) if job.status.seconds else None,
        "attempts": job.status.attempts,
        "reason": reason(job),
        "folder": str(job.run.resolve()),
        "command": command(job, report.sweep.allowed),
        "curves": curves(job),
    }


def curves(job: Job) -> dict[str, list[list[float]]]:
    """`[steps, values]` of each series of training and validation; none where nothing readable was left."""
    try:
        series = read_metrics(job.run / "metrics.csv")
    except (OSError, ValueError, KeyError, TypeError):  # a job that was killed may have left half a line
        return {}
    found: dict[str, list[list[float]]] = {}
    for name, points in series.items():
        split, _, quantity = name.partition("/")
        if split in ("train", "val") and not quantity.startswith("lr"):
            finite = [(step, value) for step, value in points if math.isfinite(value)]
            every = max(1, math.ceil(len(finite) / POINTS))
            kept = finite[::-1][::every][::-1]  # the last one always
            if kept:
                found[name] = [[step for step, _ in kept], [value for _, value in kept]]
    return found


def _spread(spread: Spread) -> dict[str, Any]:
    return {
        "mean": spread.mean if spread.count else None,
        "sd": spread.deviation if spread.count > 1 else None,
        "n": spread.count,
    }


def _cell(value: Any) -> Any:
    """A value that sorts as a number where it is one."""
    return value if is_number(value) else text(value)

"""What a sweep came to, gathered from its folder: settings ranked, factors, costs, failures.

A *setting* is a point of the sweep without its seeds: jobs that differ in the seed alone repeat it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import StatisticsError, correlation, fmean, stdev
from typing import Any, Literal

from rnnlab.experiments.sweeps.folder import Job, Sweep
from rnnlab.training.shell import shell_line

Mode = Literal["min", "max"]

# What a sweep can look at beside the metrics that its runs log.
COSTS = ("seconds", "parameters")
# Quantities that are better when larger; all others (losses, errors, perplexities, times) when smaller.
_LARGER = ("accuracy", "f1", "bleu", "chrf", "precision", "recall", "auc", "auroc", "r2", "correct")


@dataclass(frozen=True)
class Spread:
    """A mean with the standard deviation (n - 1) of the values behind it; NaN for a single one."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of the finite values; the mean of none is NaN."""
        finite = [value for value in values if math.isfinite(value)]
        deviation = stdev(finite) if len(finite) > 1 else math.nan
        return cls(fmean(finite) if finite else math.nan, deviation, len(finite))

    def __str__(self) -> str:
        if self.count == 0:
            return "-"
        return number(self.mean) + (f" ± {self.deviation:.2g}" if self.count > 1 else "")


@dataclass(frozen=True)
class Setting:
    """The jobs of one point of the sweep, which differ in their seed alone."""

    point: dict[str, Any]
    jobs: tuple[Job, ...]

    @property
    def label(self) -> str:
        """The point in one line: `cell=gru model.num_layers=2`."""
        return " ".join(f"{key}={brief(value)}" for key, value in self.point.items()) or "(no swept key)"

    @cached_property
    def finished(self) -> list[Job]:
        """Those that came to their end; pruned ones did not."""
        return [job for job in self.jobs if job.outcome == "finished"]

    def measure(self, metric: str) -> Spread:
        """A metric over the finished jobs; values that are not finite are left out, and not counted."""
        return Spread.of(measure(job, metric) for job in self.finished)

    @cached_property
    def parameters(self) -> Spread:
        return self.measure("parameters")

    @cached_property
    def seconds(self) -> Spread:
        return self.measure("seconds")


@dataclass(frozen=True)
class Level:
    """One value of a factor: the finished jobs that have it, whatever else they have."""

    value: Any
    measures: tuple[float, ...]
    jobs: tuple[str, ...] = ()

    @cached_property
    def spread(self) -> Spread:
        return Spread.of(self.measures)


@dataclass(frozen=True)
class Factor:
    """A swept key and its marginal means.

    Attributes:
        share: of the variance between jobs that its means account for, eta squared:
            sum_v n_v (mean_v - mean)^2 / sum_j (y_j - mean)^2; None where jobs do not vary, or none shares
            its value with another, so that the means are the jobs.
        balanced: all its values have equally many finished jobs, so that the means can be compared.
    """

    name: str
    levels: tuple[Level, ...]

    @property
    def numeric(self) -> bool:
        return all(is_number(level.value) for level in self.levels)

    @property
    def continuous(self) -> bool:
        """Numbers of which most jobs have one of their own, as a search draws them: means say nothing."""
        jobs = sum(level.spread.count for level in self.levels)
        return self.numeric and len(self.levels) > max(2, jobs / 2)

    @property
    def labels(self) -> list[str]:
        """The values in one line each: four digits that count, where these tell them apart."""
        short = [brief(level.value) for level in self.levels]
        return short if len(set(short)) == len(short) else [text(level.value) for level in self.levels]

    @property
    def correlation(self) -> float | None:
        """Spearman's rank correlation of the value with the metric; None for what is no number."""
        pairs = [(level.value, measure) for level in self.levels for measure in level.measures]
        if not self.numeric or len(pairs) < 3:
            return None
        values, measures = (_ranks(column) for column in zip(*pairs, strict=True))
        try:
            return correlation(values, measures)
        except StatisticsError:  # one of them does not vary
            return None

    @property
    def balanced(self) -> bool:
        return len({level.spread.count for level in self.levels}) == 1

    @property
    def share(self) -> float | None:
        values = [value for level in self.levels for value in level.measures if math.isfinite(value)]
        whole = Spread.of(values)
        total = sum((value - whole.mean) ** 2 for value in values)
        spreads = [level.spread for level in self.levels if level.spread.count]
        if total <= 0 or len(values) == len(spreads):
            return None
        return sum(s.count * (s.mean - whole.mean) ** 2 for s in spreads) / total


class Report:
    """A sweep as a reader wants it.

    Args:
        sweep: as its folder tells it; it may be unfinished.
        metric: by which settings are ranked; the sweep's own objective where None.
        mode: whether that is better small or large; the sweep's own word, or known by its name, where None.

    Raises:
        ValueError: no job has such a metric.
    """

    def __init__(self, sweep: Sweep, metric: str | None = None, mode: Mode | None = None) -> None:
        self.sweep = sweep
        self.metrics = _metric_names(sweep)
        own = dict(sweep.objectives)
        if metric in COSTS and metric not in self.metrics:
            self.metrics.insert(0, metric)
        if metric is not None and self.metrics and metric not in self.metrics:
            known = [*self.metrics, *COSTS]
            near = difflib.get_close_matches(metric, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "there are " + ", ".join(known)
            raise ValueError(f"metric={metric}: no finished job has it; {hint}")
        first = metric or next((name for name in own if name in self.metrics or not self.metrics), None)
        self.metric = first or next(iter(self.metrics), "")
        self.mode: Mode = mode or ("max" if own.get(self.metric, guess_mode(self.metric)) == "max" else "min")

    @cached_property
    def seeds(self) -> list[str]:
        """The swept keys that only repeat a setting."""
        return [key for key in self.sweep.axes if key.rpartition(".")[2] == "seed"]

    @cached_property
    def settings(self) -> list[Setting]:
        """The best first; those without a measure last, in the sweep's own order."""
        groups: dict[str, list[Job]] = {}
        for job in self.sweep.jobs:
            point = {key: value for key, value in job.point.items() if key not in self.seeds}
            groups.setdefault(repr(sorted(point.items(), key=lambda pair: pair[0])), []).append(job)
        settings = [
            Setting({k: v for k, v in jobs[0].point.items() if k not in self.seeds}, tuple(jobs))
            for jobs in groups.values()
        ]
        sign = -1.0 if self.mode == "max" else 1.0

        def rank(setting: Setting) -> tuple[bool, float]:
            mean = setting.measure(self.metric).mean
            return (math.isnan(mean), 0.0 if math.isnan(mean) else sign * mean)

        return sorted(settings, key=rank)

    @cached_property
    def factors(self) -> list[Factor]:
        """The swept keys but seeds, that with the largest share of the variance first."""
        found = []
        finished = [job for job in self.sweep.jobs if job.outcome == "finished"]
        for name, values in self.sweep.axes.items():
            if name in self.seeds or len(values) < 2:
                continue
            levels = []
            for value in ordered(values):
                mine = [job for job in finished if job.point.get(name) == value]
                measures = [(measure(job, self.metric), job.id) for job in mine]
                finite = [(value, ident) for value, ident in measures if math.isfinite(value)]
                levels.append(Level(value, tuple(m for m, _ in finite), tuple(i for _, i in finite)))
            found.append(Factor(name, tuple(levels)))
        return sorted(found, key=lambda factor: -(factor.share or 0.0))

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many jobs came to what: their states, pruned ones apart; `damaged` folders too."""
        found: dict[str, int] = {}
        for job in self.sweep.jobs:
            found[job.outcome] = found.get(job.outcome, 0) + 1
        missing = max(0, self.planned - len(self.sweep.jobs) - len(self.sweep.damaged))
        extra = {"damaged": len(self.sweep.damaged), "missing": missing}
        return found | {state: count for state, count in extra.items() if count}

    @property
    def planned(self) -> int:
        """How many jobs the last start asked for."""
        return max(len(self.sweep.about.get("jobs", [])), len(self.sweep.jobs))

    def front(self, cost: Literal["seconds", "parameters"]) -> list[Setting]:
        """The settings that no other one beats both in the metric and in the cost (the Pareto front)."""
        sign = -1.0 if self.mode == "max" else 1.0
        points = [
            (getattr(setting, cost).mean, sign * setting.measure(self.metric).mean, index)
            for index, setting in enumerate(self.settings)
        ]
        points = sorted(point for point in points if not any(map(math.isnan, point)))
        found, best = [], math.inf
        for _, value, index in points:
            if value < best:
                best = value
                found.append(self.settings[index])
        return found


def measure(job: Job, metric: str) -> float:
    """What a job came to by a metric, or by one of COSTS; NaN where it has none."""
    if metric == "seconds":
        return job.status.seconds
    if metric == "parameters":
        return float(job.status.parameters or math.nan)
    return job.measures.get(metric, math.nan)


def reason(job: Job) -> str:
    """Why a job is not finished, in one line; nothing where that needs no word."""
    known = {
        "pending": "not begun",
        "running": "at work",
        "interrupted": "its process ended without a word: it was killed, or the machine went down",
    }
    return job.status.reason or known.get(job.state, "")


def command(job: Job, allowed: Sequence[str] = ()) -> str:
    """The words of a shell that run a job by itself again.

    Args:
        job: of a sweep.
        allowed: modules that it may name; the command says so, as nothing else can.
    """
    own = ["--config-dir", job.config_dir] if job.config_dir else []
    trust = [f"allow={','.join(allowed)}"] if allowed else []
    return shell_line(["rnnlab", "train", *own, *job.words, *trust])


def guess_mode(metric: str) -> Mode:
    """Whether a metric of that name is better small or large."""
    quantity = metric.rpartition("/")[2].lower()
    return "max" if any(quantity == word or quantity.startswith(f"{word}_") for word in _LARGER) else "min"


def number(value: float) -> str:
    """A number in a table: four digits that count."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"


def is_number(value: Any) -> bool:
    """Whether a value of a configuration is a number; `true` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def text(value: Any) -> str:
    """A value of a configuration in one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(text(item) for item in value) + "]"
    return str(value)


def brief(value: Any) -> str:
    """The same with four digits that count of a number with a point."""
    return f"{value:.4g}" if isinstance(value, float) else text(value)


def _ranks(values: Sequence[float]) -> list[float]:
    """The place of each value in order of size; equal ones share the mean of theirs."""
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(values)):
        places.setdefault(value, []).append(place)
    return [fmean(places[value]) for value in values]


def _metric_names(sweep: Sweep) -> list[str]:
    """All metrics of finished jobs: the objectives first, then tests, validation, training."""
    names = {name for job in sweep.jobs if job.outcome == "finished" for name in job.measures}
    objectives = [name for name, _ in sweep.objectives]
    if names:
        names |= {name for name in objectives if name in COSTS}
    order = {"test": 0, "val": 1, "train": 2}

    def key(name: str) -> tuple[int, int, str]:
        place = objectives.index(name) if name in objectives else len(objectives)
        return place, order.get(name.partition("/")[0], 3), name

    return sorted(names, key=key)


def ordered(values: Sequence[Any]) -> list[Any]:
    """Numbers by size, anything else in the order of the sweep."""
    return sorted(values) if all(map(is_number, values)) else list(values)

"""Runs side by side: what differs in their configurations, in their measures, and whether that is chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from rnnlab.experiments.sweeps.folder import read_job, read_status
from rnnlab.training.loggers import read_metrics
from rnnlab.training.predictions import read_predictions
from rnnlab.training.shell import shell_line

# Where a run is written, and what it is called: no difference between what runs do.
PLACES = ("run_dir", "output_dir", "name")
# What each example came to, by its id.
Examples = Mapping[str, Mapping[str, float]]
# What one row of predictions says beside its measures.
_FACTS = ("weight", "predicted", "truth")
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Run:
    """What a run left.

    Attributes:
        name: as short as tells it from the others.
        config: by dotted key.
        environment: by dotted key.
        metrics: the last value of each.
        predictions: by the id of the example; None where none were kept.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    metrics: dict[str, float]
    predictions: dict[str, dict[str, float]] | None = None


@dataclass(frozen=True)
class Bootstrap:
    """The difference of two means over the same examples, and how sure it is.

    Attributes:
        difference: of the second run's mean from the first's.
        low: 2.5th percentile of the difference over resampled test sets.
        high: 97.5th percentile.
        p: how often, two-sided, a resampled difference lies beyond 0; at least 1 / (resamples + 1).
        examples: how many there are.

    All numbers but the last are NaN where an example came to a value that is not finite.
    """

    difference: float
    low: float
    high: float
    p: float
    examples: int


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        runs: the first one is what the others are compared with.
        config: for each key that differs, its value in each run; None where a run has no such key.
        environment: the same of versions and machines.
        metrics: for each metric, its value in each run; NaN where a run has none.
        bootstraps: for each metric and each further run, where both kept their predictions.
        refusals: why a run is not paired with the first, by the run's name.
    """

    runs: tuple[Run, ...]
    config: dict[str, list[Any]]
    environment: dict[str, list[Any]]
    metrics: dict[str, list[float]]
    bootstraps: dict[str, dict[str, Bootstrap]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)


def compare(folders: Sequence[str | Path], *, resamples: int = 5000, seed: int = 0) -> Comparison:
    """Compare runs with the first of them.

    Args:
        folders: of runs, or of jobs of a sweep.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: fewer than two runs, one given twice, a folder that is no run, a damaged file.
    """
    if len(folders) < 2:
        raise ValueError(f"two or more runs are compared; got {len(folders)}")
    places = [_run_folder(folder) for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{folder}: given twice")
    runs = tuple(_read(place, name) for place, name in zip(places, _names(places), strict=True))
    metrics = {
        name: [run.metrics.get(name, math.nan) for run in runs]
        for name in sorted({name for run in runs for name in run.metrics}, key=_metric_order)
    }
    found = Comparison(
        runs, _differences([r.config for r in runs]), _differences([r.environment for r in runs]), metrics
    )
    first = runs[0]
    for run in runs[1:]:
        refusal = _refusal(first, run)
        if refusal is not None:
            found.refusals[run.name] = refusal
            continue
        assert first.predictions is not None and run.predictions is not None
        for measure in _measures(first.predictions, run.predictions):
            found.bootstraps.setdefault(f"test/{measure}", {})[run.name] = _paired(
                first.predictions, run.predictions, measure, resamples, seed
            )
    return found


def paired_bootstrap(
    first: Tensor, second: Tensor, weights: Tensor | None = None, *, resamples: int = 5000, seed: int = 0
) -> Bootstrap:
    """How sure the difference of two means over the same examples is.

        d* = mean_i w_i (b_i - a_i) over examples i drawn with replacement, again and again

    Args:
        first: `[N]`, what the first model's examples came to.
        second: `[N]`, the second's, in the same order.
        weights: `[N]`, such as the tokens of each example; all 1 where None.
        resamples: how many test sets are drawn.
        seed: of the drawing.

    Raises:
        ValueError: fewer than two examples, or unequally many.

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", chapters 13 and 16; pairs of
    systems on one test set, Koehn 2004, "Statistical significance tests for machine translation evaluation".
    """
    if first.shape != second.shape:
        raise ValueError(f"as many examples of both are needed; got {len(first)} and {len(second)}")
    if len(first) < 2:
        raise ValueError(f"two or more examples are needed to tell chance; got {len(first)}")
    apart = (second - first).double()
    if not torch.isfinite(apart).all():
        return Bootstrap(math.nan, math.nan, math.nan, math.nan, len(apart))
    weights = torch.ones_like(apart) if weights is None else weights.double()
    observed = float((weights * apart).sum() / weights.sum())
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    rows = max(1, _CHUNK // len(apart))
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), len(apart))
        chosen = torch.randint(len(apart), shape, generator=generator)
        w = weights[chosen]
        drawn.append((w * apart[chosen]).sum(1) / w.sum(1).clamp(min=1e-300))
    differences = torch.cat(drawn)
    low, high = differences.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    below = float((differences <= 0).double().mean())
    above = float((differences >= 0).double().mean())
    p = min(1.0, max(2 * min(below, above), 1 / (resamples + 1)))
    return Bootstrap(observed, low, high, p, len(apart))


def _refusal(first: Run, other: Run) -> str | None:
    """Why two runs cannot be paired example by example."""
    missing = " and ".join(run.name for run in (first, other) if run.predictions is None)
    if missing:
        return f"{missing} kept no predictions (callbacks=predictions keeps them): no paired bootstrap"
    assert first.predictions is not None and other.predictions is not None
    mine, its = first.predictions.keys(), other.predictions.keys()
    if mine == its:
        alone = "one test example alone tells nothing of chance: no paired bootstrap"
        return alone if len(mine) == 1 else None
    return (
        f"{first.name} and {other.name} were tested on different examples ({len(mine & its)} are the same, "
        f"{len(mine - its)} only in the first, {len(its - mine)} only in the second): no paired bootstrap; "
        "give both the same data"
    )


def _measures(first: Examples, other: Examples) -> list[str]:
    one, two = next(iter(first.values())), next(iter(other.values()))
    return [name for name in one if name in two and name not in _FACTS]


def _paired(
    first: Examples,
    other: Examples,
    measure: str,
    resamples: int,
    seed: int,
) -> Bootstrap:
    rows = [
        (first[ident][measure], other[ident][measure], first[ident].get("weight", 1.0)) for ident in first
    ]
    a, b, weights = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return paired_bootstrap(a, b, weights, resamples=resamples, seed=seed)


def _run_folder(given: str | Path) -> Path:
    folder = Path(given).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"{given}: there is no such folder")
    job = (folder / "job.yaml").is_file()  # it holds the configuration as planned, and the run beside it
    for place in (folder / "run",) if job else (folder, folder / "run"):
        if (place / "config.yaml").is_file():
            return place.resolve()
    if job:
        raise ValueError(f"{given}: a job of a sweep that has not begun: there is no run to compare")
    if (folder / "sweep.yaml").is_file():
        report = shell_line(["rnnlab", "report", str(given)])
        raise ValueError(f"{given}: the folder of a sweep: give its jobs (jobs/ID), or `{report}`")
    raise ValueError(f"{given}: not the folder of a run: it has no config.yaml")


def _names(places: Sequence[Path]) -> list[str]:
    """What tells each from the others: the points of jobs, else paths from the first part that differs on."""
    labels = {label for place in places if (label := _label(place)) is not None}
    if len(labels) == len(places):
        return [str(_label(place)) for place in places]
    shortest = min(len(place.parts) for place in places)
    shared = 0
    while shared < shortest - 1 and len({place.parts[shared] for place in places}) == 1:
        shared += 1
    return ["/".join(place.parts[shared:]).removesuffix("/run") for place in places]


def _label(place: Path) -> str | None:
    """The point of the job whose run this is."""
    try:
        return read_job(place.parent).label if place.name == "run" else None
    except ValueError:
        return None


def _read(folder: Path, name: str) -> Run:
    config = flatten(_yaml(folder / "config.yaml"))
    where = str(config.get("run_dir"))
    config = {
        key: value.replace(where, "${run_dir}") if isinstance(value, str) else value
        for key, value in config.items()
        if key not in PLACES
    }
    environment = (
        flatten(_yaml(folder / "environment.yaml")) if (folder / "environment.yaml").is_file() else {}
    )
    kept = {k: v for k, v in environment.items() if k.split(".")[0] not in ("command", "folder", "time")}
    metrics: dict[str, float] = {}
    if (folder / "metrics.csv").is_file():
        try:
            metrics = {key: points[-1][1] for key, points in read_metrics(folder / "metrics.csv").items()}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / 'metrics.csv'}: damaged: {error}") from error
    elif (folder.parent / "status.json").is_file():
        metrics = read_status(folder.parent).metrics  # a job without a logger
    predictions = read_predictions(folder / "predictions.csv")
    return Run(name, folder, config, kept, metrics, predictions or None)


def _yaml(file: Path) -> Any:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: damaged: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: damaged: not a mapping")
    return content


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted keys; lists stay."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _differences(trees: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The keys whose values are not the same in all."""
    keys = sorted({key for tree in trees for key in tree})
    rows = {key: [tree.get(key) for tree in trees] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row[1:])}


def _metric_order(name: str) -> tuple[int, str]:
    order = {"test": 0, "val": 1, "train": 2}
    return order.get(name.partition("/")[0], 3), name

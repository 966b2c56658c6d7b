"""The settings of a sweep itself, beside those of the runs that it makes."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import yaml

from rnnlab.training.validate import ConfigError, describe, fits

SearchName = Literal["grid", "random", "tpe", "gp", "cmaes", "nsga2", "qmc"]
PrunerName = Literal["none", "median", "hyperband", "halving"]
LauncherName = Literal["in_process", "joblib", "submitit", "ray"]


@dataclass(frozen=True)
class SweepSettings:
    """What `rnnlab sweep` takes beside the settings of `rnnlab train`.

    Attributes:
        sweep_dir: the sweep's folder; `auto` gives the same words the same folder under `sweeps/`.
        search: how the jobs are found.
        trials: jobs in all, for any search but the grid.
        search_seed: of what a search draws by chance.
        pruner: ends hopeless trials early, by the first metric.
        metric: what the sweep looks at, such as `val/loss` or `val/loss,seconds`; the task's own by default.
        mode: `min` or `max` for each metric; by default what is known of it.
        launcher: where the jobs run.
        workers: jobs at a time; by default one a GPU, or one a core for joblib.
        gpus_per_job: GPUs that a job gets for itself; by default one where there are several.
        retries: how often a failed job is tried again.
        fail_fast: the first failure ends the sweep.
        code: `any` takes the results of other versions of the code for its own.
        submitit: `submitit.cluster=slurm` and the executor's parameters, `submitit.slurm_partition=gpu`.
        ray_address: the cluster; this machine by default.
    """

    sweep_dir: str = "auto"
    search: SearchName = "grid"
    trials: int | None = None
    search_seed: int = 0
    pruner: PrunerName = "none"
    metric: list[str] = field(default_factory=list)
    mode: list[Literal["min", "max"]] = field(default_factory=list)
    launcher: LauncherName = "in_process"
    workers: int | None = None
    gpus_per_job: int | None = None
    retries: int = 1
    fail_fast: bool = False
    code: Literal["same", "any"] = "same"
    submitit: dict[str, Any] = field(default_factory=dict)
    ray_address: str | None = None


KEYS = tuple(item.name for item in fields(SweepSettings))
# Settings of a run that a sweep sets itself.
TAKEN = {"run_dir": "sweep_dir", "output_dir": "sweep_dir"}


def split_words(words: Sequence[str]) -> tuple[SweepSettings, list[str]]:
    """The sweep's own settings, and the words that make its runs.

    Raises:
        ConfigError: what is wrong with the sweep's own settings, all of it.
    """
    hints = typing.get_type_hints(SweepSettings)
    found: list[str] = []
    values: dict[str, Any] = {}
    rest: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        head, dot, below = key.partition(".")
        if equals and key in TAKEN:
            found.append(f"{word}: a sweep places its runs itself; give {TAKEN[key]}=FOLDER")
        elif not equals or head not in KEYS:
            rest.append(word)
        elif dot and head != "submitit":
            found.append(f"{word}: there is no such key; did you mean {head}?")
        elif not dot and head == "submitit":
            found.append(f"{word}: expected submitit.KEY=VALUE, such as submitit.cluster=slurm")
        elif dot:
            values.setdefault(head, {})[below] = yaml.safe_load(text)
        else:
            value = text.strip("[]").split(",") if key in ("metric", "mode") else yaml.safe_load(text)
            if key in ("sweep_dir", "ray_address"):
                value = text
            if fits(value, hints[key]):
                values[key] = value
            else:
                near = difflib.get_close_matches(text, _options(hints[key]), n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                found.append(f"{word}: expected {describe(hints[key])}{hint}")
    settings = SweepSettings(**values)
    found += _faults(settings)
    if found:
        raise ConfigError(found)
    return settings, rest


def _options(hint: Any) -> list[str]:
    return [str(option) for option in typing.get_args(hint) if isinstance(option, str)]


def _faults(settings: SweepSettings) -> list[str]:
    found = []
    for key, least in (
        ("trials", 1),
        ("workers", 1),
        ("gpus_per_job", 0),
        ("retries", 0),
        ("search_seed", 0),
    ):
        value = getattr(settings, key)
        if value is not None and value < least:
            found.append(f"{key}={value}: expected at least {least}")
    if settings.search == "grid" and settings.trials is not None:
        found.append(f"trials={settings.trials}: a grid runs all its points; choose search=random or tpe")
    if settings.search != "grid" and settings.trials is None:
        found.append(f"search={settings.search}: how many? give trials=N")
    if settings.pruner != "none" and settings.search in ("grid", "random"):
        found.append(f"pruner={settings.pruner}: search={settings.search} does not prune; choose search=tpe")
    if settings.pruner != "none" and len(settings.metric) > 1:
        found.append(f"pruner={settings.pruner}: among several metrics no trial is hopeless; give one")
    if settings.mode and len(settings.mode) != len(settings.metric):
        found.append(f"mode: {len(settings.mode)} for {len(settings.metric)} metrics; give one for each")
    if settings.launcher == "in_process" and (settings.workers or 1) > 1:
        found.append(f"workers={settings.workers}: in_process runs one job at a time; choose launcher=joblib")
    if settings.submitit and settings.launcher != "submitit":
        found.append("submitit.*: only launcher=submitit reads these settings")
    if settings.ray_address and settings.launcher != "ray":
        found.append("ray_address: only launcher=ray reads it")
    if len(set(settings.metric)) != len(settings.metric):
        found.append(f"metric={','.join(settings.metric)}: one of them stands there twice")
    return found

"""Optuna as ask-and-tell over a study in the sweep's folder: what to run next, and what is hopeless."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState

from rnnlab.experiments.sweeps.folder import Job
from rnnlab.experiments.sweeps.plan import Axis, Planned, Planner, Space

# Of a trial: the job that it stands for.
JOB = "job"
DIRECTIONS: dict[str, Any] = {"min": "minimize", "max": "maximize"}


class OptunaSearch:
    """Trials of a study, each a job of the sweep; a study that exists goes on to its target number.

    A trial is asked for when a place is free, and told when its job has ended. One whose sweep was killed
    between the two is taken up again, its job with it.

    Args:
        space: what is searched.
        planner: makes jobs of points.
        folder: of the sweep; the study is `study.db` in it.
        code: version of the code, of which a study holds trials; `any` takes the last study there is.
        objectives: `(metric, "min" or "max")`.
        sampler: `tpe`, `gp`, `cmaes`, `nsga2` or `qmc`.
        pruner: `none`, `median`, `hyperband` or `halving`.
        trials: trials in all, over all starts.
        seed: of the sampler.
        parallel: whether several trials run at a time.

    Raises:
        ValueError: the sampler cannot search this space, or its package is missing.
    """

    def __init__(
        self,
        space: Space,
        planner: Planner,
        folder: Path,
        code: str,
        objectives: Sequence[tuple[str, str]],
        sampler: str,
        pruner: str,
        trials: int,
        seed: int,
        parallel: bool,
    ) -> None:
        self.space, self.planner, self.total = space, planner, trials
        self.distributions = {axis.key: distribution(axis) for axis in space.axes}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.address = study_address(folder)
        storage = open_storage(self.address)
        self.name = _study_name(storage, code, objectives)
        self.study = optuna.create_study(
            storage=storage,
            study_name=self.name,
            directions=[DIRECTIONS[mode] for _, mode in objectives],
            pruner=make_pruner(pruner),
            load_if_exists=True,
        )
        before = self.study.get_trials(deepcopy=False)
        self.study.sampler = make_sampler(sampler, seed + len(before), len(objectives), parallel)
        self._open = [trial for trial in before if trial.state == TrialState.RUNNING]
        self._asked = len(before) - len(self._open)
        self._trials: dict[str, list[tuple[int, int]]] = {}

    def next(self) -> Planned | None:
        """A trial that an earlier start left open, else a new one; None when all have been asked."""
        if self._asked >= self.total:
            return None
        self._asked += 1
        number = self._asked - 1
        if self._open:
            open_trial = self._open.pop(0)
            point = self._point(open_trial.params)
            planned = self._planned(point, number, open_trial.number)
            self._trials.setdefault(planned.job.id, []).append((open_trial.number, open_trial._trial_id))
            return planned
        with warnings.catch_warnings():
            # What a sampler falls back to where it cannot yet do its own is no news to the user.
            warnings.filterwarnings("ignore", category=UserWarning, module="optuna")
            trial = self.study.ask(self.distributions)
        planned = self._planned(self._point(trial.params), number, trial.number)
        trial.set_user_attr(JOB, planned.job.id)
        self._trials.setdefault(planned.job.id, []).append((trial.number, trial._trial_id))
        return planned

    def _planned(self, point: dict[str, Any], number: int, trial: int) -> Planned:
        try:
            return self.planner.plan(point, number, trial)
        except ValueError:
            self.study.tell(trial, state=TrialState.FAIL)
            raise

    def job_ids(self) -> list[str]:
        """The jobs of the trials so far, in order, each once."""
        trials = self.study.get_trials(deepcopy=False)
        return list(dict.fromkeys(trial.user_attrs[JOB] for trial in trials if JOB in trial.user_attrs))

    def trial_of(self, job: Job) -> tuple[str, str, int] | None:
        """Address of the study, its name and the id of the trial that a job stands for."""
        known = self._trials.get(job.id)
        return None if not known else (self.address, self.name, known[-1][1])

    def tell(self, job: Job) -> None:
        """What became of a job, to every trial that stands for it."""
        for number, _ in self._trials.pop(job.id, []):
            usable = job.status.values and all(math.isfinite(value) for value in job.status.values)
            if job.state == "finished" and job.status.pruned:
                self.study.tell(number, state=TrialState.PRUNED)
            elif job.state == "finished" and usable:
                self.study.tell(number, job.status.values)
            else:
                self.study.tell(number, state=TrialState.FAIL)

    def _point(self, params: dict[str, Any]) -> dict[str, Any]:
        point = {}
        for axis in self.space.axes:
            value = params[axis.key]
            if isinstance(self.distributions[axis.key], CategoricalDistribution):
                value = axis.values[axis.words.index(value)]
            point[axis.key] = value
        return point


class OptunaJudge:
    """Whether a trial is hopeless, asked in the process that runs it.

    Args:
        address: of the study.
        name: of the study.
        trial: id of the trial.
        pruner: see `OptunaSearch`.
    """

    def __init__(self, address: str, name: str, trial: int, pruner: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.load_study(study_name=name, storage=open_storage(address), pruner=make_pruner(pruner))
        self.trial = optuna.trial.Trial(study, trial)

    def hopeless(self, value: float, step: int) -> bool:
        """Note a value after a validation, the `step`-th one, and say whether to go on."""
        with warnings.catch_warnings():
            # A job that was continued validates once more where it went on.
            warnings.filterwarnings("ignore", message="The reported value is ignored")
            self.trial.report(value, step)
        return self.trial.should_prune()


def _study_name(storage: Any, code: str, objectives: Sequence[tuple[str, str]]) -> str:
    looks_at = ", ".join(f"{mode} {name}" for name, mode in objectives)
    before = [name for name in optuna.get_all_study_names(storage) if name.endswith(f": {looks_at}")]
    return before[-1] if code == "any" and before else f"{code}: {looks_at}"


def study_address(folder: Path) -> str:
    """Where a sweep keeps its study."""
    return f"sqlite:///{folder.resolve() / 'study.db'}"


def open_storage(address: str) -> optuna.storages.RDBStorage:
    """The storage of an address; who finds it locked waits."""
    return optuna.storages.RDBStorage(address, engine_kwargs={"connect_args": {"timeout": 60}})


def distribution(axis: Axis) -> BaseDistribution:
    """What Optuna draws from for a swept key."""
    if axis.is_interval:
        assert axis.low is not None and axis.high is not None
        if axis.integer:
            return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
        return FloatDistribution(float(axis.low), float(axis.high), log=axis.log)
    if axis.step is not None and axis.low is not None and axis.high is not None:
        return IntDistribution(int(axis.low), int(axis.high), step=axis.step)
    return CategoricalDistribution(axis.words)


def make_sampler(name: str, seed: int, objectives: int, parallel: bool) -> optuna.samplers.BaseSampler:
    """A sampler by its name.

    Raises:
        ValueError: it wants a package that is not there, or looks at one objective only.
    """
    if objectives > 1 and name == "cmaes":
        raise ValueError(f"search={name} looks at one metric; search=tpe and search=nsga2 take several")
    samplers = optuna.samplers
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        try:
            match name:
                case "tpe":
                    return samplers.TPESampler(seed=seed, constant_liar=parallel)
                case "gp":
                    return samplers.GPSampler(seed=seed)
                case "cmaes":
                    importlib.import_module("cmaes")  # the sampler asks for it only when it draws

                    return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
                case "nsga2":
                    return samplers.NSGAIISampler(seed=seed)
                case _:
                    return samplers.QMCSampler(seed=seed, warn_independent_sampling=False)
        except ImportError as error:
            raise ValueError(
                f"search={name} needs the package {error.name!r}: pip install {error.name}"
            ) from error


def make_pruner(name: str) -> optuna.pruners.BasePruner:
    """A pruner by its name."""
    match name:
        case "median":
            return optuna.pruners.MedianPruner()
        case "hyperband":
            return optuna.pruners.HyperbandPruner()
        case "halving":
            return optuna.pruners.SuccessiveHalvingPruner()
        case _:
            return optuna.pruners.NopPruner()

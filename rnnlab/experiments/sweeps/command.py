"""`rnnlab sweep`, which `rnnlab train -m` is as well."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rnnlab.training.importing import quick_imports

HELP = """\
Train at every point of a grid, or at those that a search chooses; go on where an earlier start left off.

Settings are those of `rnnlab train`, in Hydra's grammar: cell=rnn,gru  seed=range(3)  cell=glob(*lstm)
and, for a search, optim.lr=interval(1e-4,1e-1)  optim.lr=tag(log,interval(1e-4,1e-1)).

A job is known by its configuration and the version of the code. Started again, the sweep leaves alone what is
finished, goes on with what was interrupted, and tries again what failed.

settings of the sweep:
  sweep_dir=auto       its folder; auto: the same words find the same folder under sweeps/
  launcher=in_process  in_process | joblib | submitit | ray
  workers=N            jobs at a time; by default one a GPU, or one a core
  gpus_per_job=1       where there are several GPUs
  retries=1            how often a failed job is tried again
  fail_fast=true       the first failure ends the sweep
  metric=NAME,...      what it looks at; by default the task's own. `seconds` and `parameters` are metrics too
  mode=min|max,...     one for each metric that does not say by itself
  search=grid          grid | random | tpe | gp | cmaes | nsga2 | qmc (all but the first two by Optuna)
  trials=N             jobs in all, where a search chooses them
  pruner=none          median | hyperband | halving: end hopeless trials early
  search_seed=0        of the search
  code=any             results of other versions of the code count as well
  submitit.KEY=VALUE   cluster=slurm|local, slurm_partition=..., timeout_min=...
  ray_address=auto     a Ray cluster; this machine by default

examples:
  rnnlab sweep cell=rnn,gru,lstm model.num_layers=1,2,3 'seed=range(3)' --dry-run
  rnnlab sweep experiment=char_lm cell=gru,lstm seed=1,2 launcher=joblib workers=2
  rnnlab sweep 'optim.lr=tag(log,interval(1e-4,1e-1))' search=tpe trials=40 pruner=median metric=val/loss
  rnnlab sweep sweep_dir=sweeps/sentiment-1a2b3c        the words of the last start
"""


def main(argv: list[str]) -> int:
    """`rnnlab sweep`."""
    from rnnlab.experiments.commands import make_parser

    parser: argparse.ArgumentParser = make_parser("sweep", HELP)
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own configuration files")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs and stop")
    parser.add_argument("settings", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(argv)
    return sweep(options.settings, config_dir=options.config_dir, dry_run=options.dry_run)


def sweep(words: Sequence[str], *, config_dir: str | None = None, dry_run: bool = False) -> int:
    """Do what `rnnlab sweep WORDS` does.

    Args:
        words: settings of the sweep and of its runs.
        config_dir: the user's own configuration folder.
        dry_run: only say what would be done.

    Returns:
        0 if all jobs are finished, 1 if some failed, 130 or 143 if it was interrupted.

    Raises:
        ConfigError: all that is wrong; nothing was made.
        ValueError: another sweep is at work in the folder, or the folder is something else; nothing is swept.
    """
    with quick_imports():
        from rnnlab.experiments.sweeps.plan import read_space
        from rnnlab.experiments.sweeps.settings import split_words

    words, config_dir = _words_of_last_start(words, config_dir)
    settings, run_words = split_words(words)
    if not run_words:
        there = (
            ""
            if settings.sweep_dir == "auto"
            else f" and there is no sweep in {settings.sweep_dir} to go on with"
        )
        raise ValueError(f"nothing is swept{there}: give a key several values, such as cell=rnn,gru")
    _refuse_misspelt(run_words, config_dir)
    space = read_space(run_words, config_dir)
    if settings.launcher == "joblib" and not dry_run:
        with warm_launcher(settings) as launcher:
            return _plan_and_run(words, settings, space, run_words, dry_run, launcher)
    return _plan_and_run(words, settings, space, run_words, dry_run, None)


def _refuse_misspelt(run_words: Sequence[str], config_dir: str | None) -> None:
    """Refuse what is no key of a run and nearly one of the sweep, before a run's keys are offered for it.

    Raises:
        ConfigError: such words, each with the key that is meant.
    """
    from rnnlab.experiments.groups import read_groups, read_yaml, search_path, shipped_folder
    from rnnlab.experiments.sweeps.settings import KEYS
    from rnnlab.training.validate import ConfigError

    runs = {name.partition("/")[0] for name in read_groups(search_path(config_dir))}
    runs |= set(read_yaml(shipped_folder() / "train.yaml"))
    lines = []
    for word in run_words:
        key = word.partition("=")[0]
        near = difflib.get_close_matches(key, [*KEYS, *runs], n=1, cutoff=0.7)
        if key not in runs and near and near[0] in KEYS and "=" in word:
            lines.append(f"{word}: there is no such key; did you mean {near[0]}?")
    if lines:
        raise ConfigError(lines)


@contextlib.contextmanager
def warm_launcher(settings: Any) -> Iterator[Any]:
    """Workers that come up while the jobs are planned; gone at the end, whatever happens."""
    from rnnlab.experiments.sweeps.launchers import make_launcher

    launcher: Any = make_launcher(settings, Path("sweeps"))
    try:
        launcher.warm()
        yield launcher
    finally:
        launcher.close(kill=True)


def _plan_and_run(
    words: Sequence[str],
    settings: Any,
    space: Any,
    run_words: Sequence[str],
    dry_run: bool,
    launcher: Any,
) -> int:
    from rnnlab.experiments.sweeps.folder import Busy, lock
    from rnnlab.experiments.sweeps.launchers import make_launcher
    from rnnlab.experiments.sweeps.plan import Planner, corner_points
    from rnnlab.experiments.sweeps.screen import make_screen, print_plan
    from rnnlab.experiments.sweeps.search import list_jobs

    console = make_screen()
    # A sweep is planned before its folder is known, which is named after the experiment.
    planner = Planner(space, Path("sweeps"))
    first = planner.plan(corner_points(space)[0], 0)
    folder = planner.folder = _folder(settings, run_words, first.name)
    _require_sweep_or_nothing(folder)
    objectives = _objectives(settings, first)
    search: Any = None
    if settings.search in ("grid", "random"):
        search = list_jobs(space, planner, settings.trials, settings.search_seed)
    else:
        _prove_corners(space, planner)
        _require_optuna(settings.search)
    if settings.metric:
        _check_metrics(settings.metric, search.jobs if search is not None else [first])
    console.print(f"sweep in {folder}", soft_wrap=True, markup=False)
    if search is not None:
        rows = _what_is_which(search.jobs, settings)
        print_plan(rows, console, dry_run)
    if dry_run:
        if search is None:
            console.print(f"up to {settings.trials} trials, chosen by {settings.search} one after the other")
        return 0
    holder = f"pid {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    # Before the folder is made: a scheduler that is not there leaves nothing behind.
    launcher = launcher or make_launcher(settings, folder)
    try:
        with lock(folder / "lock", holder):
            return _run(words, settings, space, planner, search, first, objectives, folder, console, launcher)
    except Busy as busy:
        launcher.close(kill=True)
        raise ValueError(
            f"{folder}: another sweep is at work here ({busy}); wait for its end, or give sweep_dir=ANOTHER"
        ) from busy


def _run(
    words: Sequence[str],
    settings: Any,
    space: Any,
    planner: Any,
    search: Any,
    first: Any,
    objectives: list[tuple[str, str]],
    folder: Path,
    console: Any,
    launcher: Any,
) -> int:
    from rnnlab.experiments.sweeps.control import Controller, enter
    from rnnlab.experiments.sweeps.folder import read_sweep, write_about
    from rnnlab.experiments.sweeps.job import Order
    from rnnlab.experiments.sweeps.screen import Screen, print_end
    from rnnlab.training.folder import git_revision

    try:
        if search is None:
            from rnnlab.experiments.sweeps.optuna_search import OptunaSearch

            search = OptunaSearch(
                space,
                planner,
                folder,
                code="any" if settings.code == "any" else first.job.code,
                objectives=objectives,
                sampler=settings.search,
                pruner=settings.pruner,
                trials=settings.trials,
                seed=settings.search_seed,
                parallel=launcher.slots > 1,
            )
            print_study(search, console)
            jobs = search.job_ids()
        else:
            if settings.code == "same":
                for planned in search.jobs:
                    planned.job = enter(planned)
            jobs = [planned.job.id for planned in search.jobs]
        about = {
            "name": first.name,
            "command": ["rnnlab", "sweep", *words],
            "words": list(words),
            "allow": list(_trusted()),  # told in commands, and trusted by nobody for standing here
            "config_dir": first.job.config_dir,
            "folder": os.getcwd(),
            "search": settings.search,
            "trials": settings.trials,
            "objectives": [{"metric": name, "mode": mode} for name, mode in objectives],
            "launcher": settings.launcher,
            "code": first.job.code,
            "git": git_revision(),
            "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "jobs": [] if settings.code == "any" else jobs,
        }
        write_about(folder, about)
        order = Order(
            folder="",
            objectives=tuple(objectives),
            asked=bool(settings.metric),
            pruner=settings.pruner,
            path=tuple(entry or os.getcwd() for entry in sys.path),
            trusted=_trusted(),
            any_code=settings.code == "any",
        )
        metric = objectives[0][0] if objectives else None
        screen = Screen(search.total, metric, console)
        controller = Controller(
            folder,
            about,
            search,
            launcher,
            order,
            settings.retries,
            settings.fail_fast,
            settings.code == "any",
            screen,
        )
    except BaseException:
        launcher.close(kill=True)
        raise
    status = controller.run()
    print_end(read_sweep(folder).jobs, objectives, folder, console)
    if status:
        console.print(f"go on with:\n  {_words_to_go_on(folder)}", soft_wrap=True, markup=False)
    return status


def print_study(search: Any, console: Any) -> None:
    """What a reopened study holds already."""
    states: dict[str, int] = {}
    for trial in search.study.get_trials(deepcopy=False):
        name = {"COMPLETE": "finished", "RUNNING": "open, taken up again"}.get(
            trial.state.name, trial.state.name.lower()
        )
        states[name] = states.get(name, 0) + 1
    told = ", ".join(f"{number} {name}" for name, number in states.items())
    console.print(f"study of {search.total} trials" + (f": {told}" if told else ""), soft_wrap=True)


def _words_of_last_start(words: Sequence[str], config_dir: str | None) -> tuple[list[str], str | None]:
    """The words of the last start of a sweep, where none are given but those of the sweep itself."""
    from rnnlab.experiments.sweeps.folder import read_sweep
    from rnnlab.experiments.sweeps.settings import KEYS

    own = {word.partition("=")[0]: word for word in words if word.partition("=")[0].partition(".")[0] in KEYS}
    if "sweep_dir" not in own or len(own) < len(words):
        return list(words), config_dir
    folder = Path(own["sweep_dir"].partition("=")[2]).expanduser()
    if not (folder / "sweep.yaml").is_file():
        return list(words), config_dir
    about = read_sweep(folder).about
    before = [str(word) for word in about["words"] if str(word).partition("=")[0] not in own]
    return [*before, *words], config_dir or about.get("config_dir")


def _folder(settings: Any, run_words: Sequence[str], name: str) -> Path:
    if settings.sweep_dir != "auto":
        return Path(settings.sweep_dir).expanduser()
    chosen = [*sorted(run_words), settings.search]
    if settings.search != "grid":
        chosen += [str(settings.search_seed), *settings.metric]
    digest = hashlib.sha256("\n".join(chosen).encode()).hexdigest()[:6]
    return Path("sweeps") / f"{name}-{digest}"


def _require_sweep_or_nothing(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"sweep_dir={folder}: not a folder")
    if not (folder / "sweep.yaml").is_file() and any(not _is_own(entry.name) for entry in folder.iterdir()):
        raise ValueError(
            f"sweep_dir={folder}: holds something else than a sweep; name a folder that does not exist yet"
        )
    from rnnlab.experiments.sweeps.folder import read_sweep

    if (folder / "sweep.yaml").is_file():
        read_sweep(folder)


def _is_own(name: str) -> bool:
    """Whether a start that ended before it wrote `sweep.yaml` leaves something of that name."""
    return name in ("lock", "jobs", "study.db", "submitit") or name.startswith(".sweep.yaml-")


def _prove_corners(space: Any, planner: Any) -> None:
    """Refuse a space whose ends cannot be run, before anything is made."""
    from rnnlab.experiments.sweeps.plan import corner_points

    planner.plan_all(corner_points(space))


def _require_optuna(search: str) -> None:
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise ValueError(f"search={search}: needs the package 'optuna': pip install 'rnnlab[optuna]'")


def _what_is_which(jobs: Sequence[Any], settings: Any) -> list[tuple[Any, str]]:
    """What a start does with each job; nothing is changed."""
    from rnnlab.experiments.sweeps.control import what_next
    from rnnlab.experiments.sweeps.folder import read_job
    from rnnlab.experiments.sweeps.plan import of_any_code

    rows = []
    for planned in jobs:
        job = of_any_code(planned.job) if settings.code == "any" else planned.job
        if not job.folder.exists():
            rows.append((job, "new"))
            continue
        try:
            job = read_job(job.folder)
            rows.append((job, what_next(job, settings.retries)))
        except ValueError as error:
            rows.append((job, f"damaged ({error}), moved aside, starts again"))
    return rows


# Metrics of which it is known which way is better, by the last part of their name.
SMALLER = ("loss", "perplexity", "error", "rate", "mae", "mse", "rmse", "nll", "char", "byte", "word")
LARGER = ("accuracy", "f1", "precision", "recall", "auc", "auroc", "bleu", "r2")


def _objectives(settings: Any, first: Any) -> list[tuple[str, str]]:
    """What the sweep looks at, and which way is better."""
    from rnnlab.training.targets import resolve

    task = resolve(first.config.task["_target_"])
    own = getattr(task, "monitor", None), getattr(task, "monitor_mode", "min")
    if not settings.metric:
        return [(own[0], own[1])] if own[0] is not None else []
    found, lines = [], []
    for index, name in enumerate(settings.metric):
        leaf = name.rpartition("/")[2]
        last = leaf.rpartition("_")[2]
        if settings.mode:
            mode = settings.mode[index]
        elif name in ("seconds", "parameters") or last in SMALLER:
            mode = "min"
        elif last in LARGER:
            mode = "max"
        elif name == own[0]:
            mode = own[1]
        else:
            near = difflib.get_close_matches(last, [*SMALLER, *LARGER], n=1)
            meant = f"did you mean {name.removesuffix(last)}{near[0]}? if not, " if near else ""
            lines.append(
                f"metric={name}: {meant}is it better when it is small or large? give mode=min or mode=max"
            )
            continue
        found.append((name, str(mode)))
    if lines:
        from rnnlab.training.validate import ConfigError

        raise ConfigError(lines)
    return found


def _check_metrics(names: Sequence[str], jobs: Sequence[Any]) -> None:
    """Refuse a metric that the runs will not measure, found by one batch of each kind of run.

    Raises:
        ConfigError: names that are not measured, each with the nearest that is.
    """
    from rnnlab.training.validate import ConfigError

    kinds: dict[Any, Any] = {}
    for planned in jobs:
        config = planned.config
        kinds.setdefault((config.task["_target_"], config.data["_target_"], config.test), planned)
    lines = []
    for planned in kinds.values():
        known = sorted({*measured_names(planned.config), "seconds", "parameters"})
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                lines.append(f"metric={name}: the runs will not measure it; {hint}")
    if lines:
        raise ConfigError(lines)


def measured_names(config: Any) -> list[str]:
    """The names of all that a run measures: one batch of training, validation and test, on the CPU."""
    from omegaconf import OmegaConf

    from rnnlab.experiments.sweeps.isolation import isolated, output_to
    from rnnlab.training.run import train

    plain: Any = OmegaConf.to_container(config, resolve=True)
    trainer = {**plain["trainer"], "fast_dev_run": True, "accelerator": "cpu", "devices": 1}
    trainer |= {"strategy": "auto", "num_nodes": 1, "precision": "32-true"}
    with tempfile.TemporaryDirectory() as folder, isolated(), output_to(Path(folder) / "log", False):
        small = {**plain, "trainer": trainer, "callbacks": {}, "logger": {}, "examples": 0}
        result = train({**small, "run_dir": str(Path(folder) / "run")})
        if result.signum == signal.SIGINT:
            raise KeyboardInterrupt
        if result.interrupted:
            raise SystemExit(result.exit_status)
        return list(result.metrics)


def _words_to_go_on(folder: Path) -> str:
    """What a user types to go on; trust in modules is the user's own word each time, and never kept."""
    from rnnlab.training.shell import shell_line

    words = ["rnnlab", "sweep", f"sweep_dir={folder}"]
    if _trusted():
        words.append(f"allow={','.join(_trusted())}")
    return shell_line(words)


def _trusted() -> tuple[str, ...]:
    """Modules that the user's command line lets configurations name."""
    from rnnlab.training.trust import allowed

    return allowed()

"""One training run, from a proven configuration to a folder of results."""

import contextlib
import logging
import os
import signal
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from rnnlab.data.base import DataModule
from rnnlab.training import console as screen
from rnnlab.training.callbacks import Progress, Provenance
from rnnlab.training.checkpoint import describe_model, read_checkpoint
from rnnlab.training.confine import outside
from rnnlab.training.continuation import (
    Continuation,
    alone_in,
    check_end,
    check_same,
    check_same_facts,
    open_run,
    record_continuation,
    remember_latest,
    stored_config,
)
from rnnlab.training.folder import SHARED, make_folder, remove_folder, write_records
from rnnlab.training.ranges import blamed, out_of_range
from rnnlab.training.references import unsafe_references
from rnnlab.training.resume import ExactResume
from rnnlab.training.settings import Settings
from rnnlab.training.shell import shell_line
from rnnlab.training.signals import StopAtSignal, Stopped, StopSignals, requeue
from rnnlab.training.sizes import TooLarge, at_most, blamed_size, machine_bytes
from rnnlab.training.storage import WholeCheckpointIO, clean_leftovers
from rnnlab.training.targets import build, is_node, resolve
from rnnlab.training.trust import allowed
from rnnlab.training.validate import ConfigError, faults, show, signature


@dataclass
class RunResult:
    """What a run did.

    Attributes:
        folder: everything that it left.
        metrics: the last training and validation metrics, and those of the test.
        task: the trained model; with the weights of the best checkpoint, where there was a test.
        datamodule: the data that it was trained on.
        trainer: Lightning's trainer, as training left it.
        checkpoint: the best checkpoint, or the last one; None where none was kept.
        examples: held-out examples with what the model says of them.
        interrupted: the run was stopped by a signal; what it has learned is saved.
        signum: the signal.
    """

    folder: Path
    metrics: dict[str, float]
    task: pl.LightningModule
    datamodule: pl.LightningDataModule
    trainer: pl.Trainer
    checkpoint: Path | None = None
    examples: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False
    signum: int | None = None

    @property
    def exit_status(self) -> int:
        """0, or 128 + the number of the signal that stopped the run."""
        return 0 if self.signum is None else 128 + self.signum


def train(
    config: DictConfig | Mapping[str, Any] | None = None,
    *,
    resume: str | Path | None = None,
    overrides: Sequence[str] = (),
    console: bool = False,
    callbacks: Sequence[pl.Callback] = (),
) -> RunResult:
    """Train, keep the best checkpoint, test it.

    A first SIGINT or SIGTERM lets the run finish its step, save and return with `interrupted`; the caller
    decides what follows. Before and after training they raise KeyboardInterrupt or SystemExit.

    Args:
        config: of `rnnlab.experiments.compose`, or a plain mapping of the same form; None with `resume` for
            the configuration of that run.
        resume: a run that goes on, exactly where it was stopped: its folder, one of its checkpoints,
            `latest` (the last one under `output_dir`), or `auto` (that of `run_dir`, if there is one). A run
            without a checkpoint begins anew in its folder.
        overrides: the words that made the configuration, for the record.
        console: say on screen what is done.
        callbacks: objects beside those of the configuration.

    Raises:
        ConfigError: the configuration is wrong, or not that of the run that goes on; nothing was left behind.
        ValueError: the data cannot be read; nothing was left behind.
        FileNotFoundError: there is no run to go on with.
    """
    if config is None and resume in (None, "auto"):
        raise TypeError("config=None: expected a configuration, or resume= with a run to go on with")
    given = OmegaConf.create({"run_dir": "auto"} if config is None else _plain(config)[0])
    found = _find(resume, given)
    if config is None:
        assert found is not None
        config = stored_config(found.folder)
    source, plain = _plain(config)
    if found is not None:
        source["run_dir"] = str(found.folder)
        plain = _plain(source)[1]
    settings = Settings.of(plain)
    if wrong := faults(plain, source, source) or outside(plain) or out_of_range(plain):
        raise ConfigError(wrong)
    out = screen.make_console(quiet=not console or _rank() > 0)
    with StopSignals() as signals, _quiet_lightning(), contextlib.ExitStack() as held:
        if found is not None:
            check_same(plain, stored_config(found.folder), found.folder)
            check_end(plain, found)
            if _rank() == 0:
                held.enter_context(alone_in(found.folder))
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        pl.seed_everything(settings.seed, workers=True, verbose=False)
        datamodule = _build("data", plain["data"])
        datamodule.prepare_data()
        datamodule.setup("fit")
        facts = datamodule.facts()
        if found is not None and found.content is not None:
            check_same_facts(facts, found.content, found.folder)
        task = _build("task", plain["task"], **facts)
        folder, made = _claim_folder(settings, found)
        try:
            source["run_dir"] = str(folder)
            plain = _plain(source)[1]
            trainer = _trainer(plain, task, facts, [*callbacks, StopAtSignal(signals)])
            if made:
                held.enter_context(alone_in(folder))
                write_records(folder, plain, overrides)
            elif found is not None and _rank() == 0:
                clean_leftovers(folder)
                (folder / "error.txt").unlink(missing_ok=True)
                record_continuation(found, plain, list(overrides))
            _introduce(out, plain, task, datamodule, trainer, folder, found)
        except BaseException:
            if made:
                remove_folder(folder)
            raise
        if _rank() == 0:
            remember_latest(folder, settings.output_dir)
        file = found.file if found else None
        return _execute(settings, plain, task, datamodule, trainer, folder, out, signals, file)


def measure(
    task: pl.LightningModule,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    split: Literal["test", "validation", "all"] = "test",
) -> dict[str, float]:
    """The metrics of a trained task on one split of the data of a configuration.

    Args:
        task: with its weights.
        config: resolved; only `data` and `trainer` are read.
        facts: what the task was built from; the data are encoded with them.
        split: which part of the data; `all` of them count as one test.

    Raises:
        ValueError: `all` of data that cannot be read so.
    """
    with _quiet_lightning():
        datamodule = _build("data", config["data"])
        datamodule.adopt(facts)
        settings = {**config["trainer"], "enable_progress_bar": False}
        trainer = _build("trainer", settings, logger=False, callbacks=[Progress()])
        if split == "all":
            if not isinstance(datamodule, DataModule):
                raise ValueError(f"split=all: {type(datamodule).__name__} has test and validation alone")
            datamodule.setup("test")
            trainer.test(task, dataloaders=datamodule.whole_dataloader(), verbose=False)
            return _numbers(trainer.callback_metrics)
        run = trainer.test if split == "test" else trainer.validate
        run(task, datamodule=datamodule, verbose=False)
        return _numbers(trainer.callback_metrics)


def _plain(config: DictConfig | Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A configuration as plain containers: as it was written, and with every reference resolved."""
    tree = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    source: Any = OmegaConf.to_container(tree, resolve=False)
    if calls := unsafe_references(source):
        raise ConfigError(calls)
    resolved: Any = OmegaConf.to_container(tree, resolve=True)
    return source, resolved


def _build(key: str, node: Mapping[str, Any], **supplied: Any) -> Any:
    """Build a node; a constructor's refusal names the node."""
    try:
        if key != "task":
            return build(node, **supplied)
        with at_most(machine_bytes(), "are there"):
            return build(node, **supplied)
    except TypeError as error:
        if key == "task" and "argument" in str(error):
            given = ", ".join(sorted(supplied))
            raise ConfigError(
                [f"task: {error}; the data give {given}: do task and data belong together?"]
            ) from error
        raise ConfigError([f"{key}: {error}"]) from error
    except (ValueError, MisconfigurationException) as error:  # the latter: what this machine cannot serve
        name = blamed_size(node) if isinstance(error, TooLarge) else None
        if key == "trainer":
            name = blamed(key, node, error, lambda some: build(some, **supplied))
        place = key if name is None else f"{key}.{name}={show(node[name])}"
        raise ConfigError([f"{place}: {error}"]) from error


def _find(resume: str | Path | None, config: DictConfig) -> Continuation | None:
    """The run that goes on, if one does."""
    if resume is None:
        return None
    output_dir = config.get("output_dir", "runs")
    if resume != "auto":
        return open_run(resume, output_dir)
    run_dir = str(config.get("run_dir", "auto"))
    if run_dir == "auto":
        raise ConfigError(["resume=auto: needs a folder of its own; set run_dir as well"])
    return open_run(run_dir) if (Path(run_dir).expanduser() / "config.yaml").is_file() else None


def _claim_folder(settings: Settings, found: Continuation | None) -> tuple[Path, bool]:
    """The run's folder, and whether this process made it: the first of a distributed run does."""
    if found is not None:
        return found.folder, False
    if _rank() > 0 and SHARED in os.environ:
        return Path(os.environ[SHARED]), False
    folder = make_folder(settings)
    os.environ[SHARED] = str(folder.resolve())
    return folder, True


def _trainer(
    config: Mapping[str, Any],
    task: pl.LightningModule,
    facts: Mapping[str, Any],
    more: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """Lightning's trainer with the configured callbacks and loggers, which default to the task's metric."""
    callbacks: list[Any] = [ExactResume(), Provenance(describe_model(config, facts)), *more]
    watched = {"monitor": getattr(task, "monitor", None), "mode": getattr(task, "monitor_mode", "min")}
    for name, node in (config.get("callbacks") or {}).items():
        if node:
            takes = signature(resolve(node["_target_"]))[0]
            own = {key: value for key, value in watched.items() if key in takes and "monitor" not in node}
            callbacks.append(_build(f"callbacks.{name}", node, **own))
    loggers = [_logger(name, node) for name, node in (config.get("logger") or {}).items() if node]
    node = dict(config["trainer"])
    plugins = node.pop("plugins", None) or []
    plugins = [build(item) if is_node(item) else item for item in plugins if item is not None]
    if not any(isinstance(item, CheckpointIO) for item in plugins):
        plugins.append(WholeCheckpointIO())
    return _build(
        "trainer",
        node,
        callbacks=callbacks,
        logger=loggers or False,
        default_root_dir=config["run_dir"],
        plugins=plugins,
    )


def _logger(name: str, node: Mapping[str, Any]) -> Any:
    try:
        return _build(f"logger.{name}", node)
    except ModuleNotFoundError as error:
        raise ConfigError(
            [f"logger.{name}: needs the package {error.name or name!r}: pip install 'rnnlab[{name}]'"]
        ) from error


def _execute(
    settings: Settings,
    config: Mapping[str, Any],
    task: pl.LightningModule,
    datamodule: pl.LightningDataModule,
    trainer: pl.Trainer,
    folder: Path,
    out: Console,
    signals: StopSignals,
    checkpoint: Path | None,
) -> RunResult:
    result = RunResult(folder, {}, task, datamodule, trainer)
    for logger in trainer.loggers:
        logger.log_hyperparams(dict(config))
    signals.training = True
    try:
        trainer.fit(task, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    except Stopped as stopped:
        result.signum = stopped.signum
    except Exception:
        if signals.received is None:
            with contextlib.suppress(OSError):  # a full disk must not hide what it has caused
                (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            raise
        result.signum = signals.received  # it ended a data-loading worker before the run
    finally:
        signals.training = False
        os.environ.pop(SHARED, None)
    result.signum = signals.received if result.signum is None else result.signum
    result.interrupted = result.signum is not None
    result.metrics.update(_numbers(trainer.callback_metrics))
    result.checkpoint = _kept(folder)
    if result.interrupted:
        out.print(f"\ninterrupted; what was learned is in {folder}", soft_wrap=True, markup=False)
        if result.signum == signal.SIGUSR1:
            out.print(requeue(), markup=False)
        else:
            told = shell_line(["rnnlab", "train", f"resume={folder}", *_trust()])
            out.print(f"go on with: {told}", soft_wrap=True, markup=False)
        return result
    if settings.test:
        if result.checkpoint is not None:
            weights = read_checkpoint(result.checkpoint)["state_dict"]
            task.load_state_dict(weights)
        trainer.test(task, datamodule=datamodule, verbose=False)
        measured = _numbers(trainer.callback_metrics)
        result.metrics.update(measured)
        screen.print_metrics(
            {key: value for key, value in measured.items() if key.startswith("test/")}, "\ntest", out
        )
    show: Any = getattr(task, "example_records", None)
    if settings.examples and trainer.is_global_zero and show is not None:
        task.eval()
        result.examples = show(datamodule, settings.examples)
        screen.print_records(result.examples, "\nheld-out examples", out, longest=300)
    _conclude(out, task, result)
    return result


def _introduce(
    out: Console,
    config: Mapping[str, Any],
    task: pl.LightningModule,
    datamodule: pl.LightningDataModule,
    trainer: pl.Trainer,
    folder: Path,
    found: Continuation | None,
) -> None:
    summary = datamodule.summary() if hasattr(datamodule, "summary") else {}
    rows: list[tuple[str, Any]] = [("run", folder)]
    rows += [(key.replace("_", " "), screen.plain_text(value)) for key, value in summary.items() if value]
    where = str(trainer.strategy.root_device)
    if where == "cpu":
        where += f", {torch.get_num_threads()} threads"
    rows += [("device", f"{where}, {trainer.precision}"), ("seed", config.get("seed"))]
    if found is not None:
        rows.insert(1, ("goes on", f"after step {found.step}" if found.file else "from the beginning"))
    screen.print_facts(rows, out)
    out.print()
    screen.print_layers(task, out)
    out.print()


def _conclude(out: Console, task: pl.LightningModule, result: RunResult) -> None:
    headline = getattr(task, "headline", None)
    if headline in result.metrics:
        out.print(f"\n[bold]{headline} {result.metrics[headline]:.4f}[/bold]")
    out.print(f"\neverything is in {result.folder}", soft_wrap=True, markup=False)
    if result.checkpoint is not None:
        run = [f"checkpoint={result.folder}", *_trust()]
        out.print("next:", soft_wrap=True)
        for words in (["eval", *run], ["predict", *run, *_example(result)]):
            out.print(f"  {shell_line(['rnnlab', *words])}", soft_wrap=True, markup=False)


def _example(result: RunResult) -> list[str]:
    """An input for `rnnlab predict`: the words themselves, or a file where they are too many to paste."""
    text = str(next(iter(result.examples[0].values()), "...")) if result.examples else "..."
    if len(text) <= 200 or len(text.splitlines()) > 1:
        return ["--", text] if text.startswith("-") or "=" in text else [text]
    file = result.folder / "example.txt"
    file.write_text(text + "\n", encoding="utf-8")
    return [f"file={file}"]


def _kept(folder: Path) -> Path | None:
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / "checkpoints" / name).is_file():
            return folder / "checkpoints" / name
    return None


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in sorted(metrics.items())}


def _trust() -> list[str]:
    """What a command needs beside its own words: trust in modules is the user's own word each time."""
    return [f"allow={','.join(allowed())}"] if allowed() else []


def _rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning without its advertisements, and without warnings about choices that rnnlab makes."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Lightning's own use of a class that torch has renamed.
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*", category=FutureWarning)
            # Batches come ready from memory; workers would slow them down.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # A short epoch still logs its means.
            warnings.filterwarnings("ignore", message=".*The number of training batches")
            # The checkpoint folder lies in the run's own new folder.
            warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""One training run, from a proven configuration to a folder of results."""

import contextlib
import logging
import os
import shlex
import signal
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from rnnlab.training import console as screen
from rnnlab.training.callbacks import Progress, Provenance
from rnnlab.training.checkpoint import describe_model, read_checkpoint
from rnnlab.training.confine import outside
from rnnlab.training.folder import SHARED, make_folder, remove_folder, write_records
from rnnlab.training.ranges import blamed, out_of_range
from rnnlab.training.references import unsafe_references
from rnnlab.training.settings import Settings
from rnnlab.training.sizes import at_most, machine_bytes
from rnnlab.training.targets import build, resolve
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
        interrupted: training was stopped by the user.
    """

    folder: Path
    metrics: dict[str, float]
    task: pl.LightningModule
    datamodule: pl.LightningDataModule
    trainer: pl.Trainer
    checkpoint: Path | None = None
    examples: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False


def train(
    config: DictConfig | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    console: bool = False,
    callbacks: Sequence[pl.Callback] = (),
) -> RunResult:
    """Train, keep the best checkpoint, test it.

    Args:
        config: of `rnnlab.experiments.compose`, or a plain mapping of the same form.
        overrides: the words that made it, for the record.
        console: say on screen what is done.
        callbacks: objects beside those of the configuration.

    Raises:
        ConfigError: the configuration is wrong; nothing was left behind.
        ValueError: the data cannot be read; nothing was left behind.
    """
    source, plain = _plain(config)
    settings = Settings.of(plain)
    if found := faults(plain, source, source) or out_of_range(plain):
        raise ConfigError(found)
    out = screen.make_console(quiet=not console or _rank() > 0)
    with _quiet_lightning():
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        pl.seed_everything(settings.seed, workers=True, verbose=False)
        datamodule = _build("data", plain["data"])
        datamodule.prepare_data()
        datamodule.setup("fit")
        facts = datamodule.facts()
        task = _build("task", plain["task"], **facts)
        folder, made = _claim_folder(settings)
        try:
            source["run_dir"] = str(folder)
            plain = _plain(source)[1]
            if strayed := outside(plain):
                raise ConfigError(strayed)
            trainer = _trainer(plain, task, facts, callbacks)
            if made:
                write_records(folder, plain, overrides)
            _introduce(out, plain, task, datamodule, trainer, folder)
        except BaseException:
            if made:
                remove_folder(folder)
            raise
        return _execute(settings, plain, task, datamodule, trainer, folder, out)


def measure(
    task: pl.LightningModule,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    split: Literal["test", "validation"] = "test",
) -> dict[str, float]:
    """The metrics of a trained task on one split of the data of a configuration.

    Args:
        task: with its weights.
        config: resolved; only `data` and `trainer` are read.
        facts: what the task was built from; the data are encoded with them.
        split: which part of the data.
    """
    with _quiet_lightning():
        datamodule = _build("data", config["data"])
        datamodule.adopt(facts)
        settings = {**config["trainer"], "enable_progress_bar": False}
        trainer = _build("trainer", settings, logger=False, callbacks=[Progress()])
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
        name = blamed(key, node, error, lambda some: build(some, **supplied)) if key == "trainer" else None
        place = key if name is None else f"{key}.{name}={show(node[name])}"
        raise ConfigError([f"{place}: {error}"]) from error


def _claim_folder(settings: Settings) -> tuple[Path, bool]:
    """The run's folder, and whether this process made it: the first of a distributed run does."""
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
    callbacks: list[Any] = [Provenance(describe_model(config, facts)), *more]
    watched = {"monitor": getattr(task, "monitor", None), "mode": getattr(task, "monitor_mode", "min")}
    for name, node in (config.get("callbacks") or {}).items():
        if node:
            takes = signature(resolve(node["_target_"]))[0]
            own = {key: value for key, value in watched.items() if key in takes and "monitor" not in node}
            callbacks.append(_build(f"callbacks.{name}", node, **own))
    loggers = [_logger(name, node) for name, node in (config.get("logger") or {}).items() if node]
    return _build(
        "trainer",
        config["trainer"],
        callbacks=callbacks,
        logger=loggers or False,
        default_root_dir=config["run_dir"],
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
) -> RunResult:
    result = RunResult(folder, {}, task, datamodule, trainer)
    for logger in trainer.loggers:
        logger.log_hyperparams(dict(config))
    previous = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(task, datamodule=datamodule)
    except SystemExit:  # Lightning's answer to an interrupt; callbacks have saved what there is
        result.interrupted = True
    except Exception:
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
        os.environ.pop(SHARED, None)
    result.metrics.update(_numbers(trainer.callback_metrics))
    result.checkpoint = _kept(folder)
    if result.interrupted:
        out.print(f"\ninterrupted; what was learned is in {_words(str(folder))}")
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
        screen.print_records(result.examples, "\nheld-out examples", out)
    _conclude(out, task, result)
    return result


def _introduce(
    out: Console,
    config: Mapping[str, Any],
    task: pl.LightningModule,
    datamodule: pl.LightningDataModule,
    trainer: pl.Trainer,
    folder: Path,
) -> None:
    summary = datamodule.summary() if hasattr(datamodule, "summary") else {}
    rows: list[tuple[str, Any]] = [("run", folder)]
    rows += [(key.replace("_", " "), screen.plain_text(value)) for key, value in summary.items() if value]
    where = str(trainer.strategy.root_device)
    if where == "cpu":
        where += f", {torch.get_num_threads()} threads"
    rows += [("device", f"{where}, {trainer.precision}"), ("seed", config.get("seed"))]
    screen.print_facts(rows, out)
    out.print()
    screen.print_layers(task, out)
    out.print()


def _conclude(out: Console, task: pl.LightningModule, result: RunResult) -> None:
    headline = getattr(task, "headline", None)
    if headline in result.metrics:
        out.print(f"\n[bold]{headline} {result.metrics[headline]:.4f}[/bold]")
    out.print(f"\neverything is in {result.folder}", soft_wrap=True)
    if result.checkpoint is not None:
        example = next(iter(result.examples[0].values()), "...") if result.examples else "..."
        run = _words(str(result.folder))
        out.print("next:", soft_wrap=True)
        out.print(f"  rnnlab eval checkpoint={run}", soft_wrap=True, markup=False)
        out.print(f"  rnnlab predict checkpoint={run} {_words(str(example))}", soft_wrap=True, markup=False)


def _kept(folder: Path) -> Path | None:
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / "checkpoints" / name).is_file():
            return folder / "checkpoints" / name
    return None


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in sorted(metrics.items())}


def _words(text: str) -> str:
    """A text as one word of a shell."""
    return shlex.quote(text)


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

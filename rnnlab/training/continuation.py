"""Which run is continued, from which of its checkpoints, and with which configuration."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from rnnlab.training.checkpoint import read_checkpoint
from rnnlab.training.plain_yaml import check_yaml
from rnnlab.training.resume import FORMAT, KEY
from rnnlab.training.storage import first_whole, write_text_whole
from rnnlab.training.validate import ConfigError, show

# The name under `output_dir` that leads to the run which was begun or continued last.
LATEST = "latest"
# Newest first.
GENERATIONS = ("last.ckpt", "previous.ckpt", "best.ckpt")
# What makes a run the run that it is; the rest of a configuration may change when it goes on.
FIXED = ("seed", "cell", "model", "optim", "schedule", "data", "task")
FREE = ("data.num_workers", "data.eval_batch_size", "data.source")


@dataclass
class Continuation:
    """A run that goes on.

    Attributes:
        folder: of the run.
        file: the checkpoint from which it goes on; None where it was stopped before it had written one.
        content: of that checkpoint.
    """

    folder: Path
    file: Path | None
    content: dict[str, Any] | None

    @property
    def step(self) -> int:
        """Steps of the optimiser that were taken."""
        return int(self.content["global_step"]) if self.content else 0

    @property
    def epochs(self) -> int:
        """Epochs that are over, the one in which it was stopped not among them."""
        loops = self.content.get("loops", {}) if self.content else {}
        progress = loops.get("fit_loop", {}).get("epoch_progress", {})
        return int(progress.get("current", {}).get("processed", 0))


def find_run(resume: str | Path, output_dir: str | Path = "runs") -> Path:
    """The folder of the run that `resume` names.

    Args:
        resume: the folder of a run, one of its checkpoints, or `latest`: the run that was begun or continued
            last under `output_dir`.
        output_dir: where `latest` is looked for.

    Raises:
        FileNotFoundError: there is no such run.
    """
    path = Path(resume).expanduser()
    if str(resume) == LATEST:
        path = Path(output_dir).expanduser() / LATEST
        if not path.is_dir():
            raise FileNotFoundError(f"resume=latest: there is no run under {output_dir}; name one's folder")
    folder = path
    if path.is_file():
        folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    elif path.name == "checkpoints" and path.is_dir():
        folder = path.parent
    if not (folder / "config.yaml").is_file():
        what = "is not the folder of a run (it has no config.yaml)" if folder.is_dir() else "is not there"
        raise FileNotFoundError(f"resume={resume}: {folder} {what}")
    return folder.resolve() if str(resume) == LATEST else folder


def open_run(resume: str | Path, output_dir: str | Path = "runs") -> Continuation:
    """The run that `resume` names, and its newest checkpoint that is whole; damaged ones are warned of.

    Raises:
        FileNotFoundError: there is no such run, or all its checkpoints are damaged.
        ValueError: the checkpoint is not one from which training goes on.
    """
    folder = find_run(resume, output_dir)
    path = Path(resume).expanduser()
    named = [path] if path.is_file() else []
    candidates = named or [folder / "checkpoints" / name for name in GENERATIONS]
    file = first_whole(candidates)
    if file is None:
        if any(candidate.exists() for candidate in candidates):
            raise FileNotFoundError(f"resume={resume}: no checkpoint of this run is whole")
        return Continuation(folder, None, None)
    content = read_checkpoint(file)
    if KEY not in content:
        raise ValueError(
            f"resume={resume}: {file.name} holds weights alone, from which training cannot go on; "
            "`rnnlab eval` and `predict` can use it"
        )
    version = content[KEY].get("format") if isinstance(content[KEY], dict) else None
    if version != FORMAT:
        raise ValueError(
            f"resume={resume}: {file.name} has the state of training in format {version}, this rnnlab reads "
            f"{FORMAT}: the run goes on with the version of rnnlab that began it"
        )
    return Continuation(folder, file, content)


def stored_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run, with the paths into its folder as they are now.

    Raises:
        ValueError: `config.yaml` is not one that a run has written.
    """
    check_yaml(folder / "config.yaml")
    tree: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=False)
    if not isinstance(tree, dict) or "run_dir" not in tree:
        raise ValueError(f"{folder / 'config.yaml'}: not the configuration of a run")
    moved: dict[str, Any] = _moved(tree, str(tree["run_dir"]), str(folder))
    return moved


def _moved(value: Any, before: str, after: str) -> Any:
    if isinstance(value, dict):
        return {key: _moved(item, before, after) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, before, after) for item in value]
    if isinstance(value, str) and (value == before or value.startswith(f"{before}/")):
        return after + value[len(before) :]
    return value


def check_same(config: Mapping[str, Any], before: Mapping[str, Any], resume: str | Path) -> None:
    """Raise ConfigError where a configuration is not that of the run that goes on."""
    now, then = _flat(config), _flat(before)
    found = []
    for key in sorted(now.keys() | then.keys()):
        if key.split(".")[0] in FIXED and key not in FREE and now.get(key) != then.get(key):
            told = show(then[key]) if key in then else "nothing"
            found.append(f"{key}={show(now.get(key))}: the run that goes on has {told}; begin a new run")
    if found:
        raise ConfigError(found)


def check_end(config: Mapping[str, Any], found: Continuation) -> None:
    """Raise ConfigError where a run is to end before the point from which it goes on."""
    last = config["trainer"].get("max_epochs")
    if isinstance(last, int) and 0 <= last < found.epochs:
        raise ConfigError(
            [f"trainer.max_epochs={last}: the run has trained {found.epochs} epochs; give as many, or more"]
        )


def check_same_facts(facts: Mapping[str, Any], content: Mapping[str, Any], resume: str | Path) -> None:
    """Raise ValueError where the data are no longer those that the run has learned from."""
    then = content["rnnlab"]["facts"]
    different = sorted(key for key in facts.keys() | then.keys() if not _equal(facts.get(key), then.get(key)))
    if different:
        raise ValueError(
            f"resume={resume}: the data have changed since the run was stopped ({', '.join(different)}); "
            "a run goes on with the data that it has begun with"
        )


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    return type(left) is type(right) and bool(left == right)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{path}.{key}").items()}
    if isinstance(value, list | tuple) and value:
        return {k: v for n, item in enumerate(value) for k, v in _flat(item, f"{path}.{n}").items()}
    return {path[1:]: value}


def remember_latest(folder: Path, output_dir: str | Path) -> None:
    """Let `output_dir/latest` lead to a run in it; where links cannot be made, nothing is done."""
    parent = Path(output_dir).expanduser().resolve()
    target = folder.resolve()
    if not target.is_relative_to(parent):
        return
    with contextlib.suppress(OSError):
        temporary = parent / f".{LATEST}.{os.getpid()}.tmp"
        temporary.symlink_to(target.relative_to(parent))
        os.replace(temporary, parent / LATEST)


def record_continuation(found: Continuation, config: Mapping[str, Any], overrides: list[str]) -> None:
    """Keep what the run goes on with in `config.yaml`, and where it went on in `resumed.yaml`."""
    from rnnlab.training.folder import environment

    file = found.folder / "resumed.yaml"
    before: Any = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else []
    entry = {
        "step": found.step,
        "checkpoint": found.file.name if found.file else None,
        "overrides": overrides,
        "environment": environment(),
    }
    write_text_whole(file, OmegaConf.to_yaml(OmegaConf.create([*before, entry])))
    write_text_whole(found.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder of a run; the hold ends with the process, however that ends.

    Raises:
        ValueError: another process trains in it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another process trains in this folder; wait for it, or stop it"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)

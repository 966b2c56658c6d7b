"""Checkpoints that say what they are: weights, and the configuration and facts that rebuild the model.

A checkpoint holds plain containers and tensors alone, so that it loads with `weights_only=True`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from rnnlab.training.archive import UnsafeFile, load_archive, load_safetensors, weights_bytes
from rnnlab.training.references import texts
from rnnlab.training.sizes import SPARE_BYTES, at_most
from rnnlab.training.targets import build

FORMAT = 1


def describe_model(config: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps under the key `rnnlab`.

    Raises:
        TypeError: something in it is neither a plain container nor a tensor.
    """
    record = {"format": FORMAT, "config": dict(config), "facts": dict(facts)}
    _require_plain(record, "rnnlab")
    return record


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file of a path: itself, or the best (else the last) one of a run's folder.

    Raises:
        FileNotFoundError: there is none.
    """
    given = Path(path).expanduser()
    if given.is_file():
        return given
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "best.ckpt", "last.ckpt"):
        if (given / name).is_file():
            return given / name
    if given.is_dir():
        raise FileNotFoundError(f"checkpoint={path}: no checkpoint in this folder (checkpoints/best.ckpt)")
    raise FileNotFoundError(f"checkpoint={path}: there is no such file or folder")


def read_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """The contents of a checkpoint that rnnlab wrote.

    Raises:
        FileNotFoundError: no such file, or no checkpoint in the folder.
        ValueError: not a checkpoint, one of another program, or of a newer rnnlab.
    """
    file = find_checkpoint(path)
    load = load_safetensors if file.suffix == ".safetensors" else load_archive
    try:
        content = load(file, map_location)
    except UnsafeFile as error:
        raise ValueError(
            f"checkpoint={file}: cannot be read ({error}); expected one that train wrote"
        ) from error
    record = content.get("rnnlab") if isinstance(content, dict) else None
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(record, dict) or not isinstance(weights, dict):
        raise ValueError(
            f"checkpoint={file}: a checkpoint of another program: it does not say which model it holds; "
            "expected one that `rnnlab train` wrote"
        )
    if record.get("format") != FORMAT:
        raise ValueError(
            f"checkpoint={file}: format {record.get('format')}, this rnnlab reads {FORMAT}: update rnnlab"
        )
    if not isinstance(record.get("config"), dict) or not isinstance(record.get("facts"), dict):
        raise ValueError(f"checkpoint={file}: it does not say how its model is built")
    if not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()):
        raise ValueError(f"checkpoint={file}: its weights are not tensors by name")
    for key, text in texts(record["config"]):  # those of a run have been resolved before
        raise ValueError(f"checkpoint={file}: its configuration refers to {text[:80]!r} ({'.'.join(key)})")
    return content


def load_task(path: str | Path, map_location: str | torch.device = "cpu") -> pl.LightningModule:
    """The task of a checkpoint, with its weights, in evaluation mode.

    Args:
        path: a checkpoint, or the folder of a run.
        map_location: where the weights go.

    Raises:
        FileNotFoundError: no such file, or no checkpoint in the folder.
        ValueError: not a checkpoint of rnnlab, or its weights do not fit the model that it names.
    """
    return task_of(read_checkpoint(path, map_location), find_checkpoint(path)).to(map_location)


def task_of(content: Mapping[str, Any], file: Path) -> pl.LightningModule:
    """The task that the contents of a checkpoint describe; `file` is named in errors."""
    record = content["rnnlab"]
    # Weights twice over, as an average has them, and what is drawn before it is replaced.
    budget = 4 * weights_bytes(content["state_dict"]) + SPARE_BYTES
    try:
        with at_most(budget, "are enough for its weights"):
            task = build(record["config"]["task"], "model", **record["facts"])
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        first = " ".join(str(error).split())[:300]
        raise ValueError(f"checkpoint={file}: its model cannot be built here: {first}") from error
    if not isinstance(task, pl.LightningModule):
        raise ValueError(f"checkpoint={file}: it names a {type(task).__name__}, which is not a task")
    try:
        task.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise ValueError(f"checkpoint={file}: its weights do not fit its own model: {first}") from error
    return task.eval()


def _require_plain(value: Any, path: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str | int | float | bool | None):
                raise TypeError(f"{path}: the key {key!r} is a {type(key).__name__}, not text or a number")
            _require_plain(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _require_plain(item, f"{path}[{index}]")
    elif type(value) not in (str, int, float, bool, type(None)) and not isinstance(value, torch.Tensor):
        raise TypeError(f"{path} is a {type(value).__name__}; expected plain containers, numbers and text")

"""A checkpoint measured on the data that it was trained beside, or on other data."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from rnnlab.experiments.compose import compose, parse_values, prove
from rnnlab.experiments.groups import read_groups, search_path
from rnnlab.training.checkpoint import find_checkpoint, read_checkpoint, task_of
from rnnlab.training.run import measure
from rnnlab.training.targets import TargetError, check


def evaluate(
    checkpoint: str,
    overrides: Sequence[str] = (),
    *,
    split: Literal["test", "validation", "all"] | None = None,
    config_dir: str | None = None,
) -> dict[str, float]:
    """The metrics of a checkpoint on one split.

    Args:
        checkpoint: a file, or the folder of a run.
        overrides: words that change `data` or `trainer`: `data=texts data.source=mine.csv trainer=gpu`.
        split: `test`, `validation`, or `all` of the data; by default the test, but all of a single file that
            `data.source` names, since nothing in it was learned from.
        config_dir: the user's own configuration folder.

    Raises:
        ConfigError, FileNotFoundError, ValueError: see `compose` and `read_checkpoint`.
    """
    content = read_checkpoint(checkpoint)
    config = configuration(content, checkpoint, overrides, config_dir)
    task = task_of(content, find_checkpoint(checkpoint))
    if split is None:
        split = "all" if other_file(content, config) else "test"
    return measure(task, config, content["rnnlab"]["facts"], split)


def other_file(content: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether the data are a single file, and not the one of the checkpoint."""
    source, own = (of["data"].get("source") for of in (config, content["rnnlab"]["config"]))
    if not isinstance(source, str) or not Path(source).expanduser().is_file():
        return False
    return not isinstance(own, str) or Path(source).expanduser().resolve() != Path(own).expanduser().resolve()


def configuration(
    content: Mapping[str, Any], checkpoint: str, overrides: Sequence[str], config_dir: str | None
) -> dict[str, Any]:
    """The configuration for other data than a checkpoint's own, or for the same; see `evaluate`."""
    known = read_groups(search_path(config_dir))
    chosen = {word.split("=")[0].lstrip("+") for word in overrides} & set(known)
    of_data = [word for word in overrides if _head(word) == "data"]
    fresh = compose(
        [word for word in overrides if "data" in chosen or _head(word) != "data"], config_dir=config_dir
    )
    config = fresh.config
    if "data" not in chosen:
        of_checkpoint = content["rnnlab"]["config"]["data"]
        try:
            check(of_checkpoint, "data", "data")
        except TargetError as error:
            raise ValueError(f"checkpoint={checkpoint}: {error}") from error
        config.data = of_checkpoint
        config = prove(config, parse_values(of_data))
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return plain


def _head(word: str) -> str:
    return re.split(r"[.=@]", word.lstrip("+~"), maxsplit=1)[0]

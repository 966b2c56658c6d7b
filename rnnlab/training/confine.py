"""Paths of a configuration that something is written to: the run's folder and what lies in it."""

import os
import re
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rnnlab.training.targets import DIRECTIVES, is_node, resolve
from rnnlab.training.validate import show, signature

# The groups whose objects write files; data are read, and a model does neither.
WRITERS = ("callbacks", "logger", "trainer")
# What all runs below one `output_dir` write to.
SHARED = ("mlflow", "mlflow.db")
# Arguments that are joined to another path, so that a plain name in them stays where that path is.
_JOINED = frozenset({"filename", "name", "prefix", "sub_dir", "version"})
_PLACES = frozenset({"artifact_location", "dirpath", "file", "folder", "log_dir", "output_dir", "save_dir"})
_LOCAL = re.compile(r"(file|sqlite):(?://)?(.*)", re.DOTALL)
_REMOTE = re.compile(r"https?://(?!.*\.\.)", re.DOTALL)


def outside(config: Mapping[str, Any]) -> list[str]:
    """The paths of callbacks, loggers and trainer that leave the run's folder, a line each.

    MLflow's store in `output_dir`, which all runs share, counts as inside; links are not followed, since the
    folder is new.

    Args:
        config: resolved, with names that have been proven.
    """
    roots = [_plain(str(config["run_dir"]))] if config.get("run_dir") else []
    roots += [_plain(os.path.join(str(config.get("output_dir") or "."), name)) for name in SHARED]
    found = []
    for group in WRITERS:
        for path, value, place in _texts(config.get(group), group, False):
            named = _file(value)
            if not place and (_REMOTE.match(value) or not _leaves(named)):
                continue
            if not any(_inside(named, root) for root in roots):
                found.append(
                    f"{path}={show(value)}: lies outside the run's folder; expected a path in ${{run_dir}}"
                )
    for path in _keys(config.get("data"), "data"):
        if path.rpartition(".")[2] == "cache_dir":
            found.append(f"{path}: a configuration names no cache; set HF_DATASETS_CACHE for all data sets")
    return found


def _keys(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{path}.{key}"
            yield from _keys(item, f"{path}.{key}")


def strays(config: Mapping[str, Any], typed: Collection[str]) -> list[str]:
    """Where a file of configuration, and not the user, puts the run outside the working folder, a line each.

    Args:
        config: resolved.
        typed: keys that were given on the command line.
    """
    return [
        f"{key}={show(config[key])}: a configuration file names a folder outside the working folder; "
        f"give it on the command line"
        for key in ("output_dir", "run_dir", "name")
        if key not in typed and isinstance(config.get(key), str) and _leaves(config[key])
    ]


def _texts(value: Any, path: str, place: bool) -> Iterator[tuple[str, str, bool]]:
    """Every text with its key, and whether it names a place whatever it looks like."""
    if isinstance(value, str):
        yield path, value, place
    elif is_node(value):
        hints = signature(resolve(value["_target_"]))[1]
        for key, item in value.items():
            if key not in DIRECTIVES:
                names_place = key not in _JOINED and (key in _PLACES or _is_path(hints.get(key)))
                yield from _texts(item, f"{path}.{key}", names_place)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{path}.{key}", place)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, f"{path}[{index}]", place)


def _is_path(hint: Any) -> bool:
    options = typing.get_args(hint) or (hint,)
    return any(isinstance(option, type) and issubclass(option, os.PathLike) for option in options)


def _file(value: str) -> str:
    """The path that a text stands for, as a URI or plainly."""
    match = _LOCAL.fullmatch(value)
    if match is None:
        return value
    scheme, rest = match.groups()
    return rest[1:] if scheme == "sqlite" and rest.startswith("/") else rest


def _leaves(path: str) -> bool:
    """Whether a path is absolute, starts at a home, or climbs."""
    return path.startswith(("/", "~", "\\")) or ".." in re.split(r"[/\\]", path)


def _inside(path: str, root: str) -> bool:
    plain = _plain(path)
    return plain == root or plain.startswith(root.rstrip("/") + "/")


def _plain(path: str) -> str:
    return os.path.normpath(Path(path).expanduser().absolute())

"""The version of the code that a run is made of: a hash of its sources."""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# The parts of rnnlab that decide what a run computes. Configuration files are in the run's own configuration.
PARTS = ("cells", "data", "nn", "recurrence", "tasks", "training")
SUFFIXES = (".py", ".cpp", ".hpp")


def code_version(config: Mapping[str, Any]) -> str:
    """Ten digits for rnnlab's sources, and for those modules of the user's own that a configuration names.

    A module is read once in a process, since what has been imported does not change with its file.
    """
    names = sorted(_roots(config))
    return _digest("".join([_own(), *(f"{name}{_of_module(name)}" for name in names)]).encode())


@functools.cache
def _own() -> str:
    package = Path(__file__).parents[2]
    kernels = find_spec("rnnlab_kernels")
    files = [file for part in PARTS for file in _sources(package / part)]
    if kernels is not None and kernels.origin is not None:
        files += _sources(Path(kernels.origin).parent)
    return _of_files(files)


@functools.cache
def _of_module(name: str) -> str:
    """A hash of a module's files; empty for one that is installed, or is not there."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return ""
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return ""
    file = Path(spec.origin).resolve()
    installed = {Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "purelib", "platlib")}
    if any(folder in file.parents for folder in installed):
        return ""
    return _of_files(_sources(file.parent) if spec.submodule_search_locations else [file])


def _roots(value: Any) -> set[str]:
    """The first names of every `_target_`, rnnlab's own left out."""
    found: set[str] = set()
    if isinstance(value, Mapping):
        target = value.get("_target_")
        if isinstance(target, str):
            found.add(target.partition(".")[0])
        for item in value.values():
            found |= _roots(item)
    elif isinstance(value, list | tuple):
        for item in value:
            found |= _roots(item)
    return found - {"rnnlab", *sys.stdlib_module_names}


def _sources(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES)


def _of_files(files: Iterable[Path]) -> str:
    return _digest(b"".join(file.name.encode() + b"\0" + file.read_bytes() for file in files))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:10]

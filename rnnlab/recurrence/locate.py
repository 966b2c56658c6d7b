"""Cells named on the command line: `my_module:MyCell`, `file.py:MyCell`, or a name of `rnnlab.cells`.

`my_module.MyCell`, as configurations write it, is the same as `my_module:MyCell`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from rnnlab import cells


def locate(name: str) -> Callable[..., nn.Module]:
    """The class or factory of that name; modules of the working folder are found first.

    Raises:
        ValueError: there is no such cell, module, file or attribute, or importing it fails.
    """
    module_name, colon, attribute = name.rpartition(":")
    if not colon and "." in name and not name.endswith(".py"):
        module_name, _, attribute = name.rpartition(".")
    elif not colon:
        try:
            return cells.find(name)
        except ValueError as error:
            raise ValueError(f"{error}; one of your own is written my_module:MyCell") from None
    module = _from_file(Path(module_name)) if module_name.endswith(".py") else _from_path(module_name)
    found = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            close = get_close_matches(part, dir(found), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{module_name} has no {part!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name} is {found!r}, which makes no cell")
    return found


def settings(words: Sequence[str]) -> dict[str, Any]:
    """Arguments written `key=value`, each value a Python literal or else plain text.

    Raises:
        ValueError: a word without an equals sign, or whose key is no name.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"{word!r} is not a setting of the cell such as heads=2")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = {"true": True, "false": False, "null": None}.get(value, value)
    return found


def _from_path(name: str) -> Any:
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            raise ValueError(
                f"there is no module {error.name!r} in {folder} or among those installed"
            ) from None
        raise ValueError(f"importing {name} failed: {error}") from error
    except Exception as error:
        raise ValueError(f"importing {name} failed: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # pickling a cell looks its module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"importing {path} failed: {type(error).__name__}: {error}") from error
    return module

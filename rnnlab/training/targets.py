"""`_target_` nodes: the object that one names, and the object that one builds.

`resolve` is the only place where a name out of a configuration becomes a Python object.
"""

import difflib
import functools
import importlib
from collections.abc import Mapping
from typing import Any

DIRECTIVES = frozenset({"_target_", "_partial_"})


class TargetError(ValueError):
    """A `_target_` that names nothing that can be called."""


def resolve(name: Any) -> Any:
    """The class or function that the dotted `name` stands for; modules are imported, nothing is called.

    Raises:
        TargetError: no such module or attribute, or the object cannot be called.
    """
    if (
        not isinstance(name, str)
        or not all(part.isidentifier() for part in name.split("."))
        or "." not in name
    ):
        raise TargetError(f"{name!r} is not a dotted name such as rnnlab.DeepRNN")
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:split])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and (module_name + ".").startswith(error.name + "."):
                continue
            raise TargetError(f"{name}: importing {module_name} needs the package {error.name!r}") from error
        for attribute in parts[split:]:
            try:
                found = getattr(found, attribute)
            except AttributeError:
                near = difflib.get_close_matches(attribute, dir(found), n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise TargetError(f"{name}: {_name(found)} has no {attribute!r}{hint}") from None
        if not callable(found):
            raise TargetError(f"{name} is {found!r}, which cannot be called")
        return found
    raise TargetError(f"{name}: there is no module {parts[0]!r}")


def _name(thing: Any) -> str:
    return getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None) or repr(thing)


def is_node(value: Any) -> bool:
    """Whether a value of a configuration is built into an object."""
    return isinstance(value, Mapping) and "_target_" in value


def build(node: Mapping[str, Any], **supplied: Any) -> Any:
    """Build the object of a resolved node, nested nodes first; `supplied` is what the program adds.

    With `_partial_: true` the result is a `functools.partial` that the program completes later. Values pass
    as they stand, so that text such as `${x}` in a vocabulary stays text.
    """
    target = resolve(node["_target_"])
    arguments = {key: _built(value) for key, value in node.items() if key not in DIRECTIVES} | supplied
    if node.get("_partial_", False):
        return functools.partial(target, **arguments)
    return target(**arguments)


def _built(value: Any) -> Any:
    if is_node(value):
        return build(value)
    if isinstance(value, Mapping):
        return {key: _built(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_built(item) for item in value]
    return value

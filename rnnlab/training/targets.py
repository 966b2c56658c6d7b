"""`_target_` nodes: the object that one names, and the object that one builds.

`resolve` is the only place where a name out of a configuration or a checkpoint becomes a Python object;
`rnnlab.training.trust` says which may.
"""

import difflib
import functools
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from rnnlab.training.importing import quick_imports
from rnnlab.training.trust import Part, forbidden_name, forbidden_object, forbidden_step

DIRECTIVES = frozenset({"_target_", "_partial_"})


class TargetError(ValueError):
    """A `_target_` that names nothing that may be called."""


def resolve(name: Any, part: Part = "any") -> Any:
    """The class or function that the dotted `name` stands for; modules are imported, nothing is called.

    Args:
        name: such as `rnnlab.DeepRNN`.
        part: what it is part of; see `rnnlab.training.trust.forbidden_object`.

    Raises:
        TargetError: no such module or attribute, an object that cannot be called, or one that no
            configuration may name.
    """
    parts = _spelt(name).split(".")
    for split in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:split])
        try:
            with quick_imports():
                found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and (module_name + ".").startswith(error.name + "."):
                continue
            raise TargetError(f"{name}: importing {module_name} needs the package {error.name!r}") from error
        _require(forbidden_step(name, found))
        for attribute in parts[split:]:
            try:
                found = getattr(found, attribute)
            except AttributeError:
                near = difflib.get_close_matches(attribute, dir(found), n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise TargetError(f"{name}: {_name(found)} has no {attribute!r}{hint}") from None
            _require(forbidden_step(name, found))
        if not callable(found):
            raise TargetError(f"{name} is {found!r}, which cannot be called")
        _require(forbidden_object(name, found, part))
        return found
    raise TargetError(f"{name}: there is no module {parts[0]!r}")


def nodes(tree: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node in a tree, however deep, with its full key."""
    if isinstance(tree, Mapping):
        if "_target_" in tree:
            yield path, tree
        for key, value in tree.items():
            yield from nodes(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from nodes(value, f"{path}[{index}]")


def forbidden(tree: Any, path: str = "") -> list[str]:
    """The names in a tree that may not even be looked up, a line each; nothing is imported."""
    found = []
    for key, node in nodes(tree, path):
        try:
            _spelt(node["_target_"])
        except TargetError as error:
            found.append(f"{key}._target_: {error}")
    return found


def check(tree: Any, part: Part = "any", path: str = "") -> None:
    """Look up every name in a tree; nothing is called, and nothing imported unless all names may be.

    Raises:
        TargetError: the first that is refused, with its key.
    """
    if lines := forbidden(tree, path):
        raise TargetError(lines[0])
    for key, node in nodes(tree, path):
        try:
            resolve(node["_target_"], part)
        except TargetError as error:
            raise TargetError(f"{key}._target_: {error}" if key else str(error)) from error


def _spelt(name: Any) -> str:
    """A name that is a dotted one and may be looked up."""
    if (
        not isinstance(name, str)
        or not all(part.isidentifier() for part in name.split("."))
        or "." not in name
    ):
        raise TargetError(f"{name!r} is not a dotted name such as rnnlab.DeepRNN")
    _require(forbidden_name(name))
    return name


def _require(refusal: str | None) -> None:
    if refusal is not None:
        raise TargetError(refusal)


def _name(thing: Any) -> str:
    return getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None) or repr(thing)


def is_node(value: Any) -> bool:
    """Whether a value of a configuration is built into an object."""
    return isinstance(value, Mapping) and "_target_" in value


def build(node: Mapping[str, Any], part: Part = "any", /, **supplied: Any) -> Any:
    """Build the object of a resolved node, nested nodes first; `supplied` is what the program adds.

    With `_partial_: true` the result is a `functools.partial` that the program completes later. Values pass
    as they stand, so that text such as `${x}` in a vocabulary stays text. Every name in the node is looked
    up before the first object is made.

    Raises:
        TargetError: see `check`.
    """
    check(node, part)
    return _built(node, **supplied)


def _built(value: Any, **supplied: Any) -> Any:
    if is_node(value):
        target = resolve(value["_target_"])
        inner = {key: _built(item) for key, item in value.items() if key not in DIRECTIVES}
        arguments = inner | supplied
        if value.get("_partial_", False):
            return functools.partial(target, **arguments)
        return target(**arguments)
    if isinstance(value, Mapping):
        return {key: _built(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_built(item) for item in value]
    return value

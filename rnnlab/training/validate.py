"""Proof of a configuration before anything runs: every node bound to the signature that it feeds.

All that is wrong is said at once; each line names the full key, what was received, and the nearest right one.
"""

import difflib
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from rnnlab.training.settings import Settings
from rnnlab.training.shell import shell_word
from rnnlab.training.targets import DIRECTIVES, TargetError, forbidden, is_node, resolve

# What the program itself passes when it completes a node, by the node's key.
SUPPLIED: dict[str, frozenset[str]] = {
    "cell": frozenset({"input_size", "hidden_size"}),
    "model": frozenset({"input_size"}),
    "optim": frozenset({"params"}),
    "schedule": frozenset({"optimizer", "total_steps"}),
    "trainer": frozenset({"callbacks", "logger", "default_root_dir"}),
}
# The task also receives the facts that the data reveals (vocabulary, classes); known once it is read.
SUPPLIED_BY_DATA = "task"
# A callback that watches a metric watches the task's own, unless the configuration names another.
SUPPLIED_BY_TASK = frozenset({"monitor", "mode"})
# The settings outside any node.
OWN = typing.get_type_hints(Settings)
# The key under which a user may put whatever the configuration refers to.
FREE = "vars"

_ALIAS = re.compile(r"^\$\{[^{}]+\}$")


class ConfigError(ValueError):
    """One or more faults of a configuration, each a line that a user can act on."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(dict.fromkeys(faults))
        super().__init__("\n".join(self.faults))


def faults(config: Mapping[str, Any], source: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """What is wrong with a configuration; nothing is called, and modules are imported only if all may be.

    Args:
        config: the resolved configuration, plain containers.
        source: the same before interpolation: a value such as `${cell}` is checked where it is defined.
        known: the configuration as the files gave it, before single values were set; what a plain mapping
            may hold.
    """
    found = forbidden(config)
    if found:
        return _where_defined(found)
    universe = sorted(set(_settable(known)))
    _walk_mapping(config, source, known, "", universe, found)
    return found


def _where_defined(found: Sequence[str]) -> list[str]:
    """Faults without those that an alias repeats: of `cell: X` and `model.cell: X` the first."""
    told = {tuple(line.split(": ", 1)) for line in found}

    def repeats(line: str) -> bool:
        path, _, rest = line.partition(": ")
        parts = path.split(".")
        return any((".".join(parts[start:]), rest) in told for start in range(1, len(parts)))

    return [line for line in found if not repeats(line)]


def _walk_mapping(
    config: Mapping[str, Any], source: Any, known: Any, path: str, universe: Sequence[str], found: list[str]
) -> None:
    """A mapping without a `_target_`: its keys are those of the files, or new nodes."""
    for key, value in config.items():
        full = f"{path}{key}"
        original = source.get(key) if isinstance(source, Mapping) else None
        if full == FREE or value == "???":
            continue
        if not (isinstance(known, Mapping) and key in known) and not (path and is_node(value)):
            names = [f"{path}{name}" for name in known] if isinstance(known, Mapping) else []
            found.append(_unknown(full, value, names, universe))
        elif not path and key in OWN and not fits(value, OWN[key]):
            found.append(_unfit(full, value, OWN[key]))
        elif _is_alias(original):
            continue
        elif is_node(value):
            _walk_node(value, original, full, universe, found)
        elif isinstance(value, Mapping):
            below = known[key] if isinstance(known, Mapping) else {}
            _walk_mapping(value, original, below, f"{full}.", universe, found)


def _walk_node(
    node: Mapping[str, Any], source: Any, path: str, universe: Sequence[str], found: list[str]
) -> None:
    """A mapping with a `_target_`: its keys and values are those of the signature."""
    try:
        target = resolve(node["_target_"])
    except TargetError as error:
        found.append(f"{path}._target_: {error}")
        return
    parameters, hints, open_ended = signature(target)
    supplied = SUPPLIED.get(path, frozenset())
    allowed = [name for name in parameters if name not in supplied]
    for key, value in node.items():
        full = f"{path}.{key}"
        original = source.get(key) if isinstance(source, Mapping) else None
        if key in DIRECTIVES:
            if key == "_partial_" and not isinstance(value, bool):
                found.append(f"{full}={show(value)}: expected true or false")
            continue
        if key in supplied:
            found.append(f"{full}: rnnlab supplies {key!r} itself{_elsewhere(path, key)}")
        elif key not in parameters and not open_ended:
            found.append(_unknown(full, value, [f"{path}.{name}" for name in allowed], universe))
        else:
            alias = str(original)[2:-1] if _is_alias(original) else None
            told = alias is not None and any(line.startswith(f"{alias}=") for line in found)
            if not told and value != "???" and key in hints and not fits(value, hints[key]):
                found.append(_unfit(full, value, hints[key]))
            if alias is None:
                _walk_value(value, original, full, universe, found)
    if not node.get("_partial_", False) and path != SUPPLIED_BY_DATA:
        later = supplied | (SUPPLIED_BY_TASK if path.startswith("callbacks.") else frozenset())
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in node and name not in later:
                wanted = f" ({describe(hints[name])})" if name in hints else ""
                found.append(f"{path}.{name}: required{wanted}, but not given")


def _walk_value(value: Any, source: Any, path: str, universe: Sequence[str], found: list[str]) -> None:
    if is_node(value):
        _walk_node(value, source, path, universe, found)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            below = source.get(key) if isinstance(source, Mapping) else None
            if not _is_alias(below):
                _walk_value(item, below, f"{path}.{key}", universe, found)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            below = source[index] if isinstance(source, list | tuple) and index < len(source) else None
            if not _is_alias(below):
                _walk_value(item, below, f"{path}[{index}]", universe, found)


def signature(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any], bool]:
    """The named parameters of `target`, their annotations, and whether it takes any other name.

    A class whose `__init__` passes `**kwargs` on takes what the next `__init__` of its bases takes.
    """
    if not inspect.isclass(target):
        return _own_signature(target)
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    open_ended = True
    for base in target.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        own, own_hints, open_ended = _own_signature(vars(base)["__init__"], bound=True)
        if parameters:  # what a base requires, its heir may pass by itself
            own = {name: parameter.replace(default=None) for name, parameter in own.items()}
        parameters = own | parameters
        hints = own_hints | hints
        if not open_ended:
            return parameters, hints, False
    if not parameters:  # built without an `__init__` of its own: a NamedTuple, an extension type
        return _own_signature(target)
    return parameters, hints, open_ended


def _own_signature(
    function: Callable[..., Any], bound: bool = False
) -> tuple[dict[str, inspect.Parameter], dict[str, Any], bool]:
    try:
        every = list(inspect.signature(function).parameters.values())[1 if bound else 0 :]
    except (TypeError, ValueError):  # a built-in that tells nothing about itself
        return {}, {}, True
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # an annotation of a third party that names what is not importable
        hints = {}
    named = {p.name: p for p in every if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, hints, any(p.kind is p.VAR_KEYWORD for p in every)


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value can be what an annotation says; true where that cannot be told.

    An int passes for a float, a bool never for a number. A node stands for whatever it builds.
    """
    if is_node(value) or hint is Any or isinstance(hint, typing.TypeVar | str):
        return True
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in get_args(hint))
    if origin is typing.Annotated:
        return fits(value, get_args(hint)[0])
    if hint is None or hint is type(None):
        return value is None
    if value is None:
        return hint is object
    kind = origin or hint
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str)
    if kind is tuple and isinstance(value, list | tuple):
        options = get_args(hint)
        if len(options) == 2 and options[1] is Ellipsis:
            return all(fits(item, options[0]) for item in value)
        return not options or (len(options) == len(value) and all(map(fits, value, options)))
    if inspect.isclass(kind):
        return _fits_class(value, kind, get_args(hint))
    return True


def _fits_class(value: Any, kind: type, arguments: tuple[Any, ...]) -> bool:
    if isinstance(value, Mapping):
        plain = issubclass(kind, Mapping) or issubclass(dict, kind)
        return plain and (len(arguments) != 2 or all(fits(item, arguments[1]) for item in value.values()))
    if isinstance(value, list | tuple):
        plain = (kind is not str and issubclass(list, kind)) or kind in (set, frozenset)
        return plain and (len(arguments) != 1 or all(fits(item, arguments[0]) for item in value))
    if isinstance(value, str) and (
        issubclass(kind, os.PathLike | Enum) or kind.__name__ in ("device", "dtype")
    ):
        return True  # text names a path, a member, a device
    if isinstance(value, str) and issubclass(kind, Iterable):
        return False  # text is a sequence to Python, and hardly ever to a user
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol that cannot be asked
        return True


def describe(hint: Any) -> str:
    """An annotation in words that a user of the command line reads."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(describe(option) for option in get_args(hint)))
        return " or ".join([word for word in words if word != "null"] + ["null"] * ("null" in words))
    if origin is Literal:
        return " or ".join(show(option) for option in get_args(hint))
    if origin is typing.Annotated:
        return describe(get_args(hint)[0])
    if hint is None or hint is type(None):
        return "null"
    plain = {bool: "true or false", int: "an int", float: "a number", str: "text"}
    if hint in plain:
        return plain[hint]
    kind = origin or hint
    if kind is Callable or kind is getattr(typing, "Callable", None):
        return "a node with _target_"
    if inspect.isclass(kind):
        inner = [describe(item) for item in get_args(hint) if item is not Ellipsis]
        if issubclass(kind, Mapping):
            return "a mapping" + (f" to {inner[-1]}" if inner else "")
        if issubclass(list, kind) or kind in (tuple, set, frozenset):
            return "a list" + (f" of {', '.join(dict.fromkeys(inner))}" if inner else "")
        return kind.__name__
    return str(hint).removeprefix("typing.")


def _settable(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Every key that could be set: those of the files, and those of the signatures that they name."""
    for key, value in tree.items():
        full = f"{path}{key}"
        if key in DIRECTIVES:
            continue
        yield full
        if isinstance(value, Mapping):
            yield from _settable(value, f"{full}.")
        if is_node(value):
            try:
                names = signature(resolve(value["_target_"]))[0]
            except TargetError:
                continue
            yield from (f"{full}.{name}" for name in names if name not in SUPPLIED.get(full, ()))


def _unfit(full: str, value: Any, hint: Any) -> str:
    """The line for a value that its key cannot take; a list of values that it can was meant as a sweep."""
    line = f"{full}={show(value)}: expected {describe(hint)}, got {_kind(value)}"
    if isinstance(value, list) and len(value) > 1 and all(fits(item, hint) for item in value):
        words = ",".join(item if isinstance(item, str) else show(item) for item in value)
        return f"{line}; to train with each: rnnlab sweep {shell_word(f'{full}={words}')}"
    return line


def _unknown(full: str, value: Any, siblings: Sequence[str], universe: Sequence[str]) -> str:
    """The line for a key that does not exist, with the nearest that does: beside it first, then anywhere."""
    leaf = full.rpartition(".")[2]
    near = difflib.get_close_matches(full, siblings, n=1, cutoff=0.0)
    if near and difflib.SequenceMatcher(None, leaf, near[0].rpartition(".")[2]).ratio() >= 0.6:
        return f"{full}={show(value)}: there is no such key; did you mean {near[0]}?"
    misplaced = [key for key in universe if key.rpartition(".")[2] == leaf and key != full]
    if not misplaced:
        leaves = difflib.get_close_matches(
            leaf, {key.rpartition(".")[2] for key in universe}, n=1, cutoff=0.75
        )
        misplaced = [key for key in universe if key.rpartition(".")[2] in leaves and key != full]
    if misplaced:
        return f"{full}={show(value)}: there is no such key; did you mean {' or '.join(misplaced[:3])}?"
    offered = ", ".join(sorted(siblings)[:12]) + (", ..." if len(siblings) > 12 else "")
    there_are = f"there are {offered}" if siblings else f"nothing can be set under {full.rpartition('.')[0]}"
    return f"{full}={show(value)}: there is no such key; {there_are}"


def _elsewhere(path: str, key: str) -> str:
    places = {
        "callbacks": "; set callbacks.*",
        "logger": "; choose logger=",
        "default_root_dir": "; set output_dir",
    }
    return places.get(key, "") if path == "trainer" else ""


def _is_alias(value: Any) -> bool:
    """Whether a value is nothing but a reference to another key."""
    return isinstance(value, str) and _ALIAS.match(value) is not None


def show(value: Any) -> str:
    """A value as a user would write it, shortened."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a bool"
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return {int: "an int", float: "a float", str: "text"}.get(type(value), type(value).__name__)

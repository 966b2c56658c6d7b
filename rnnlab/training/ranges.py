"""Values out of range, as the constructors themselves tell it when they are called on stand-ins.

The model is built for one input feature and the optimiser over one number, before a folder exists.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from rnnlab.training.settings import Settings
from rnnlab.training.sizes import TooLarge, at_most, blamed_size, machine_bytes
from rnnlab.training.targets import DIRECTIVES, TargetError, build, is_node, resolve
from rnnlab.training.validate import show, signature

Node = Mapping[str, Any]
# What takes the place of a value that is wrong already, so that the others are still asked.
_STAND_INS: Mapping[str, Any] = {"cell": "lstm", "hidden_size": 1}
_KEY = re.compile(r"[\w.]+")
_REFERENCE = re.compile(r"^\$\{([^{}]+)\}$")


def out_of_range(config: Node, source: Node | None = None, told: Sequence[str] = ()) -> list[str]:
    """What the constructors refuse, a line for each key at fault.

    Args:
        config: resolved, plain containers.
        source: the same before interpolation; needed where something was told.
        told: faults of the configuration that are known already. The keys that they name are left out, and
            what only follows from them is not told again.
    """
    wrong = [match[0] for line in told if (match := _KEY.match(line))]
    found = Settings.of({key: value for key, value in config.items() if key not in wrong}).faults()

    def attempt(key: str, finish: Callable[[Any], Any]) -> Any:
        node = config.get(key)
        if not is_node(node) or key in wrong or f"{key}._target_" in wrong:
            return None
        assert isinstance(node, Mapping)
        written = (source or {}).get(key)
        kept = dict(node)
        for name in node:
            original = written.get(name) if isinstance(written, Mapping) else None
            if _is_wrong(f"{key}.{name}", original, wrong):
                _leave_out(kept, name)
        if kept != node and _lacks(kept):
            return None
        made, lines = _made(key, kept, finish, types=not told)
        found.extend(lines)
        return made

    def completed(**supplied: Any) -> Callable[[Any], Any]:
        return lambda made: made(**supplied) if callable(made) else made

    with torch.random.fork_rng(devices=[]):
        attempt("model", completed(input_size=1))
        attempt("data", lambda made: made)
        numbers = [torch.nn.Parameter(torch.zeros(1))]
        optimizer = attempt("optim", completed(params=numbers)) or torch.optim.SGD(numbers, lr=0.1)
        steps = {"total_steps": 10} if _takes(config.get("schedule"), "total_steps") else {}
        attempt("schedule", completed(optimizer=optimizer, **steps))
    return found


def blamed(key: str, node: Node, error: Exception, attempt: Callable[[Node], Any]) -> str | None:
    """The value of a node without which `attempt` succeeds, or else fails in another way; None if none is.

    Values that the error names come first.
    """
    names = [name for name, value in node.items() if name not in DIRECTIVES and not is_node(value)]
    names.sort(key=lambda name: name not in str(error))
    other = None
    for name in names:
        refusal = _refusal({k: v for k, v in node.items() if k != name}, attempt)
        if refusal is None:
            return name
        if other is None and name in str(error) and str(refusal) != str(error):
            other = name
    return other


def _made(key: str, node: Node, finish: Callable[[Any], Any], *, types: bool) -> tuple[Any, list[str]]:
    """The object of a node, and what its constructor refuses: one value after the other is left out."""
    found: list[str] = []

    def attempt(some: Node) -> Any:
        with at_most(machine_bytes(), "are there"):
            return finish(build(some))

    left = dict(node)
    while True:
        try:
            return attempt(left), found
        except (ValueError, TypeError) as error:
            if isinstance(error, TypeError) and (not types or found):
                return None, found
            name = blamed_size(left) if isinstance(error, TooLarge) else blamed(key, left, error, attempt)
            if name is None:
                return None, [*found, f"{key}: {error}"]
            found.append(f"{key}.{name}={show(left[name])}: {error}")
            if left[name] is _STAND_INS.get(name):
                return None, found
            _leave_out(left, name)


def _leave_out(node: dict[str, Any], name: str) -> None:
    del node[name]
    if name in _STAND_INS:
        node[name] = _STAND_INS[name]


def _refusal(node: Node, attempt: Callable[[Node], Any]) -> Exception | None:
    try:
        attempt(node)
    except Exception as error:
        return error
    return None


def _is_wrong(full: str, written: Any, wrong: Sequence[str]) -> bool:
    """Whether a fault names a key, what lies below it, or what it refers to."""
    reference = _REFERENCE.match(written) if isinstance(written, str) else None
    roots = [full] + ([reference[1]] if reference else [])
    return any(key == root or key.startswith(f"{root}.") for key in wrong for root in roots)


def _lacks(node: Node) -> bool:
    """Whether a node is without a value that it needs from the configuration."""
    if "_target_" not in node:
        return True
    parameters = signature(resolve(node["_target_"]))[0]
    supplied = {"input_size", "params", "optimizer", "total_steps"}
    return any(
        parameter.default is parameter.empty and name not in node and name not in supplied
        for name, parameter in parameters.items()
    )


def _takes(node: Any, name: str) -> bool:
    try:
        return is_node(node) and name in signature(resolve(node["_target_"]))[0]
    except TargetError:
        return False

"""What a name in a configuration or a checkpoint may stand for; both may come from strangers.

A name is judged twice: as text, before any module is imported, and by the object that it leads to, whatever
alias or re-export the text went through.
"""

import contextlib
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

# Packages whose names may stand in a configuration.
ROOTS = ("rnnlab", "torch.nn", "torch.optim", "lightning", "torchmetrics")

Part = Literal["any", "model", "data"]
# The classes that may be built: of ROOTS, what descends from one of these.
_MODELS = (
    "torch.nn.modules.module.Module",
    "torch.optim.optimizer.Optimizer",
    "torch.optim.lr_scheduler.LRScheduler",
)
_DATA = ("lightning.pytorch.core.datamodule.LightningDataModule",)
_MACHINERY = (
    "lightning.pytorch.callbacks.callback.Callback",
    "lightning.pytorch.loggers.logger.Logger",
    "lightning.pytorch.plugins.precision.precision.Precision",
    "lightning.pytorch.profilers.profiler.Profiler",
    "lightning.pytorch.strategies.strategy.Strategy",
    "lightning.pytorch.trainer.trainer.Trainer",
)
_BASES: Mapping[Part, tuple[str, ...]] = {
    "any": (*_MODELS, *_DATA, *_MACHINERY),
    "model": _MODELS,
    "data": _DATA,
}
# Where other classes and functions may be named as well: equations and plain containers.
_OPEN: Mapping[Part, tuple[str, ...]] = {
    "any": ("rnnlab.cells", "rnnlab.nn", "rnnlab.data", "rnnlab.tasks"),
    "model": ("rnnlab.cells", "rnnlab.nn", "rnnlab.tasks"),
    "data": ("rnnlab.data",),
}
_FUNCTIONS = ("rnnlab.cells", "rnnlab.nn", "rnnlab.tasks.schedules", "torch.nn.functional", "torch.nn.init")
# Of ROOTS, what builds any class by name, reads the command line, or fetches files from the network.
_CLOSED = (
    "lightning.pytorch.cli",
    "lightning.pytorch.demos",
    *(f"torchmetrics.audio.{name}" for name in ("dnsmos", "nisqa")),
    *(f"torchmetrics.image.{name}" for name in ("arniqa", "dists", "fid", "inception", "kid", "lpip")),
    *(f"torchmetrics.image.{name}" for name in ("mifid", "perceptual_path_length")),
    *(f"torchmetrics.text.{name}" for name in ("bert", "infolm", "rouge")),
    "torchmetrics.functional",
    "torchmetrics.multimodal",
    "torchmetrics.video",
)

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_named_by_user: list[str] = []


def allow(*modules: str) -> None:
    """Let configurations and checkpoints name what lives in these modules, for the life of this process.

    Only the user may decide this: `allow=my_module` on the command line, or this call in Python.

    Raises:
        ValueError: not the dotted name of a module.
    """
    for module in modules:
        if not _DOTTED.fullmatch(module):
            raise ValueError(f"allow={module}: expected the name of a module, such as allow=my_module")
    _named_by_user.extend(module for module in modules if module not in _named_by_user)


def allowed() -> tuple[str, ...]:
    """What the user has named so far."""
    return tuple(_named_by_user)


@contextlib.contextmanager
def allowing(*modules: str) -> Iterator[None]:
    """`allow` for the length of a `with` block."""
    before = list(_named_by_user)
    allow(*modules)
    try:
        yield
    finally:
        _named_by_user[:] = before


def forbidden_name(name: str) -> str | None:
    """Why the text of a name is refused; None if it may be looked up. Nothing is imported."""
    if within(name, allowed()):
        return None
    if not within(name, ROOTS):
        return f"{name} is {_outside(name)}"
    if any(part.startswith("_") for part in name.split(".")):
        return f"{name} is private; a configuration names public classes and functions"
    return None


def forbidden_step(name: str, found: Any) -> str | None:
    """Why a lookup stops at a module on its way: one outside the packages that may be named."""
    if isinstance(found, types.ModuleType) and not within(found.__name__, (*ROOTS, *allowed())):
        return f"{name} leads to the module {found.__name__}, which is {_outside(found.__name__)}"
    return None


def forbidden_object(name: str, found: Any, part: Part = "any") -> str | None:
    """Why the object of a name may not be built; None if it may.

    Args:
        name: as the configuration has it, for the message.
        found: what it leads to.
        part: what the name is part of: a model and a data module that come with a checkpoint may hold
            nothing else.
    """
    home, qualified = _home(found)
    if home is None:
        return f"{name} is an object of type {type(found).__name__}, not a class or function with a home"
    if within(home, allowed()):
        return None
    full = f"{home}.{qualified}"
    told = name if name == full else f"{name} is {full}, which"
    if not within(home, ROOTS) or not _lives_there(found, home, qualified):
        return f"{told} is {_outside(home)}"
    reason = f"{told} may not be named by a configuration; if you trust it, add allow={home}"
    if within(home, _CLOSED):
        return reason
    if not isinstance(found, type):
        return None if within(home, _FUNCTIONS) and part != "data" else reason
    bases = {f"{base.__module__}.{base.__qualname__}" for base in found.__mro__}
    if bases.intersection(_BASES[part]):
        return None
    if within(home, _OPEN[part]) and not bases.intersection(_BASES["any"]):
        return None
    if part != "any" and forbidden_object(name, found) is None:
        return f"{told} is no part of a {'model' if part == 'model' else 'data module'}"
    return reason


def within(name: str, packages: Sequence[str]) -> bool:
    """Whether a dotted name is one of the packages or lies below one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _outside(home: str) -> str:
    return (
        f"outside what a configuration may name ({', '.join(ROOTS)}); "
        f"if you trust it, add allow={home.split('.')[0]} to the command line"
    )


def _home(found: Any) -> tuple[str | None, str]:
    """The module that defines a class, a function or a class method, and its name there."""
    if isinstance(found, types.MethodType) and isinstance(found.__self__, type):
        found = found.__func__
    if isinstance(found, type | types.FunctionType):
        return found.__module__, found.__qualname__
    if isinstance(found, types.BuiltinFunctionType) and isinstance(found.__module__, str):
        return found.__module__, found.__qualname__
    return None, ""


def _lives_there(found: Any, home: str, qualified: str) -> bool:
    """Whether the definition is found where the object says that it is from."""
    there: Any = sys.modules.get(home)
    for name in qualified.split("."):
        there = vars(there).get(name) if hasattr(there, "__dict__") else None
    there = getattr(there, "__func__", there)  # a class method, as its class holds it
    return there is getattr(found, "__func__", found)

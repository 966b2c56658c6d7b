"""Which compiled Program belongs to a cell as it is now, and how its tensors are found at each call.

A Program is compiled once for a structure: the classes of a cell's modules, their settings, and the shapes
of their parameters. Parameters are read from the modules at every call, so that functional calls, weight drop
and a loaded checkpoint act at once; a setting that has changed is noticed, and leads to another Program.

Legend: `T` time, `B` batch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from rnnlab.recurrence.compiler import Compiled, compile_cell
from rnnlab.recurrence.compiler import find as find_tensor
from rnnlab.recurrence.contract import Call, Noise, StepSpec, has_hooks
from rnnlab.recurrence.graph import Unsupported
from rnnlab.recurrence.operators import Entry, executor
from rnnlab.recurrence.simplify import tidy, with_restarts

# What every module has: no settings of a cell, but for `training`.
_COMMON = frozenset(nn.Module().__dict__) - {"training"}
_PRIMITIVE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_CODE = (FunctionType, BuiltinFunctionType, type)


class Plan:
    """A compiled structure, with the entries of its Programs in the operators' table."""

    def __init__(self, compiled: Compiled, device: torch.device) -> None:
        self.compiled = compiled
        self.totals: bool = getattr(executor(device.type), "TOTALS", False)
        self._entries: dict[Any, Entry] = {}

    def entry(self, requires: tuple[bool, ...] | None, restart: bool = False, strict: bool = False) -> Entry:
        """The Program for these gradients; with `restart`, one that is given the states to restart from."""
        key = requires, restart, strict
        found = self._entries.get(key)
        if found is None:
            program = self.compiled.marked
            if restart:
                program = tidy(with_restarts(program))
            found = self._entries[key] = Entry(program, requires, strict, self.totals).enter()
        return found


class Bound:
    """A plan for one cell, or the reason why there is none, for as long as the cell's settings stay."""

    def __init__(self, cell: nn.Module, plan: Plan | str) -> None:
        self.plan = plan
        self._modules = [_Settings(module) for module in cell.modules()]
        self._reads: list[tuple[int, torch.dtype, int, str, str, torch.Size]] = []
        self._ties: list[tuple[tuple[int, str], tuple[int, str]]] = []
        self._constants: dict[int, Tensor] = {}
        if isinstance(plan, str):
            return
        order = {name: i for i, (name, _) in enumerate(cell.named_modules())}
        step = plan.compiled.trace
        for value in step.parameters:
            parent, _, name = value.path.rpartition(".")
            tensor = find_tensor(cell, value.path)
            self._reads.append(
                (value.number, tensor.dtype, order[parent], name, _kind(cell, value.path), tensor.shape)
            )
        self._constants = {v.number: v.tensor for v in step.constants if v.tensor is not None}
        seen: dict[Tensor, tuple[int, str]] = {}
        for path, tensor in cell.named_parameters(remove_duplicate=False):
            parent, _, name = path.rpartition(".")
            # A module that stands in two places is one module.
            place = order.get(parent, -1), name
            if place[0] >= 0 and seen.setdefault(tensor, place) != place:
                self._ties.append((seen[tensor], place))

    def tensors(self) -> dict[int, Tensor] | None:
        """The tensors of the step's parameters now; None where the cell has changed its structure."""
        modules: list[nn.Module] = []
        for settings in self._modules:
            module = settings.module()
            if module is None or not settings.hold(module):
                return None
            modules.append(module)
        found = self._constants.copy()
        for number, dtype, index, name, kind, shape in self._reads:
            attributes = modules[index].__dict__
            tensor = (attributes[kind] if kind else attributes).get(name)
            if tensor is None or tensor.dtype is not dtype or tensor.shape != shape:
                return None
            found[number] = tensor
        for (i, name), (j, other) in self._ties:
            if getattr(modules[i], name, None) is not getattr(modules[j], other, None):
                return None
        return found


class _Settings:
    """What a module was when its step was captured, without keeping it alive."""

    def __init__(self, module: nn.Module) -> None:
        self.module: ReferenceType[nn.Module] = ref(module)
        self.type = type(module)
        self.forward = type(module).forward
        self.children = [(name, ref(child)) for name, child in module._modules.items() if child is not None]
        self.names = tuple(module.__dict__)
        # Held, so that the identity of a plain value is never that of another; what could refer to the
        # module is held weakly.
        self.held: list[Any] = []
        self.plain: list[tuple[str, Any]] = []
        self.containers: list[tuple[str, Any]] = []
        self.other: list[tuple[str, Callable[[], Any]]] = []
        self._see(module)
        for name, value in module.__dict__.items():
            if name in _COMMON or isinstance(value, Tensor):
                continue
            if isinstance(value, _PRIMITIVE):
                self.plain.append((name, value))
            elif isinstance(value, list | dict | set | tuple):
                self.containers.append((name, _token(value)))
            else:
                self.other.append((name, _reference(value)))

    def _see(self, module: nn.Module) -> None:
        values = module.__dict__.values()
        self.identities = [*map(id, values)]
        self.held = [value for value in values if isinstance(value, _PRIMITIVE)]

    def hold(self, module: nn.Module) -> bool:
        """Whether a module is still what it was."""
        attributes = module.__dict__
        if [*map(id, attributes.values())] != self.identities:
            if tuple(attributes) != self.names:
                return False
            for name, value in self.plain:
                now = attributes[name]
                if now is not value and (type(now) is not type(value) or now != value):
                    return False
            self._see(module)
        if self.type.forward is not self.forward or type(module) is not self.type:
            return False
        for name, token in self.containers:
            if _token(attributes[name]) != token:
                return False
        for name, reference in self.other:
            if attributes[name] is not reference():
                return False
        if self.children:
            children = module._modules
            return all(children.get(name) is child() for name, child in self.children)
        return True


def _reference(value: Any) -> Callable[[], Any]:
    try:
        return ref(value)
    except TypeError:
        return lambda: value


def _token(value: Any) -> Any:
    """Something that compares equal as long as a setting means the same."""
    if isinstance(value, list | tuple):
        return type(value), tuple(_token(v) for v in value)
    if isinstance(value, dict):
        return dict, tuple((_token(k), _token(v)) for k, v in value.items())
    if isinstance(value, set):
        return set, frozenset(_token(v) for v in value)
    if isinstance(value, Tensor):
        return Tensor, tuple(value.shape), value.dtype
    return value if isinstance(value, (*_PRIMITIVE, *_CODE)) else id(value)


def _kind(cell: nn.Module, path: str) -> str:
    """The dictionary of a module that holds a tensor; "" where it is a plain attribute."""
    parent, _, name = path.rpartition(".")
    module = cell.get_submodule(parent)
    return "_parameters" if name in module._parameters else "_buffers" if name in module._buffers else ""


def structure(cell: nn.Module) -> Any:
    """What cells that can share a Program have in common; None for a cell that shares with no other."""
    parts: list[Any] = []
    numbers: dict[int, int] = {}
    for name, module in cell.named_modules():
        settings = []
        for key, value in module.__dict__.items():
            if key in _COMMON or isinstance(value, Tensor):
                settings.append((key, _token(value)) if isinstance(value, Tensor) else key)
            elif isinstance(value, (*_PRIMITIVE, *_CODE)):
                settings.append((key, type(value), value))
            elif isinstance(value, list | tuple | dict | set) and _primitive(value):
                settings.append((key, _token(value)))
            else:
                return None
        tensors = [
            (key, None if t is None else (tuple(t.shape), t.dtype, numbers.setdefault(id(t), len(numbers))))
            for holder in (module._parameters, module._buffers)
            for key, t in holder.items()
        ]
        parts.append((name, type(module), type(module).forward, tuple(settings), tuple(tensors)))
    return tuple(parts)


def _primitive(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_primitive(k) and _primitive(v) for k, v in value.items())
    if isinstance(value, list | tuple | set):
        return all(_primitive(v) for v in value)
    return isinstance(value, (*_PRIMITIVE, *_CODE))


_bound: WeakKeyDictionary[nn.Module, dict[Any, Bound]] = WeakKeyDictionary()
_shared: dict[Any, Plan] = {}

Description = tuple[Any, ...]


def find(call: Call) -> tuple[Plan | str, dict[int, Tensor]]:
    """The plan for a call and the tensors of its parameters, or the reason why the cell cannot be fused."""
    return bound(call.cell, call.spec, describe(call))


def bound(cell: nn.Module, spec: StepSpec, description: Description) -> tuple[Plan | str, dict[int, Tensor]]:
    """The same for a description."""
    if has_hooks(cell):
        return "the cell has hooks, which its kernel would not call", {}
    by_call = _bound.get(cell)
    if by_call is None:
        by_call = _bound[cell] = {}
    known = by_call.get(description)
    tensors = None if known is None else known.tensors()
    if known is None or tensors is None:
        known = by_call[description] = Bound(cell, _plan(cell, spec, description))
        tensors = known.tensors()
        assert tensors is not None
    return known.plan, tensors


def describe(call: Call) -> Description:
    """What of a call decides on the Program, apart from the cell: shapes without T and B, and data types."""
    x, noise = call.x, call.noise
    return (
        x.shape[2:],
        x.dtype,
        x.device,
        tuple([s.dtype for s in call.state]),
        tuple([(n.per, n.value.dtype, n.value.shape[_LEADING[n.per] :]) for n in noise]) if noise else (),
    )


_LEADING = {"step": 2, "sequence": 1, "call": 0}


def _plan(cell: nn.Module, spec: StepSpec, description: Description) -> Plan | str:
    common = structure(cell)
    shared = None if common is None else (common, spec, description)
    found = None if shared is None else _shared.get(shared)
    if found is not None:
        return found
    tail, dtype, device, state_dtypes, masks = description
    x = torch.zeros(1, 1, *tail, dtype=dtype, device=device)
    states = [
        torch.zeros(1, *shape, dtype=t, device=device)
        for shape, t in zip(spec.state_shapes, state_dtypes, strict=True)
    ]
    noise = [
        Noise(torch.zeros(*[1] * _LEADING[per], *shape, dtype=t, device=device), per)
        for per, t, shape in masks
    ]
    try:
        compiled = compile_cell(cell, x, states, noise, spec=spec)
    except Unsupported as error:
        return str(error)
    plan = Plan(compiled, device)
    if shared is not None and not compiled.trace.constants:
        _shared[shared] = plan
    return plan

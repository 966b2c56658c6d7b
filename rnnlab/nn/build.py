"""Cells for the layers of a stack, from names, classes or factories."""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from rnnlab import cells

CellFactory = Callable[..., nn.Module]
# More than this is a slip, or a file that is made to fill the memory.
MOST_LAYERS = 10_000


def per_layer(
    cell: str | CellFactory | Sequence[str | CellFactory], hidden_size: int | Sequence[int], num_layers: int
) -> list[tuple[CellFactory, int]]:
    """The factory and the hidden size of each layer.

    A list for either gives the number of layers, so that `num_layers` may stay at 1.
    Raises TypeError for what is no cell, ValueError for numbers that do not agree.
    """
    if isinstance(num_layers, bool) or not isinstance(num_layers, int) or num_layers < 1:
        raise ValueError(f"num_layers must be a positive integer, got {num_layers!r}")
    if num_layers > MOST_LAYERS:
        raise ValueError(f"num_layers must be at most {MOST_LAYERS}, got {num_layers!r}")
    kinds, sizes = _listed(cell), _listed(hidden_size)
    given = {
        "cell": None if kinds is None else len(kinds),
        "hidden_size": None if sizes is None else len(sizes),
        "num_layers": num_layers if num_layers > 1 else None,
    }
    counts = {name: count for name, count in given.items() if count is not None}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        described = ", ".join(f"{name} for {count}" for name, count in counts.items())
        raise ValueError(
            f"cell, hidden_size and num_layers must agree on the number of layers, got {described}"
        )
    layers = next(iter(counts.values()), 1)
    kinds = [cell] * layers if kinds is None else kinds
    sizes = [hidden_size] * layers if sizes is None else sizes
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"hidden_size must be a positive integer or a list of them, got {hidden_size!r}")
    return [(_factory(kind), size) for kind, size in zip(kinds, sizes, strict=True)]


def build(
    factory: CellFactory,
    input_size: int,
    hidden_size: int,
    *,
    bias: cells.Bias,
    options: Mapping[str, Any],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    """`factory(input_size, hidden_size, **options)`, with `bias`, `device` and `dtype` where it takes them.

    Raises TypeError for an option that it does not take or if it returns no module, ValueError for a `bias`
    that it does not know.
    """
    known, takes_any = _keywords(factory)
    keywords = dict(options)
    name = getattr(_unwrapped(factory), "__name__", repr(factory))
    for key in () if takes_any else options:
        if key not in known:
            offered = sorted(known - {"input_size", "hidden_size", "bias", "device", "dtype"})
            near = difflib.get_close_matches(key, offered, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(offered) or 'none'}"
            raise TypeError(f"cell_options: {name} takes no argument {key!r}; {hint}")
    if bias == "single" and not _is_ours(factory):
        raise ValueError(
            f"bias='single' is known to the cells of rnnlab.cells, not to {name}; use True or False"
        )
    if "bias" in known:
        keywords.setdefault("bias", bias)
    elif bias is not True:
        raise ValueError(f"bias={bias!r} cannot be passed on: {name} takes no argument 'bias'")
    keywords |= {k: v for k, v in (("device", device), ("dtype", dtype)) if k in known and v is not None}
    cell = factory(input_size, hidden_size, **keywords)
    if not isinstance(cell, nn.Module):
        raise TypeError(f"{name} must make an nn.Module, got {type(cell).__name__}")
    return cell.to(device=device, dtype=dtype) if device is not None or dtype is not None else cell


def _keywords(factory: CellFactory) -> tuple[set[str], bool]:
    """The names of a factory's arguments, and whether it may take others."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a callable without a signature, such as one written in C
        return set(), True
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return set(parameters), takes_any


def _factory(cell: Any) -> CellFactory:
    if isinstance(cell, str):
        return cells.find(cell)
    if isinstance(cell, nn.Module):
        raise TypeError(
            "cell must be a name, a class or a factory (input_size, hidden_size) -> cell, since each layer "
            f"needs its own; got an instance of {type(cell).__name__}, which rnnlab.Recurrence would run"
        )
    if not callable(cell):
        raise TypeError(f"cell must be a name, a class or a factory, got {cell!r}")
    return cell


def _listed(value: Any) -> list[Any] | None:
    """A list, tuple or Hydra's ListConfig as a list; None for anything else."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else None


def _unwrapped(factory: Any) -> Any:
    while isinstance(factory, partial):
        factory = factory.func
    return factory


def _is_ours(factory: Any) -> bool:
    kind = _unwrapped(factory)
    return isinstance(kind, type) and issubclass(kind, cells.Cell)

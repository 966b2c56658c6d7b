"""How much memory the building of a model may take, found before it is taken."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# What a small model may take beside its weights: metrics, probes, buffers.
SPARE_BYTES = 256 * 2**20


class TooLarge(ValueError):
    """Something would take more memory than it may."""


class _Budget(TorchDispatchMode):
    """Adds up the sizes that factory functions are asked for, and stops before the one that is too much."""

    def __init__(self, limit_bytes: int, told: str) -> None:
        super().__init__()
        self.left_bytes = self.limit_bytes = limit_bytes
        self.told = told

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func in _FACTORIES and str(options.get("device", "cpu")) != "meta":
            count = 1
            for size in args[0]:
                count *= int(size)
            dtype = options.get("dtype") or torch.get_default_dtype()
            self.left_bytes -= count * dtype.itemsize
            if self.left_bytes < 0:
                needed = self.limit_bytes - self.left_bytes
                raise TooLarge(
                    f"needs at least {_shown(needed)}, where {_shown(self.limit_bytes)} {self.told}"
                )
        return func(*args, **options)


_FACTORIES = (
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.zeros.default,
    torch.ops.aten.ones.default,
    torch.ops.aten.full.default,
    torch.ops.aten.rand.default,
    torch.ops.aten.randn.default,
)


@contextmanager
def at_most(limit_bytes: int, told: str) -> Iterator[None]:
    """Let what is built inside take so many bytes and no more.

    Args:
        limit_bytes: of all tensors that are made, whether or not they are kept.
        told: what the limit is, the end of a sentence, such as "are there".

    Raises:
        TooLarge: when the first tensor beyond it is asked for.
    """
    try:
        with _Budget(limit_bytes, told):
            yield
    except (RuntimeError, TypeError, OverflowError) as error:
        if "verflow" not in str(error):
            raise
        raise TooLarge("needs more memory than a number can tell") from error


def blamed_size(node: Mapping[str, Any]) -> str | None:
    """The largest number among the values of a node, by its name: what most likely made it too large."""
    sizes = {
        name: max(
            (part for part in (value if isinstance(value, list) else [value]) if _is_size(part)), default=0
        )
        for name, value in node.items()
    }
    name = max(sizes, key=lambda key: sizes[key], default=None)
    return name if name is not None and sizes[name] > 0 else None


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def machine_bytes() -> int:
    """The memory of this machine; where it does not tell, more than there can be."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 2**62


def _shown(size_bytes: int) -> str:
    if size_bytes < 10 * 2**30:
        return f"{size_bytes / 2**20:,.0f} MiB"
    return f"{size_bytes / 2**30:,.0f} GiB" if size_bytes < 2**60 else f"{size_bytes / 2**60:,.3g} EiB"

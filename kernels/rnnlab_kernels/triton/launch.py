"""Turns generated modules into kernels that run: compiled for a GPU, or in Triton's interpreter.

The interpreter runs the same text on CPU tensors, one program after the other in NumPy. It is for tests
and for debugging, and slow. `TRITON_INTERPRET=1` turns it on, as for any kernel.
"""

import os
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from rnnlab_kernels.triton.codegen import Kernel
from rnnlab_kernels.triton.isolate import module


def interpreted(device: torch.device) -> bool:
    """Whether kernels on this device run in the interpreter."""
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def launch(
    source: str, kernel: Kernel, arguments: list[Any], grid: int, constants: dict[str, Any], interpret: bool
) -> Any:
    """Run a kernel of a generated module on `grid` programs; returns the kernel where it was compiled."""
    function = getattr(module(source, interpret), kernel.name)
    with _quiet() if interpret else nullcontext():
        return function[(grid,)](*arguments, **constants)


def _quiet() -> Any:
    """Infinities and NaN are values like others, but NumPy, which the interpreter uses, warns of them."""
    import numpy

    return numpy.errstate(all="ignore")


def as_bytes(mask: Tensor | None) -> Tensor | None:
    """A boolean tensor as the bytes that a kernel reads."""
    return None if mask is None else mask.contiguous().view(torch.uint8)

"""Nodes of an ONNX graph as they are written, one operator of PyTorch after another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rnnlab.export.opaque import ExportError

try:
    from onnx import NodeProto, TensorProto, helper, numpy_helper
except ImportError:
    raise ExportError("format=onnx needs the package onnx: pip install 'rnnlab[onnx]'") from None

OPSET = 17
TYPES: dict[torch.dtype, int] = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.bool: TensorProto.BOOL,
}


@dataclass(frozen=True)
class Dyn:
    """A size that is known when the model runs: the name of an int64 tensor `[1]`."""

    name: str


Size = int | Dyn


@dataclass(frozen=True)
class Val:
    """A tensor: its name in the graph, its dtype, and as much of its shape as is known."""

    name: str
    dtype: torch.dtype
    shape: tuple[Any, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class Shared:
    """What a graph and the bodies of its loops have in common."""

    weights: dict[str, TensorProto] = field(default_factory=dict)
    numbers: Any = field(default_factory=itertools.count)
    constants: dict[Any, str] = field(default_factory=dict)
    # Of all weights, since an address says which one it is only as long as it lives.
    alive: list[torch.Tensor] = field(default_factory=list)


class Emitter:
    """The nodes of one graph, or of one body."""

    def __init__(self, shared: Shared | None = None) -> None:
        self.shared = shared or Shared()
        self.nodes: list[NodeProto] = []

    def fresh(self, stem: str) -> str:
        """A name that no other value has."""
        return f"{stem}_{next(self.shared.numbers)}"

    def op(self, kind: str, *inputs: str | Val | Dyn, outputs: int = 1, **attributes: Any) -> Any:
        """Write a node; the names of its outputs, one alone as it is."""
        names = [item if isinstance(item, str) else item.name for item in inputs]
        made = [self.fresh(kind.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, made, name=made[0], **attributes))
        return made[0] if outputs == 1 else made

    def weight(self, tensor: torch.Tensor, stem: str) -> str:
        """A tensor that is stored with the model, once."""
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, "weight")
        if key not in self.shared.constants:
            self.shared.alive.append(tensor)
            name = self.fresh(stem)
            if tensor.dtype not in TYPES:
                raise ExportError(f"{stem} is {tensor.dtype}, which has no place in ONNX here")
            array = tensor.detach().cpu().contiguous().numpy()
            self.shared.weights[name] = numpy_helper.from_array(array, name)
            self.shared.constants[key] = name
        return self.shared.constants[key]

    def constant(self, value: Any, dtype: torch.dtype = torch.int64) -> str:
        """A number or list of numbers."""
        array = np.asarray(value, dtype=torch.empty(0, dtype=dtype).numpy().dtype)
        key = (array.tobytes(), array.shape, dtype)
        if key not in self.shared.constants:
            name = self.fresh("constant")
            self.shared.weights[name] = numpy_helper.from_array(array, name)
            self.shared.constants[key] = name
        return self.shared.constants[key]

    def vector(self, sizes: Sequence[Size]) -> str:
        """Sizes as one int64 tensor."""
        if all(isinstance(size, int) for size in sizes):
            return self.constant(list(sizes))
        parts = [size.name if isinstance(size, Dyn) else self.constant([size]) for size in sizes]
        return parts[0] if len(parts) == 1 else str(self.op("Concat", *parts, axis=0))

    def size(self, value: Val | str, dim: int) -> Dyn:
        """One size of a tensor."""
        return Dyn(self.op("Gather", self.op("Shape", value), self.constant([dim]), axis=0))

    def scalar(self, size: Size) -> str:
        """A size as an int64 tensor without dimensions."""
        if isinstance(size, Dyn):
            return str(self.op("Squeeze", size.name, self.constant([0])))
        return self.constant(size)

    def cast(self, value: Val | str, before: torch.dtype | None, after: torch.dtype) -> str:
        """The same numbers in another dtype."""
        if before == after:
            return value if isinstance(value, str) else value.name
        if after not in TYPES:
            raise ExportError(f"{after} has no place in ONNX here")
        return str(self.op("Cast", value, to=TYPES[after]))


def value_info(name: str, dtype: torch.dtype, shape: Sequence[Any]) -> Any:
    """The declaration of an input or output; a free dimension has its name, an unknown one None."""
    return helper.make_tensor_value_info(name, TYPES[dtype], list(shape))

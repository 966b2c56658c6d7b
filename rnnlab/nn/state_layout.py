"""The state of a stack of layers: the two layouts it may come in, and the one that is handed to the layers.

Legend: `B` batch, `H` hidden, `L` layers, `D` directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rnnlab.recurrence import StepSpec


class StateLayout:
    """How the states of all layers and directions are put together.

    *Stacked*, as `torch.nn` has it: `[L*D, B, H]`, or a tuple of such for cells with several states. It needs
    states of the same shapes throughout.
    *Listed*: a tuple over layers and directions of each cell's own state.

    Args:
        names: of the layers and directions, in order.
        specs: of their cells.
    """

    def __init__(self, names: Sequence[str], specs: Sequence[StepSpec]) -> None:
        self.names = tuple(names)
        self.specs = tuple(specs)
        self.stacked = len({(spec.state_shapes, spec.single) for spec in specs}) == 1

    def split(self, state: Any, batch: int, batched: bool) -> list[Any]:
        """A state in either layout as a list over layers and directions, each in its cell's own structure.

        Entries are None where the cell's initial state is to be taken. Raises ValueError for another layout;
        the shapes of listed entries are left to the layers to check.
        """
        count = len(self.specs)
        if state is None:
            return [None] * count
        if self.stacked and self._is_stacked(state):
            return self._unstack(state, batch, batched)
        if not isinstance(state, tuple | list) or len(state) != count:
            if isinstance(state, Tensor):
                got = f"a tensor {list(state.shape)}"
            else:
                got = f"{len(state)} entries" if isinstance(state, tuple | list) else type(state).__name__
            raise ValueError(
                f"the state must have an entry for each of {count} layers and directions, got {got}; "
                + self._expected()
            )
        return [s if s is None or batched else _each(lambda t: t.unsqueeze(0), s) for s in state]

    def join(self, final: list[Any], batched: bool) -> Any:
        """A list over layers and directions in the layout of this stack, without the batch if unbatched."""
        if not batched:
            final = [_each(lambda t: t.squeeze(0), s) for s in final]
        if not self.stacked:
            return tuple(final)
        if len(final) == 1:
            return _each(lambda t: t.unsqueeze(0), final[0])
        if self.specs[0].single:
            return torch.stack(final)
        return tuple([torch.stack(column) for column in zip(*final, strict=True)])

    def _is_stacked(self, state: Any) -> bool:
        if self.specs[0].single or isinstance(state, Tensor):
            return isinstance(state, Tensor)
        return isinstance(state, tuple | list) and all(isinstance(s, Tensor) for s in state)

    def _unstack(self, state: Any, batch: int, batched: bool) -> list[Any]:
        spec, count = self.specs[0], len(self.specs)
        tensors = [state] if isinstance(state, Tensor) else list(state)
        shapes = [[count, *([batch] if batched else []), *shape] for shape in spec.state_shapes]
        if [list(t.shape) for t in tensors] != shapes:
            got = ", ".join(str(list(t.shape)) for t in tensors)
            raise ValueError(
                f"a state of shape {got} does not fit: {self._expected(batch if batched else None)}"
            )
        columns = [(t if batched else t.unsqueeze(1)).unbind(0) for t in tensors]
        return [column[0] if spec.single else column for column in zip(*columns, strict=True)]

    def _expected(self, batch: int | None = None) -> str:
        """What a state must look like, for messages."""
        rows = [] if batch is None else [str(batch)]
        if self.stacked:
            return "expected " + ", ".join(
                f"[{', '.join([str(len(self.specs)), *rows, *map(str, shape)])}]"
                for shape in self.specs[0].state_shapes
            )
        each = "; ".join(
            f"{name} {', '.join(str([*shape]) for shape in spec.state_shapes)}"
            for name, spec in zip(self.names, self.specs, strict=True)
        )
        return f"expected a tuple over layers and directions, with a batch dimension before each of: {each}"


def reordered(state: Any, order: Tensor) -> Any:
    """The rows of one layer's state in another order; None stays None."""
    return None if state is None else _each(lambda t: t.index_select(0, order), state)


def _each(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    return function(state) if isinstance(state, Tensor) else tuple([function(s) for s in state])

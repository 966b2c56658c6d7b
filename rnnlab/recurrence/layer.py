"""One layer and one direction: a cell run over time by whichever backend applies.

Legend: `T` time, `B` batch; `*` stands for any further dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.recurrence import captured, choice
from rnnlab.recurrence.contract import (
    Call,
    CannotRun,
    Lengths,
    Noise,
    State,
    StepSpec,
    autocast_dtype,
    check_lengths,
    check_resets,
    draw,
    initial_state,
    probe,
    shift_resets,
    step,
)


class Recurrence(nn.Module):
    """Runs a cell over a sequence, in one direction.

    Shapes: `x` is `[T, B, *]`, outputs are `[T, B, *]`, each state `[B, *]` in the cell's own structure.

    Args:
        cell: any module with `forward(x_t, state) -> new_state`; see `rnnlab.recurrence.contract`.
        reverse: run from each row's last step to its first.
        backend: "auto" for the fastest that applies, or the name of one; see `rnnlab.recurrence.backends`.
        input_size: the width of the inputs, for `rnnlab.explain`; that of the cell where None.
    """

    def __init__(
        self,
        cell: nn.Module,
        *,
        reverse: bool = False,
        backend: str = "auto",
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(cell, nn.Module):
            raise TypeError(f"cell must be an nn.Module instance, got {cell!r}")
        self.cell = cell
        self.reverse = reverse
        self.backend = choice.check_name(backend)
        self.input_size = getattr(cell, "input_size", None) if input_size is None else input_size
        self._forget()

    def _forget(self) -> None:
        """Drop what was found out about the cell and kept."""
        self._specs: dict[Any, StepSpec] = {}
        self._choices: dict[Any, choice.Backend] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_specs", "_choices")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()

    def forward(
        self,
        x: Tensor,
        state: Tensor | State | None = None,
        *,
        lengths: Tensor | Sequence[int] | Lengths | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Run the whole sequence.

        Args:
            x: `[T, B, *]`.
            state: the state before the first step; the cell's initial state where None.
            lengths: `[B]`, the steps that each row has, from 1 to T; all T where None. Past its length a
                row's state stands still and its outputs are zero. Lengths on a GPU are not checked for their
                range, which would mean to wait for it.
            resets: `[T, B]` bool, true where a new document starts: before that step the state returns to the
                cell's initial state (not to `state`, which belongs to the document that went on). In the
                reverse direction it returns there where a document ends.

        Returns:
            Outputs `[T, B, *]`, and the final state in the cell's own structure.

        Raises:
            ValueError: a shape, dtype or device that does not fit, or a named backend that cannot run this.
        """
        call = self.call(x, state, lengths, resets)
        backend = self._chosen(call)
        compiling = torch.compiler.is_compiling()
        outputs, final = backend.run(call) if compiling else self._attempt(backend, call)
        return outputs, final[0] if call.spec.single else final

    def _attempt(self, backend: choice.Backend, call: Call) -> tuple[Tensor, State]:
        """Run a call by the chosen backend, or by another where that one fails and may be replaced."""
        try:
            return backend.run(call)
        except CannotRun as error:
            backend = choice.instead(self.backend, call, backend, str(error))
            self._choices[self.backend, call.signature()] = backend
            return backend.run(call)

    def chosen(
        self,
        x: Tensor,
        state: Tensor | State | None = None,
        *,
        lengths: Tensor | Sequence[int] | Lengths | None = None,
        resets: Tensor | None = None,
    ) -> str:
        """The name of the backend that runs such a call of `forward`; raises what it would raise."""
        return self._chosen(self.call(x, state, lengths, resets)).name

    def call(
        self,
        x: Tensor,
        state: Tensor | State | None = None,
        lengths: Tensor | Sequence[int] | Lengths | None = None,
        resets: Tensor | None = None,
    ) -> Call:
        """What a backend is given for such a call of `forward`; raises what it would raise."""
        shape = x.shape
        if len(shape) < 2 or shape[0] == 0:
            raise ValueError(f"x must be [T, B, *] with at least one step, got {list(shape)}")
        length, batch = shape[0], shape[1]
        cell: Any = self._modules["cell"]  # past nn.Module.__getattr__, which is slow
        spec = self._specs.get((type(cell), shape[2:])) or self.spec(x[0])
        restart = None
        if state is None:
            states = initial_state(cell, spec, batch, x)
        else:
            states = self.check_state(spec, state, batch, x)
        known = None if lengths is None else check_lengths(lengths, length, batch, x.device)
        if resets is not None:
            restart = states if state is None else initial_state(cell, spec, batch, x)
            resets = check_resets(resets, length, batch, x.device)
            if self.reverse:
                resets = shift_resets(resets, None if known is None else known.values)
        return Call(
            cell,
            spec,
            x,
            states,
            restart,
            None if known is None else known.values,
            None if known is None else known.host,
            resets,
            self.reverse,
            self._draw(spec, length, batch, x, states) if spec.has_draw else (),
            self.backend != "auto",
        )

    def step(self, x_t: Tensor, state: Tensor | State | None = None) -> tuple[Tensor, Any]:
        """One step, for streaming and generation: the same as `forward` on a sequence of one.

        Shapes: `x_t` is `[B, *]`, the output `[B, *]`. Raises ValueError in the reverse direction.
        """
        if self.reverse:
            raise ValueError(
                "the reverse direction starts at the end of the sequence: it cannot run step by step"
            )
        spec = self.spec(x_t)
        batch = x_t.shape[0]
        states = (
            initial_state(self.cell, spec, batch, x_t)
            if state is None
            else self.check_state(spec, state, batch, x_t)
        )
        noise = self._draw(spec, 1, batch, x_t, states)
        noise_t = [item.value[0] if item.per == "step" else item.value for item in noise]
        output, new = step(self.cell, spec, x_t, states, noise_t)
        return output, spec.to_cell(tuple(n.to(s.dtype) for n, s in zip(new, states, strict=True)))

    def spec(self, x_t: Tensor) -> StepSpec:
        """The shapes of the cell's states and output for inputs like `x_t` `[B, *]`, found out once."""
        key = (type(self.cell), x_t.shape[1:])
        found = self._specs.get(key)
        if found is None:
            width = getattr(self.cell, "input_size", None)
            if isinstance(width, int) and x_t.dim() == 2 and x_t.shape[1] != width:
                name = type(self.cell).__name__
                raise ValueError(f"{name} has input_size={width}, got inputs of {x_t.shape[1]} features")
            compiling = torch.compiler.is_compiling()
            found = self._specs[key] = (captured.spec if compiling else probe)(self.cell, x_t)
        return found

    def _draw(self, spec: StepSpec, length: int, batch: int, x: Tensor, states: State) -> tuple[Noise, ...]:
        if not spec.has_draw:
            return ()
        return draw(self.cell, length, batch, device=x.device, dtype=states[0].dtype)

    def _chosen(self, call: Call) -> choice.Backend:
        key = (self.backend, call.signature())
        backend = self._choices.get(key)
        if backend is None:
            backend = self._choices[key] = choice.choose(self.backend, call)
        return backend

    def check_state(self, spec: StepSpec, state: Any, batch: int, x: Tensor) -> State:
        """A state in the cell's own structure as a tuple; ValueError where it does not fit the inputs."""
        states = (state,) if isinstance(state, Tensor) else state
        shapes = [(batch, *shape) for shape in spec.state_shapes]
        if (
            not isinstance(states, tuple | list)
            or not all(isinstance(s, Tensor) for s in states)
            or [tuple(s.shape) for s in states] != shapes
        ):
            got: Any = type(state).__name__
            if isinstance(states, tuple | list):
                got = [list(s.shape) if isinstance(s, Tensor) else type(s).__name__ for s in states]
            name, wanted = type(self.cell).__name__, [list(s) for s in shapes]
            raise ValueError(f"the state of {name} must have shapes {wanted}, got {got}")
        for s in states:
            if s.device != x.device:
                raise ValueError(f"the state is on {s.device}, the inputs on {x.device}")
            if s.is_floating_point() and x.is_floating_point() and s.dtype != x.dtype:
                # Autocast mixes dtypes by design, and a cell may keep a state in a higher precision.
                self._check_dtype(s, x)
        return tuple(states)

    def _check_dtype(self, state: Tensor, x: Tensor) -> None:
        dtypes = {p.dtype for p in self.cell.parameters() if p.is_floating_point()}
        if dtypes and state.dtype not in dtypes and autocast_dtype(x.device.type) is None:
            wanted = ", ".join(sorted(map(str, dtypes)))
            raise ValueError(
                f"the state is {state.dtype}, the parameters {wanted}: convert one by .to(dtype)"
            )

    def extra_repr(self) -> str:
        parts = ["reverse=True"] if self.reverse else []
        return ", ".join(parts + ([f"backend={self.backend!r}"] if self.backend != "auto" else []))

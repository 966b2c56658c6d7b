"""What the shipped cells share: parameters in PyTorch's names and layout, and their initialisation.

Legend: `B` batch, `I` input, `H` hidden, `G` gates.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from rnnlab.cells import init as initialisers

Bias = bool | Literal["single"]


class Cell(nn.Module):
    """A cell with `weight_ih` `[G*H, I]`, `weight_hh` `[G*H, H]`, `bias_ih` and `bias_hh` `[G*H]`.

    A subclass sets `gates`, writes its equation as `forward(x_t, state)`, and overrides `initial_state` where
    its state is more than `h`, and `add_parameters` where it has other parameters than these.

    Args:
        input_size: I.
        hidden_size: H.
        bias: True for PyTorch's two bias vectors, which are always added to each other but for the GRU's
            candidate; "single" for `bias_ih` alone, as textbooks and Keras count; False for none.
        init: the name of an initialiser of `rnnlab.cells.init`, or a function of the cell.

    Raises:
        ValueError: a size below one, or an unknown `bias` or `init`.
    """

    gates: ClassVar[int] = 1

    bias_ih: nn.Parameter | None
    bias_hh: nn.Parameter | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        init: str | initialisers.Initialiser = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a positive integer, got {size!r}")
        if bias not in (True, False, "single"):
            raise ValueError(f"bias must be True (two vectors), 'single' or False, got {bias!r}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.init = init
        initialisers.find(init)
        rows = self.gates * hidden_size

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.weight_ih = parameter(rows, input_size)
        self.weight_hh = parameter(rows, self.recurrent_size)
        self.bias_ih = parameter(rows) if bias else None
        self.bias_hh = parameter(rows) if bias is True else None
        self.add_parameters(parameter)
        self.reset_parameters()

    def add_parameters(self, parameter: Callable[..., nn.Parameter]) -> None:
        """Add parameters, or replace them, by `parameter(*shape)`: called before they are initialised."""

    @property
    def recurrent_size(self) -> int:
        """The width of the hidden state that the recurrent weights read."""
        return self.hidden_size

    def reset_parameters(self) -> None:
        """Draw the parameters anew by the cell's initialiser."""
        initialisers.find(self.init)(self)

    def initial_state(self, batch: int) -> Tensor | tuple[Tensor, ...]:
        """Zeros `[B, H]`."""
        return self.weight_ih.new_zeros(batch, self.hidden_size)

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        if self.bias is not True:
            parts.append(f"bias={self.bias!r}")
        if self.init != "torch":
            parts.append(f"init={self.init!r}")
        return ", ".join(parts)

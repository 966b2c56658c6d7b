"""Named initialisers of a cell's parameters.

Legend: `I` input, `H` hidden, `G` gates. A weight `[G*H, *]` is initialised gate by gate, so that each gate's
matrix `[H, *]` is orthogonal or scaled by its own fan, and not the stack of them.
"""

import math
from collections.abc import Callable

from torch import Tensor, nn

Initialiser = Callable[[nn.Module], None]


def torch_uniform(cell: nn.Module) -> None:
    """PyTorch's own: every parameter from U(-1/sqrt(H), 1/sqrt(H))."""
    bound = 1.0 / math.sqrt(_hidden_size(cell))  # as PyTorch computes it, to the last bit
    for _, parameter in cell.named_parameters(recurse=False):
        nn.init.uniform_(parameter, -bound, bound)


def xavier_orthogonal(cell: nn.Module) -> None:
    """Input weights by Xavier's uniform rule, recurrent ones orthogonal, biases zero.

    Sources: Glorot and Bengio (2010), "Understanding the difficulty of training deep feedforward neural
    networks"; Saxe, McClelland and Ganguli (2014), "Exact solutions to the nonlinear dynamics of learning in
    deep linear neural networks".
    """
    _by_kind(cell, nn.init.xavier_uniform_, nn.init.orthogonal_)


def orthogonal(cell: nn.Module) -> None:
    """Input and recurrent weights orthogonal, biases zero. Source: Saxe, McClelland and Ganguli (2014)."""
    _by_kind(cell, nn.init.orthogonal_, nn.init.orthogonal_)


def identity(cell: nn.Module) -> None:
    """Recurrent weights the identity, input weights from N(0, 0.001^2), biases zero; meant for relu cells.

    Source: Le, Jaitly and Hinton (2015), "A simple way to initialize recurrent networks of rectified linear
    units", where it is called IRNN.
    """
    _by_kind(cell, lambda weight: nn.init.normal_(weight, std=0.001), nn.init.eye_)


INITIALISERS: dict[str, Initialiser] = {
    "torch": torch_uniform,
    "xavier_orthogonal": xavier_orthogonal,
    "orthogonal": orthogonal,
    "identity": identity,
}


def find(init: str | Initialiser) -> Initialiser:
    """The initialiser of that name, or the function itself; ValueError, with the names, for another name."""
    if callable(init):
        return init
    if init not in INITIALISERS:
        raise ValueError(
            f"unknown initialiser {init!r}: there are {', '.join(map(repr, INITIALISERS))}, "
            "or give a function of the cell"
        )
    return INITIALISERS[init]


def _by_kind(
    cell: nn.Module, input_weight: Callable[[Tensor], Tensor], recurrent_weight: Callable[[Tensor], Tensor]
) -> None:
    """Initialise `weight_hh*` and every other matrix gate by gate; biases become zero, other vectors stay."""
    hidden_size = _hidden_size(cell)
    for name, parameter in cell.named_parameters(recurse=False):
        if parameter.dim() == 2:
            fill = recurrent_weight if name.startswith("weight_hh") else input_weight
            gates = parameter.shape[0] // hidden_size if parameter.shape[0] % hidden_size == 0 else 1
            for gate in parameter.data.chunk(gates):
                fill(gate)
        elif name.startswith("bias"):
            nn.init.zeros_(parameter)


def _hidden_size(cell: nn.Module) -> int:
    size = cell.hidden_size
    assert isinstance(size, int)
    return size

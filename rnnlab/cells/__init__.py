"""Recurrent cells: equations and nothing else, one family a file."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

from torch import nn

from rnnlab.cells.base import Bias, Cell
from rnnlab.cells.gru import GRUCell
from rnnlab.cells.init import INITIALISERS
from rnnlab.cells.lstm import LSTMCell, ProjectedLSTMCell
from rnnlab.cells.rnn import RNNCell

CELLS: dict[str, Callable[..., nn.Module]] = {
    "rnn": RNNCell,
    "rnn_relu": partial(RNNCell, nonlinearity="relu"),
    "lstm": LSTMCell,
    "projected_lstm": ProjectedLSTMCell,
    "gru": GRUCell,
}
"""The cells that can be named, as in `DeepRNN("lstm", ...)`."""

__all__ = [
    "CELLS",
    "INITIALISERS",
    "Bias",
    "Cell",
    "GRUCell",
    "LSTMCell",
    "ProjectedLSTMCell",
    "RNNCell",
    "find",
]


def find(name: str) -> Callable[..., nn.Module]:
    """The cell of that name; ValueError, with the names there are, if there is none."""
    if name not in CELLS:
        close = get_close_matches(name.lower(), CELLS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown cell {name!r}: there are {', '.join(map(repr, CELLS))}{hint}")
    return CELLS[name]

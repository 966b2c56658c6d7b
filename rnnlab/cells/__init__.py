"""Recurrent cells: equations and nothing else, one family a file; and regularisers that wrap any of them."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

from torch import nn

from rnnlab.cells.base import Bias, Cell
from rnnlab.cells.dynamical import AntisymmetricRNNCell, CoRNNCell, GatedAntisymmetricRNNCell, LEMCell
from rnnlab.cells.gru import GRUCell
from rnnlab.cells.gru_variants import MinimalGatedCell, ResetBeforeGRUCell, SimplifiedGRUCell, UGRNNCell
from rnnlab.cells.independent import IndRNNCell
from rnnlab.cells.init import INITIALISERS
from rnnlab.cells.layer_norm import LayerNormGRUCell, LayerNormLSTMCell
from rnnlab.cells.lstm import LSTMCell, ProjectedLSTMCell
from rnnlab.cells.lstm_variants import (
    CoupledLSTMCell,
    MogrifierLSTMCell,
    MultiplicativeLSTMCell,
    PeepholeLSTMCell,
)
from rnnlab.cells.minimal import MinGRUCell, MinLSTMCell
from rnnlab.cells.orthogonal import OrthogonalRNNCell
from rnnlab.cells.rnn import RNNCell
from rnnlab.cells.wrappers import RecurrentDropout, WeightDrop, Zoneout
from rnnlab.cells.xlstm import SLSTMCell

CELLS: dict[str, Callable[..., nn.Module]] = {
    "rnn": RNNCell,
    "rnn_relu": partial(RNNCell, nonlinearity="relu"),
    "lstm": LSTMCell,
    "projected_lstm": ProjectedLSTMCell,
    "peephole_lstm": PeepholeLSTMCell,
    "coupled_lstm": CoupledLSTMCell,
    "layer_norm_lstm": LayerNormLSTMCell,
    "multiplicative_lstm": MultiplicativeLSTMCell,
    "mogrifier_lstm": MogrifierLSTMCell,
    "slstm": SLSTMCell,
    "min_lstm": MinLSTMCell,
    "gru": GRUCell,
    "gru_reset_before": ResetBeforeGRUCell,
    "simplified_gru": SimplifiedGRUCell,
    "layer_norm_gru": LayerNormGRUCell,
    "min_gru": MinGRUCell,
    "mgu": MinimalGatedCell,
    "ugrnn": UGRNNCell,
    "indrnn": IndRNNCell,
    "orthogonal_rnn": OrthogonalRNNCell,
    "antisymmetric_rnn": AntisymmetricRNNCell,
    "gated_antisymmetric_rnn": GatedAntisymmetricRNNCell,
    "cornn": CoRNNCell,
    "lem": LEMCell,
}
"""The cells that can be named, as in `DeepRNN("lstm", ...)`."""

__all__ = [
    "CELLS",
    "INITIALISERS",
    "AntisymmetricRNNCell",
    "Bias",
    "Cell",
    "CoRNNCell",
    "CoupledLSTMCell",
    "GRUCell",
    "GatedAntisymmetricRNNCell",
    "IndRNNCell",
    "LEMCell",
    "LSTMCell",
    "LayerNormGRUCell",
    "LayerNormLSTMCell",
    "MinGRUCell",
    "MinLSTMCell",
    "MinimalGatedCell",
    "MogrifierLSTMCell",
    "MultiplicativeLSTMCell",
    "OrthogonalRNNCell",
    "PeepholeLSTMCell",
    "ProjectedLSTMCell",
    "RNNCell",
    "RecurrentDropout",
    "ResetBeforeGRUCell",
    "SLSTMCell",
    "SimplifiedGRUCell",
    "UGRNNCell",
    "WeightDrop",
    "Zoneout",
    "find",
]


def find(name: str) -> Callable[..., nn.Module]:
    """The cell of that name; ValueError, with the names there are, if there is none."""
    if name not in CELLS:
        close = get_close_matches(name.lower(), CELLS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown cell {name!r}: there are {', '.join(map(repr, CELLS))}{hint}")
    return CELLS[name]

"""Deep recurrent networks over any cell, and stand-ins for `torch.nn`'s."""

from rnnlab.nn.deep import DeepRNN
from rnnlab.nn.drop_in import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN", "DeepRNN"]

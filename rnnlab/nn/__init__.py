"""Deep recurrent networks over any cell, and stand-ins for `torch.nn`'s."""

from rnnlab.nn.deep import DeepRNN

__all__ = ["DeepRNN"]

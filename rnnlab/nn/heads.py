"""What stands before and after the recurrent layers: numbered symbols to vectors, vectors to scores.

Legend: `T` time, `B` batch, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


class OneHot(nn.Module):
    """Symbols as unit vectors; the padding symbol 0 as the zero vector.

    Args:
        vocabulary_size: `V`, the number of symbols and of features.
    """

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.output_size = vocabulary_size
        # Carries the module's device and dtype, which the symbols do not.
        self.register_buffer("one", torch.ones(()), persistent=False)
        self.one: Tensor

    def forward(self, symbols: Tensor) -> Tensor:
        """Map `[*]` (int64) to `[*, V]`."""
        vectors = self.one.new_zeros(*symbols.shape, self.output_size)
        present = (symbols != 0).to(vectors.dtype)
        return vectors.scatter_(-1, symbols.unsqueeze(-1), present.unsqueeze(-1))


class SymbolEmbedding(nn.Module):
    """Learned vectors of symbols, with dropout of whole symbols and of single features.

    Symbol dropout turns a random part of the symbols into `<unk>` while training, so that a model learns to
    read texts with unknown words (Iyyer et al. 2015, "word dropout"). The padding symbol 0 stays zero.

    Args:
        vocabulary_size: `V`.
        size: features of a vector.
        dropout: probability of zeroing a feature.
        symbol_dropout: probability of replacing a symbol by number 1, `<unk>`.
        init_range: vectors are drawn from U(-init_range, init_range).

    Raises:
        ValueError: a probability outside [0, 1), or a size below 1.
    """

    def __init__(
        self,
        vocabulary_size: int,
        size: int,
        *,
        dropout: float = 0.0,
        symbol_dropout: float = 0.0,
        init_range: float = 0.1,
    ) -> None:
        super().__init__()
        check_probability("embedding dropout", dropout)
        check_probability("symbol dropout", symbol_dropout)
        if size < 1:
            raise ValueError(f"the embedding's size is at least 1; got {size}")
        self.output_size = size
        self.symbol_dropout = symbol_dropout
        self.vectors = nn.Embedding(vocabulary_size, size, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.vectors.weight.uniform_(-init_range, init_range)
            self.vectors.weight[0] = 0.0

    def forward(self, symbols: Tensor) -> Tensor:
        """Map `[*]` (int64) to `[*, size]`."""
        if self.training and self.symbol_dropout:
            hidden = torch.rand(symbols.shape, device=symbols.device) < self.symbol_dropout
            symbols = symbols.masked_fill(hidden & (symbols != 0), 1)
        return self.dropout(self.vectors(symbols))


class DenseHead(nn.Sequential):
    """Dropout and linear layers, an activation between each two.

    Args:
        input_size: features that come in.
        output_size: scores that go out.
        hidden_sizes: features of the layers between; none for a single linear layer.
        dropout: probability of zeroing a feature before each linear layer.
        activation: relu, tanh or gelu.

    Raises:
        ValueError: an unknown activation, a probability outside [0, 1), or a size below 1.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        hidden_sizes: Sequence[int] = (),
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        check_probability("dropout", dropout)
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is not known; choose from {', '.join(_ACTIVATIONS)}")
        sizes = [input_size, *hidden_sizes, output_size]
        if min(sizes) < 1:
            raise ValueError(f"the sizes of dense layers are at least 1; got {sizes}")
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Dropout(dropout), nn.Linear(before, after), _ACTIVATIONS[activation]()]
        super().__init__(*layers[:-1])


def check_probability(name: str, value: float) -> None:
    """Raise ValueError unless the value lies in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} is a probability in [0, 1); got {value}")

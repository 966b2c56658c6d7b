"""A recurrent network that predicts the next symbol, with the regularisers of AWD-LSTM.

Legend: `T` time, `B` batch, `V` vocabulary, `E` embedding, `F` features of the recurrent layers, `C` of a
condition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnnlab.nn.heads import DenseHead, OneHot, check_probability


class VariationalDropout(nn.Module):
    """Dropout with one mask for all steps of a sequence.

    Args:
        p: probability of zeroing a feature.

    Raises:
        ValueError: a probability outside [0, 1).

    Source: Gal and Ghahramani 2016, "A Theoretically Grounded Application of Dropout in RNNs".
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        check_probability("variational dropout", p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Map `[T, B, F]` to `[T, B, F]`; the mask is `[1, B, F]`."""
        if not self.training or not self.p:
            return x
        return x * torch.empty_like(x[:1]).bernoulli_(1 - self.p).div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class DroppedEmbedding(nn.Embedding):
    """Vectors of symbols; in training some symbols are dropped, wherever they stand in the sequences.

        e = E[s] m[s] / (1 - p),   m ~ Bernoulli(1 - p), one value a symbol of the vocabulary

    Args:
        vocabulary_size: V.
        size: E.
        dropout: p.

    Raises:
        ValueError: a probability outside [0, 1).

    Source: Merity, Keskar and Socher 2018, section 4.3; Gal and Ghahramani 2016.
    """

    def __init__(self, vocabulary_size: int, size: int, *, dropout: float = 0.0) -> None:
        check_probability("embedding_dropout", dropout)
        if size < 1:
            raise ValueError(f"the embedding's size is at least 1; got {size}")
        super().__init__(vocabulary_size, size)
        self.dropout = dropout
        self.output_size = size

    def forward(self, symbols: Tensor) -> Tensor:
        """Map `[*]` (int64) to `[*, E]`."""
        vectors = super().forward(symbols)
        if not self.training or not self.dropout:
            return vectors
        # A mask of the vectors that are read is the mask of the whole matrix, at the cost of a lookup.
        kept = self.weight.new_empty(self.num_embeddings).bernoulli_(1 - self.dropout)
        return vectors * kept.div_(1 - self.dropout)[symbols].unsqueeze(-1)


class Predictions(NamedTuple):
    """What a pass over a sequence gives.

    Attributes:
        scores: `[T, B, V]` of the next symbols, before the softmax.
        state: of the recurrent layers after the last step.
        outputs: `[T, B, F]` of the recurrent layers.
        dropped: the same after dropout.
    """

    scores: Tensor
    state: Any
    outputs: Tensor
    dropped: Tensor


class RecurrentLM(nn.Module):
    """Embedding, recurrent layers, dense layers, and scores of the next symbol.

        e_t = E[s_t],  h_t = rnn([e_t, c]),  scores = W g(h_t) + b,   W = E where the weights are tied

    Where tied weights need another width than the recurrent layers give, a linear projection stands between.

    Args:
        vocabulary_size: V.
        model: makes the recurrent layers, `model(input_size=...)`, called as `(x, state)` and having `step`.
        embedding: `"learned"` vectors, or `"one_hot"`.
        embedding_size: E of learned vectors.
        tied: use the embedding's vectors for the output as well.
        dense_sizes: features of dense layers between the recurrent layers and the output.
        embedding_dropout: probability of dropping a symbol's vector everywhere.
        input_dropout: variational dropout of what the recurrent layers read.
        output_dropout: variational dropout of what they give.
        condition_size: C, features that are read beside each symbol; 0 for none.
        init_range: draw all parameters from U(-init_range, init_range); None for PyTorch's own, an embedding
            from U(-0.1, 0.1) and an output bias of 0.

    Raises:
        ValueError: a setting out of range, a bidirectional model, or tied one-hot vectors.

    Sources: tied weights, Inan et al. 2017 and Press and Wolf 2017; the regularisers, Merity et al. 2018.
    """

    def __init__(
        self,
        vocabulary_size: int,
        model: Callable[..., nn.Module],
        *,
        embedding: str = "learned",
        embedding_size: int = 64,
        tied: bool = False,
        dense_sizes: Sequence[int] = (),
        embedding_dropout: float = 0.0,
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
        condition_size: int = 0,
        init_range: float | None = None,
    ) -> None:
        super().__init__()
        if embedding not in ("learned", "one_hot"):
            raise ValueError(f"embedding is 'learned' or 'one_hot'; got {embedding!r}")
        if tied and embedding == "one_hot":
            raise ValueError("tied weights need learned vectors: embedding='learned', or tied=False")
        if init_range is not None and init_range <= 0:
            raise ValueError(f"init_range is above 0, or None; got {init_range}")
        self.embedding: DroppedEmbedding | OneHot
        if embedding == "one_hot":
            self.embedding = OneHot(vocabulary_size)
        else:
            self.embedding = DroppedEmbedding(vocabulary_size, embedding_size, dropout=embedding_dropout)
        self.input_dropout = VariationalDropout(input_dropout)
        self.input_size = self.embedding.output_size + condition_size
        self.rnn = model(input_size=self.input_size)
        if getattr(self.rnn, "bidirectional", False):
            raise ValueError(
                "what predicts the next symbol reads forwards only: model.bidirectional=false, got true"
            )
        self.output_dropout = VariationalDropout(output_dropout)
        features: Any = getattr(self.rnn, "output_size", None)
        if not isinstance(features, int):
            raise TypeError(f"{type(self.rnn).__name__} has no integer `output_size`; rnnlab.DeepRNN has")
        self.dense: nn.Module = nn.Identity()
        if tied and (dense_sizes or features != self.embedding.output_size):
            self.dense = DenseHead(features, self.embedding.output_size, hidden_sizes=dense_sizes)
        elif dense_sizes:
            below = DenseHead(features, dense_sizes[-1], hidden_sizes=dense_sizes[:-1])
            self.dense = nn.Sequential(below, nn.ReLU())
        read = self.embedding.output_size if tied else [features, *dense_sizes][-1]
        self.output = nn.Linear(read, vocabulary_size)
        if isinstance(self.embedding, DroppedEmbedding):
            if tied:
                self.output.weight = self.embedding.weight
            nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.output.bias)
        if init_range is not None:
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -init_range, init_range)

    def forward(self, symbols: Tensor, state: Any = None, condition: Tensor | None = None) -> Predictions:
        """Read sequences.

        Args:
            symbols: `[T, B]`, int64.
            state: of the recurrent layers; their own initial state where None.
            condition: `[B, C]`, read beside each symbol.
        """
        x = self.embedding(symbols)
        if condition is not None:
            x = torch.cat([x, condition.expand(symbols.shape[0], -1, -1)], dim=2)
        outputs, state = self.rnn(self.input_dropout(x), state)
        dropped = self.output_dropout(outputs)
        return Predictions(self.output(self.dense(dropped)), state, outputs, dropped)

    def step(self, symbols: Tensor, state: Any, condition: Tensor | None = None) -> tuple[Tensor, Any]:
        """Read one symbol a row: `[B]` to scores `[B, V]` and the new state, without dropout."""
        x = self.embedding(symbols)
        if condition is not None:
            x = torch.cat([x, condition], dim=1)
        output, state = self.rnn.step(x, state)  # type: ignore[operator]
        return self.output(self.dense(output)), state

"""Vectors of words from their characters.

Legend: `U` words, `W` characters of a word, `E` features of a character, `F` of a word.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rnnlab.nn.deep import DeepRNN
from rnnlab.nn.pooling import LastStep

SpellingKind = Literal["cnn", "rnn", "none"]


class Spelling(nn.Module):
    """A word's vector by a convolution over its characters, or by a bidirectional LSTM.

        cnn   v = max over w of (C [e_(w-1), e_w, e_(w+1)] + b)
        rnn   v = [h_W forwards, h_1 backwards]

    Args:
        kind: `"cnn"`, `"rnn"`, or `"none"` for no features at all.
        characters: how many there are, `<pad>` counted in.
        size: F, even for `"rnn"`.
        embedding_size: E.
        dropout: of the characters' vectors.

    Raises:
        ValueError: an unknown kind, or a size that does not fit it.

    Sources: cnn, Ma and Hovy 2016, section 2.1; rnn, Lample et al. 2016, section 4.1.
    """

    def __init__(
        self,
        kind: SpellingKind,
        characters: int,
        size: int,
        *,
        embedding_size: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if kind not in ("cnn", "rnn", "none"):
            raise ValueError(f"spelling is 'cnn', 'rnn' or 'none'; got {kind!r}")
        if kind == "rnn" and size % 2:
            raise ValueError(f"spelling=rnn has two directions: its size is even; got {size}")
        if kind != "none" and (size < 1 or embedding_size < 1):
            raise ValueError(f"the sizes of spellings are at least 1; got {size} and {embedding_size}")
        self.kind = kind
        self.output_size = 0 if kind == "none" else size
        if kind == "none":
            return
        self.vectors = nn.Embedding(characters, embedding_size, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        if kind == "cnn":
            self.convolution = nn.Conv1d(embedding_size, size, kernel_size=3, padding=1)
        else:
            self.rnn = DeepRNN("lstm", embedding_size, size // 2, bidirectional=True)
            self.last = LastStep(size, directions=2)

    def forward(self, spellings: Tensor) -> Tensor:
        """Map `[U, W]` (int64, 0 past a word's end) to `[U, F]`; padding never reaches the result."""
        if self.kind == "none":
            return torch.empty(len(spellings), 0, device=spellings.device)
        vectors = self.dropout(self.vectors(spellings))
        if self.kind == "cnn":
            found = self.convolution(vectors.transpose(1, 2))
            # The word of no characters, which stands for padding, keeps one step.
            valid = spellings != 0
            valid[:, 0] = True
            return found.masked_fill(~valid.unsqueeze(1), -torch.inf).amax(2)
        lengths = (spellings != 0).sum(1).clamp(min=1).cpu()
        outputs, _ = self.rnn(vectors.transpose(0, 1), lengths=lengths)
        return self.last(outputs, lengths)

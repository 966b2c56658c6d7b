"""Where a decoder looks: weights over the steps of an encoder.

Legend: `B` batch, `S` steps of the memory, `T` steps of the queries, `M` features of the memory, `Q` of a
query, `A` of the comparison.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from rnnlab.nn.pooling import valid_steps

AttentionKind = Literal["dot", "general", "additive"]


class Memory(NamedTuple):
    """What is looked at, batch first, so that rows can be chosen.

    Attributes:
        values: `[B, S, M]`.
        keys: `[B, S, A]`, what queries are compared with.
        mask: `[B, S]`, true within each row's length.
    """

    values: Tensor
    keys: Tensor
    mask: Tensor

    def take(self, rows: Tensor) -> Memory:
        """These rows `[N]`."""
        return Memory(*(part.index_select(0, rows) for part in self))


class Attention(nn.Module):
    """A weighted mean of the memory for each query.

        a = softmax over the valid s of score(q, m_s),   context = sum_s a_s m_s

        dot       score = q . m_s
        general   score = q . W m_s
        additive  score = v . tanh(W m_s + U q)

    Args:
        kind: `"dot"`, `"general"` or `"additive"`.
        query_size: Q.
        memory_size: M.
        size: A of additive attention; Q where None. The others compare in Q dimensions.

    Raises:
        ValueError: an unknown kind, or dot attention between unequal sizes.

    Sources: additive, Bahdanau, Cho and Bengio 2015, appendix A.1.2; dot and general, Luong, Pham and Manning
    2015, section 3.1.
    """

    def __init__(
        self, kind: AttentionKind, query_size: int, memory_size: int, *, size: int | None = None
    ) -> None:
        super().__init__()
        if kind not in ("dot", "general", "additive"):
            raise ValueError(f"attention is 'dot', 'general' or 'additive'; got {kind!r}")
        if kind == "dot" and query_size != memory_size:
            raise ValueError(
                f"dot attention compares vectors of one size; the decoder has {query_size} features, the "
                f"encoder {memory_size}: use attention=general, or merge=sum for two directions"
            )
        self.kind = kind
        compared = (size or query_size) if kind == "additive" else query_size
        self.key: nn.Module = nn.Identity()
        if kind != "dot":
            self.key = nn.Linear(memory_size, compared, bias=kind == "additive")
        if kind == "additive":
            self.query = nn.Linear(query_size, compared, bias=False)
            self.score = nn.Linear(compared, 1, bias=False)

    def memory(self, outputs: Tensor, lengths: Tensor) -> Memory:
        """Prepare an encoder's outputs `[S, B, M]` and lengths `[B]` to be looked at."""
        values = outputs.transpose(0, 1).contiguous()
        return Memory(values, self.key(values), valid_steps(outputs, lengths).t().contiguous())

    def forward(self, queries: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Look at a memory.

        Args:
            queries: `[T, B, Q]`.
            memory: of B rows.

        Returns:
            Contexts `[T, B, M]`, and weights `[T, B, S]`, which sum to 1 and are 0 past each row's length.
        """
        rows = queries.transpose(0, 1)
        if self.kind == "additive":
            both = self.query(rows).unsqueeze(2) + memory.keys.unsqueeze(1)
            scores = self.score(torch.tanh(both)).squeeze(3)
        else:
            scores = rows @ memory.keys.transpose(1, 2)
        weights = scores.masked_fill(~memory.mask.unsqueeze(1), -torch.inf).softmax(2)
        return (weights @ memory.values).transpose(0, 1), weights.transpose(0, 1)

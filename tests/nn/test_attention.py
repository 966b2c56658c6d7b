"""Attention over the steps of an encoder."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.nn.attention import Attention

KINDS = ["dot", "general", "additive"]


def make(kind: str, size: int = 6) -> Attention:
    torch.manual_seed(0)
    return Attention(kind, size, size, size=5 if kind == "additive" else None).double()


@pytest.mark.parametrize("kind", KINDS)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4), padding=st.integers(0, 3))
def test_padding_changes_nothing_and_weights_sum_to_one(kind: str, lengths: list[int], padding: int) -> None:
    attention = make(kind)
    generator = torch.Generator().manual_seed(sum(lengths))
    outputs = torch.randn(max(lengths), len(lengths), 6, generator=generator, dtype=torch.float64)
    queries = torch.randn(3, len(lengths), 6, generator=generator, dtype=torch.float64)
    known = torch.tensor(lengths)
    contexts, weights = attention(queries, attention.memory(outputs, known))
    torch.testing.assert_close(weights.sum(2), torch.ones(3, len(lengths), dtype=torch.float64))
    for row, length in enumerate(lengths):
        assert not weights[:, row, length:].any()
        alone = attention.memory(outputs[:length, row : row + 1], known[row : row + 1])
        torch.testing.assert_close(attention(queries[:, row : row + 1], alone)[0], contexts[:, row : row + 1])
    padded = torch.cat([outputs, torch.full((padding, len(lengths), 6), 7.0, dtype=torch.float64)])
    torch.testing.assert_close(attention(queries, attention.memory(padded, known))[0], contexts)


def test_scores_are_those_of_the_equations() -> None:
    q, m = torch.randn(1, 1, 6, dtype=torch.float64), torch.randn(4, 1, 6, dtype=torch.float64)
    for kind in KINDS:
        attention = make(kind)
        _, weights = attention(q, attention.memory(m, torch.tensor([4])))
        if kind == "dot":
            scores = m[:, 0] @ q[0, 0]
        elif kind == "general":
            scores = (m[:, 0] @ attention.key.weight.T) @ q[0, 0]
        else:
            both = m[:, 0] @ attention.key.weight.T + attention.key.bias + attention.query.weight @ q[0, 0]
            scores = torch.tanh(both) @ attention.score.weight[0]
        torch.testing.assert_close(weights[0, 0], scores.softmax(0))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="attention is 'dot', 'general' or 'additive'; got 'soft'"):
        Attention("soft", 4, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the decoder has 4 features, the encoder 8: use attention=general"):
        Attention("dot", 4, 8)

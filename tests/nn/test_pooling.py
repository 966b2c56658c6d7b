import pytest
import torch

from rnnlab.nn.pooling import POOLINGS, AttentionPool, make_pooling

LENGTHS = torch.tensor([5, 1, 3])


def outputs(size: int = 4) -> torch.Tensor:
    return torch.randn(5, 3, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def pool(name: str, size: int = 4, directions: int = 1) -> torch.nn.Module:
    torch.manual_seed(1)
    return make_pooling(name, size, directions=directions).double()


def test_each_pooling_is_what_it_says() -> None:
    x = outputs()
    for row, length in enumerate(LENGTHS.tolist()):
        valid = x[:length, row]
        assert torch.equal(pool("last")(x, LENGTHS)[row], valid[-1])
        torch.testing.assert_close(pool("mean")(x, LENGTHS)[row], valid.mean(0))
        assert torch.equal(pool("max")(x, LENGTHS)[row], valid.amax(0))
        attention = pool("attention")
        scores = attention.score(torch.tanh(attention.hidden(valid))).squeeze(1)
        torch.testing.assert_close(attention(x, LENGTHS)[row], scores.softmax(0) @ valid)


def test_two_directions_have_each_read_the_whole_row() -> None:
    """The last step of a packed LSTM's outputs, per direction, is its final state."""
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(3, 2, bidirectional=True, dtype=torch.float64)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.randn(5, 3, 3, dtype=torch.float64), LENGTHS, enforce_sorted=False
    )
    out, (h, _) = lstm(packed)
    padded, _ = torch.nn.utils.rnn.pad_packed_sequence(out)
    assert torch.equal(pool("last", directions=2)(padded, LENGTHS), torch.cat([h[0], h[1]], dim=1))


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("filler", [torch.nan, torch.inf, 1e30])
def test_nothing_past_the_end_reaches_result_or_gradient(name: str, filler: float) -> None:
    module, clean = pool(name), outputs()
    dirty = clean.clone()
    for row, length in enumerate(LENGTHS.tolist()):
        dirty[length:, row] = filler
    clean.requires_grad_()
    expected = module(clean, LENGTHS)
    assert torch.equal(module(dirty, LENGTHS), expected)
    (gradient,) = torch.autograd.grad(expected.square().sum(), clean)
    for row, length in enumerate(LENGTHS.tolist()):
        assert not gradient[length:, row].any()


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("directions", [1, 2])
def test_gradients(name: str, directions: int) -> None:
    module = pool(name, directions=directions)
    assert torch.autograd.gradcheck(lambda x: module(x, LENGTHS), outputs().requires_grad_())


def test_attention_weights_are_a_distribution_over_the_valid_steps() -> None:
    torch.manual_seed(1)
    weights = AttentionPool(4).double().weights(outputs(), LENGTHS)
    assert weights.shape == (5, 3)
    torch.testing.assert_close(weights.sum(0), torch.ones(3, dtype=torch.float64))
    assert weights[1:, 1].count_nonzero() == 0
    assert weights[3:, 2].count_nonzero() == 0


def test_an_unknown_pooling_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'sum' is not known; choose from last, mean, max, attention"):
        make_pooling("sum", 4)

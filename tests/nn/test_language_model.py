"""The network of language models: its sizes, its regularisers, its step."""

from functools import partial

import pytest
import torch

from rnnlab import DeepRNN
from rnnlab.nn.language_model import DroppedEmbedding, RecurrentLM, VariationalDropout


def network(**options):
    make = partial(DeepRNN, "lstm", hidden_size=options.pop("hidden_size", 6), **options.pop("rnn", {}))
    return RecurrentLM(11, make, **{"embedding_size": 6, **options})


def test_a_variational_mask_is_one_for_all_steps():
    x = VariationalDropout(0.5)(torch.ones(50, 4, 8))
    assert torch.equal(x, x[:1].expand_as(x))
    assert sorted(x.unique().tolist()) == [0.0, 2.0]
    module = VariationalDropout(0.5).eval()
    assert torch.equal(module(torch.ones(3, 1, 2)), torch.ones(3, 1, 2))


def test_a_dropped_symbol_is_dropped_wherever_it_stands():
    embedding = DroppedEmbedding(100, 3, dropout=0.3)
    symbols = torch.arange(100).repeat(2).view(2, 100)
    vectors = embedding(symbols)
    assert torch.equal(vectors[0], vectors[1])
    gone = (vectors[0] == 0).all(dim=1)
    assert 10 < int(gone.sum()) < 55
    torch.testing.assert_close(vectors[0][~gone], embedding.weight[~gone] / 0.7)
    assert torch.equal(embedding.eval()(symbols[0]), embedding.weight)


def parameters(**options):
    return sum(p.numel() for p in network(**options).parameters())


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({}, 6 * 11),
        ({"tied": True}, 0),
        ({"tied": True, "hidden_size": 9}, 9 * 6 + 6),
        ({"dense_sizes": [5]}, (6 * 5 + 5) + 5 * 11),
        ({"tied": True, "dense_sizes": [5]}, (6 * 5 + 5) + (5 * 6 + 6)),
    ],
    ids=str,
)
def test_tied_weights_are_one_and_widths_that_differ_are_projected(options, extra):
    hidden = options.get("hidden_size", 6)
    lstm = 4 * hidden * (6 + hidden + 2)
    assert parameters(**options) == 11 * 6 + lstm + 11 + extra


def test_one_hot_symbols_have_no_parameters():
    model = network(embedding="one_hot")
    assert model.input_size == 11
    assert not list(model.embedding.parameters())


def test_all_parameters_are_drawn_from_the_range():
    model = network(init_range=0.01)
    values = torch.cat([parameter.flatten() for parameter in model.parameters()])
    assert 0.009 < values.abs().max() <= 0.01
    assert not (values == 0).any()


@pytest.mark.parametrize("condition_size", [0, 3])
def test_a_step_is_what_the_sequence_gives(condition_size):
    model = network(
        condition_size=condition_size, tied=True, hidden_size=[8, 5], input_dropout=0.5, output_dropout=0.5
    ).eval()
    symbols = torch.randint(11, (7, 2))
    condition = torch.randn(2, condition_size) if condition_size else None
    whole = model(symbols, None, condition)
    state = None
    for t in range(7):
        scores, state = model.step(symbols[t], state, condition)
        torch.testing.assert_close(scores, whole.scores[t])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rnn": {"bidirectional": True}}, "model.bidirectional=false"),
        ({"embedding": "two_hot"}, "embedding is 'learned' or 'one_hot'"),
        ({"embedding": "one_hot", "tied": True}, "tied weights need learned vectors"),
        ({"output_dropout": 1.0}, "is a probability"),
        ({"init_range": 0.0}, "init_range is above 0"),
        ({"embedding_size": 0}, "size is at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)

"""Encoder, bridge, attention and decoder together."""

from functools import partial

import pytest
import torch

from rnnlab import DeepRNN
from rnnlab.nn.encoder_decoder import EncoderDecoder


def make(cell: str = "gru", *, layers: int = 1, bidirectional: bool = True, **options) -> EncoderDecoder:
    torch.manual_seed(0)
    model = partial(DeepRNN, cell, hidden_size=8, num_layers=layers, bidirectional=bidirectional)
    return EncoderDecoder(9, 7, model, embedding_size=6, **options).eval()


SOURCE = torch.tensor([[3, 4], [5, 6], [7, 0], [8, 0]])
LENGTHS = torch.tensor([4, 2])
FED = torch.tensor([[2, 2], [4, 5], [6, 3]])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("attention", ["general", "additive", "none"])
@pytest.mark.parametrize("layers", [1, 2])
def test_step_by_step_says_what_the_whole_says(cell: str, attention: str, layers: int) -> None:
    network = make(cell, attention=attention, layers=layers)
    state = network.encode(SOURCE, LENGTHS)
    whole = network(state, FED).scores
    for t, symbols in enumerate(FED):
        scores, state = network.step(symbols, state)
        torch.testing.assert_close(scores, whole[t])


def test_with_input_feeding_too() -> None:
    network = make("lstm", input_feeding=True)
    state = network.encode(SOURCE, LENGTHS)
    whole, weights = network(state, FED)
    assert weights is not None and weights.shape == (3, 2, 4)
    assert not weights[:, 1, 2:].any()
    for t, symbols in enumerate(FED):
        scores, state = network.step(symbols, state)
        torch.testing.assert_close(scores, whole[t])
    # What was said before matters beyond the symbol that was fed.
    fed = state._replace(fed=torch.zeros_like(state.fed))
    assert not torch.allclose(network.step(FED[0], state)[0], network.step(FED[0], fed)[0])


def test_padding_and_other_rows_change_nothing() -> None:
    network = make(attention="additive")
    together = network(network.encode(SOURCE, LENGTHS), FED).scores
    alone = network(network.encode(SOURCE[:2, 1:], LENGTHS[1:]), FED[:, 1:]).scores
    torch.testing.assert_close(together[:, 1:], alone)
    padded = torch.cat([SOURCE, torch.zeros(3, 2, dtype=torch.long)])
    torch.testing.assert_close(network(network.encode(padded, LENGTHS), FED).scores, together)


def test_without_teacher_forcing_it_reads_what_it_says() -> None:
    network = make()
    state = network.encode(SOURCE, LENGTHS)
    free = network(state, FED, teacher_forcing=0.0).scores
    found = network.search(SOURCE, LENGTHS, stop=2, length=3)
    said = free.argmax(2).t()
    for row in range(2):
        length = int(found.lengths[row, 0])
        assert said[row, :length].tolist() == found.symbols[row, 0, :length].tolist()
    torch.testing.assert_close(free[0], network(state, FED).scores[0])


def test_the_gradient_reaches_every_parameter_through_memory_and_bridge() -> None:
    for feeding in (False, True):
        network = make("lstm", input_feeding=feeding).train()
        network(network.encode(SOURCE, LENGTHS), FED).scores.square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_layers_of_the_decoder_may_be_others() -> None:
    decoder = partial(DeepRNN, ["lstm", "gru"], hidden_size=[5, 3])
    network = make("gru", decoder=decoder, output_size=4)
    assert network(network.encode(SOURCE, LENGTHS), FED).scores.shape == (3, 2, 7)
    assert network.search(SOURCE, LENGTHS, stop=2, beam=3, length=4).symbols.shape[:2] == (2, 3)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="input feeding feeds what attention makes"):
        make(attention="none", input_feeding=True)
    with pytest.raises(ValueError, match="a decoder writes forwards only"):
        make(decoder=partial(DeepRNN, "gru", hidden_size=4, bidirectional=True))
    with pytest.raises(ValueError, match="dot attention compares vectors of one size"):
        make(attention="dot")
    assert make(attention="dot", bidirectional=False).attention is not None

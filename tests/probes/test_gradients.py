"""Gradients by lag against closed forms and against autograd told step by step; memory lengths."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnlab
from rnnlab.probes import LayerFindings, probe
from rnnlab.probes.gradients import Memory, mean_curve, memory_length


class Linear(nn.Module):
    """h' = A h + x."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.matrix = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return h @ self.matrix.t() + x


def test_a_linear_recurrence_has_the_gradient_of_its_matrix_powers() -> None:
    network = rnnlab.DeepRNN(Linear, 4, 4)
    x, weights = torch.randn(12, 3, 4), torch.randn(3, 4)
    (layer,) = probe(network, lambda: (network(x)[0][-1] * weights).sum()).layers
    matrix = network.layers["l0"].cell.matrix.detach()
    for lag in range(12):
        for row in range(3):
            expected = (torch.linalg.matrix_power(matrix.t(), lag) @ weights[row]).norm()
            assert layer.gradient[lag, row] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("radius", [0.3, 3.0])
def test_the_whole_range_of_numbers_is_measured(radius: float) -> None:
    """A rotation times its spectral radius: the gradient k steps back is radius^k, however small or large."""
    network = rnnlab.DeepRNN(Linear, 4, 4)
    with torch.no_grad():
        network.layers["l0"].cell.matrix.copy_(radius * torch.linalg.qr(torch.randn(4, 4))[0])
    x = torch.randn(70, 2, 4) * 1e-30
    (layer,) = probe(network, lambda: network(x)[0][-1, :, 0].sum()).layers
    expected = radius ** torch.arange(70, dtype=torch.float64)
    assert layer.gradient[:, 1].tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert layer.rate == pytest.approx(radius, rel=1e-4)
    assert layer.exponent.value == pytest.approx(math.log(radius), abs=1e-5)
    assert layer.verdict == ("vanishes" if radius < 1 else "explodes")


def test_a_gradient_beyond_all_numbers_explodes() -> None:
    network = rnnlab.DeepRNN(Linear, 2, 2)
    with torch.no_grad():
        network.layers["l0"].cell.matrix.copy_(torch.tensor([[3e15, -3e15], [3e15, -2e15]]))
    findings = probe(network, lambda: network(torch.zeros(8, 1, 2))[0][-1].sum())
    assert findings.layers[0].curve[-1] == math.inf
    assert "explodes" in findings.advice()["l0"]


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "cornn", "min_lstm"])
def test_the_network_computes_what_it_computes_unobserved(name: str) -> None:
    network = rnnlab.DeepRNN(name, 3, 4, num_layers=2, bidirectional=True)
    x, lengths = torch.randn(9, 5, 3), torch.tensor([9, 4, 6, 1, 9])
    seen = []

    def loss() -> Tensor:
        seen.append(network(x, lengths=lengths)[0])
        return seen[-1].square().sum()

    before = network(x, lengths=lengths)[0]
    probe(network, loss)
    torch.testing.assert_close(seen[0], before)
    torch.testing.assert_close(network(x, lengths=lengths)[0], before)
    assert all("forward" not in vars(module) for module in network.modules())
    assert not any(layer.cell._forward_hooks for layer in network.layers.values())


def by_hand(network: rnnlab.DeepRNN, x: Tensor, weights: Tensor) -> list[list[float]]:
    """The norms for one row and an LSTM of two layers, layer after layer, by a loop of its own."""
    states = [[(torch.zeros(1, 4), torch.zeros(1, 4))] for _ in range(2)]
    for x_t in x:
        below = x_t
        for index, cell in enumerate(network.layers[f"l{i}"].cell for i in range(2)):
            h, c = cell(below, states[index][-1])
            # Clones, so that a state is what the next step reads, and h is no road to c of the same step.
            states[index].append((h.clone(), c.clone()))
            below = states[index][-1][0]
    loss = (states[1][-1][0] * weights).sum()
    norms = []
    for layer in states:
        own = [part for state in layer[:0:-1] for part in state]
        gradients = torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True)
        squares = [0.0 if g is None else float(g.square().sum()) for g in gradients]
        norms.append([math.sqrt(squares[i] + squares[i + 1]) for i in range(0, len(squares), 2)])
    return norms


def test_states_of_several_tensors_and_layers_agree_with_a_loop_by_hand() -> None:
    network = rnnlab.DeepRNN("lstm", 3, 4, num_layers=2)
    x, weights = torch.randn(7, 3, 3), torch.randn(3, 4)
    lengths = torch.tensor([7, 3, 5])
    findings = probe(
        network,
        lambda: (network(x, lengths=lengths)[0][lengths - 1, torch.arange(3)] * weights).sum(),
    )
    for row, length in enumerate(lengths.tolist()):
        expected = by_hand(network, x[:length, row : row + 1], weights[row : row + 1])
        for layer, norms in zip(findings.layers, expected, strict=True):
            assert layer.gradient[:length, row].tolist() == pytest.approx(norms, rel=1e-4, abs=1e-9)
            assert layer.gradient[length:, row].isnan().all()


def test_padding_that_a_sum_goes_over_is_not_read() -> None:
    network = rnnlab.DeepRNN("lstm", 3, 4, num_layers=2, bidirectional=True)
    x, lengths = torch.randn(7, 3, 3), torch.tensor([3, 7, 5])
    there = (torch.arange(7)[:, None] < lengths)[..., None]
    plain = probe(network, lambda: network(x, lengths=lengths)[0].sum().square())
    masked = probe(network, lambda: (network(x, lengths=lengths)[0] * there).sum().square())
    for one, other in zip(plain.layers, masked.layers, strict=True):
        assert len(one.curve) >= 6
        torch.testing.assert_close(one.gradient, other.gradient, equal_nan=True)


def test_the_reverse_direction_counts_from_the_first_step() -> None:
    forward, both = rnnlab.DeepRNN("gru", 3, 4), rnnlab.DeepRNN("gru", 3, 4, bidirectional=True)
    both.layers["l0_reverse"].load_state_dict(forward.layers["l0"].state_dict())
    x = torch.randn(8, 2, 3)
    plain = probe(forward, lambda: forward(x)[0][-1].sum()).layers[0]
    turned = probe(both, lambda: both(x.flip(0))[0][0, :, 4:].sum()).layers[1]
    assert turned.name == "layers.l0_reverse" or turned.name == "l0_reverse"
    torch.testing.assert_close(turned.gradient, plain.gradient)
    torch.testing.assert_close(turned.growth, plain.growth)


@pytest.mark.parametrize("form", ["batch_first", "packed", "unbatched", "state", "step", "drop_in"])
def test_every_way_to_call_a_network_gives_the_same(form: str) -> None:
    network = rnnlab.DeepRNN("lstm", 3, 4)
    x = torch.randn(6, 2, 3)
    expected = probe(network, lambda: network(x)[0][-1].sum()).layers[0].gradient

    def loss() -> Tensor:
        if form == "batch_first":
            network.batch_first = True
            return network(x.transpose(0, 1))[0][:, -1].sum()
        if form == "packed":
            packed = pack_padded_sequence(x, torch.tensor([6, 6]))
            return network(packed)[0].data[-2:].sum()
        if form == "unbatched":
            return network(x[:, 0])[0][-1].sum()
        if form == "state":
            return network(x)[1][0].sum()
        state = None
        for x_t in x:
            output, state = network.step(x_t, state)
        return output.sum()

    if form == "drop_in":
        stand_in = rnnlab.LSTM(3, 4)
        cell = network.layers["l0"].cell
        stand_in.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
        found = probe(stand_in, lambda: stand_in(x)[0][-1].sum())
    else:
        found = probe(network, loss)
    gradient = found.layers[0].gradient
    torch.testing.assert_close(gradient, expected[:, : gradient.shape[1]])


def test_rows_in_another_order_stay_themselves() -> None:
    network = rnnlab.DeepRNN("gru", 3, 4, num_layers=2)
    x, lengths = torch.randn(6, 3, 3), torch.tensor([2, 6, 4])
    rows = torch.arange(3)
    plain = probe(network, lambda: network(x, lengths=lengths)[0][lengths - 1, rows].sum())

    def packed() -> Tensor:
        outputs, _ = network(pack_padded_sequence(x, lengths, enforce_sorted=False))
        padded = torch.nn.utils.rnn.pad_packed_sequence(outputs)[0]
        return padded[lengths - 1, rows].sum()

    for one, other in zip(plain.layers, probe(network, packed).layers, strict=True):
        assert one.curve.tolist() == pytest.approx(other.curve.tolist(), rel=1e-4)


def test_what_the_loss_does_not_read_is_left_out() -> None:
    network = rnnlab.DeepRNN("rnn", 3, 4)
    x = torch.randn(6, 2, 3)
    (layer,) = probe(network, lambda: network(x)[0][3, 0].sum()).layers
    assert layer.gradient[:, 1].isnan().all()
    assert (~layer.gradient[:, 0].isnan()).sum() == 4


def test_a_direction_that_the_loss_does_not_read_has_no_memory() -> None:
    network = rnnlab.DeepRNN("gru", 3, 4, bidirectional=True)
    found = probe(network, lambda: network(torch.randn(6, 2, 3))[0][..., :4].sum())
    read, other = found.layers
    assert read.memory(0.01) is not None and "gradient" not in read.reasons
    assert other.memory(0.01) is None and other.verdict == ""
    assert "does not depend on this layer" in other.reasons["gradient"]
    assert memory_length(torch.zeros(5), 0.01) == Memory(0, False)


@pytest.mark.parametrize(
    ("module", "loss", "part"),
    [
        (nn.LSTM(2, 2), lambda: torch.zeros(()), "torch.nn's own LSTM: take rnnlab's"),
        (rnnlab.DeepRNN("gru", 2, 2), lambda: torch.ones((), requires_grad=True) * 2, "depends on no"),
        (rnnlab.DeepRNN("gru", 2, 2), lambda: torch.tensor(math.nan), "no gradient to follow"),
    ],
)
def test_what_cannot_be_probed_is_said(module, loss, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        probe(module, loss)


@given(rate=st.floats(0.3, 0.99), share=st.floats(0.001, 0.9))
def test_the_memory_of_an_exponential_is_its_time_constant(rate: float, share: float) -> None:
    curve = rate ** torch.arange(400, dtype=torch.float64)
    memory = memory_length(curve, share)
    exact = math.log(share) / math.log(rate)
    assert memory.open or abs(memory.steps - exact) <= 1
    assert memory.open == (exact > 398.5) or abs(exact - 399) <= 1


def test_a_memory_that_comes_back_counts_to_its_last_return() -> None:
    assert memory_length(torch.tensor([1.0, 0.1, 0.9, 0.1]), 0.5).steps == 3
    assert str(memory_length(torch.tensor([0.1, 0.5, 1.0]), 0.5)) == "> 2"
    with pytest.raises(ValueError, match="between 0 and 1"):
        memory_length(torch.ones(3), 1.0)
    with pytest.raises(ValueError, match="no lag"):
        memory_length(torch.ones(0), 0.5)


@pytest.mark.parametrize(
    ("curve", "verdict"),
    [
        (0.5 ** torch.arange(60.0), "vanishes"),
        (0.97 ** torch.arange(60.0), ""),
        (torch.cat([torch.ones(1), torch.full((59,), 0.005)]), ""),  # little is taken, and that is kept
        (1.2 ** torch.arange(60.0), "explodes"),
        (1.0 + torch.arange(60.0), ""),
        (torch.tensor([1.0, 0.001]), ""),
    ],
)
def test_a_verdict_is_of_the_whole_curve(curve: Tensor, verdict: str) -> None:
    assert LayerFindings("l0", "Cell", curve[:, None]).verdict == verdict


def test_lags_that_few_rows_have_are_not_averaged() -> None:
    norms = torch.full((6, 8), math.nan)
    norms[:2] = 1.0
    norms[:, 0] = 2.0
    assert len(mean_curve(norms)) == 2

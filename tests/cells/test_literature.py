"""Every shipped cell against a plain statement of its paper's equations in NumPy, in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from rnnlab import cells
from rnnlab.recurrence import Recurrence

T, B, I, H = 6, 3, 4, 6  # noqa: E741
P = dict[str, np.ndarray]


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def normalised(a):
    return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5)


def gate(p: P, k: int, x, h):
    """Row block k of W_ih x + b_ih + W_hh h + b_hh."""
    rows = slice(k * H, (k + 1) * H)
    return x @ p["weight_ih"][rows].T + p["bias_ih"][rows] + h @ p["weight_hh"][rows].T + p["bias_hh"][rows]


def inputs(p: P, k: int, x):
    rows = slice(k * H, (k + 1) * H)
    return x @ p["weight_ih"][rows].T + p["bias_ih"][rows]


def rnn(p, x, h):
    return np.tanh(gate(p, 0, x, h))


def rnn_relu(p, x, h):
    return np.maximum(gate(p, 0, x, h), 0)


def lstm(p, x, h, c):
    i, f, g, o = (gate(p, k, x, h) for k in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def projected_lstm(p, x, h, c):
    h, c = lstm(p, x, h, c)
    return h @ p["weight_hr"].T, c


def peephole_lstm(p, x, h, c):
    i = sigmoid(gate(p, 0, x, h) + p["weight_ci"] * c)
    f = sigmoid(gate(p, 1, x, h) + p["weight_cf"] * c)
    c = f * c + i * np.tanh(gate(p, 2, x, h))
    o = sigmoid(gate(p, 3, x, h) + p["weight_co"] * c)
    return o * np.tanh(c), c


def coupled_lstm(p, x, h, c):
    i = sigmoid(gate(p, 0, x, h))
    f = 1 - i
    c = f * c + i * np.tanh(gate(p, 1, x, h))
    return sigmoid(gate(p, 2, x, h)) * np.tanh(c), c


def layer_norm_lstm(p, x, h, c):
    a = normalised(x @ p["weight_ih"].T) * p["weight_ln_ih"] + p["bias_ih"]
    a = a + normalised(h @ p["weight_hh"].T) * p["weight_ln_hh"] + p["bias_hh"]
    i, f, g, o = np.split(a, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(normalised(c) * p["weight_ln_c"] + p["bias_ln_c"]), c


def multiplicative_lstm(p, x, h, c):
    m = (x @ p["weight_ih_m"].T) * (h @ p["weight_hh_m"].T)
    return lstm(p, x, m, c)


def mogrifier_lstm(p, x, h, c):
    x = 2 * sigmoid(h @ p["weight_hx_1"].T) * x
    h = 2 * sigmoid(x @ p["weight_xh_2"].T) * h
    x = 2 * sigmoid(h @ p["weight_hx_3"].T) * x
    h = 2 * sigmoid(x @ p["weight_xh_4"].T) * h
    x = 2 * sigmoid(h @ p["weight_hx_5"].T) * x
    return lstm(p, x, h, c)


def slstm(p, x, h, c, n, m):
    """Unstabilised: the stabiliser must change nothing. Its own state is checked apart."""
    i, f, z, o = (gate(p, k, x, h) for k in range(4))
    m_next = np.maximum(np.log(sigmoid(f)) + m, i)
    scale = np.exp(-m_next)
    c = sigmoid(f) * c * np.exp(m) + np.exp(i) * np.tanh(z)
    n = sigmoid(f) * n * np.exp(m) + np.exp(i)
    return sigmoid(o) * c / n, c * scale, n * scale, m_next


def min_lstm(p, x, h):
    f, i, candidate = sigmoid(inputs(p, 0, x)), sigmoid(inputs(p, 1, x)), inputs(p, 2, x)
    return f / (f + i) * h + i / (f + i) * candidate


def gru(p, x, h):
    zero = np.zeros_like(h)
    r, z = sigmoid(gate(p, 0, x, h)), sigmoid(gate(p, 1, x, h))
    recurrent = gate(p, 2, np.zeros_like(x), h) - p["bias_ih"][2 * H :]
    n = np.tanh(gate(p, 2, x, zero) - p["bias_hh"][2 * H :] + r * recurrent)
    return (1 - z) * n + z * h


def gru_reset_before(p, x, h):
    r, z = sigmoid(gate(p, 0, x, h)), sigmoid(gate(p, 1, x, h))
    return (1 - z) * np.tanh(gate(p, 2, x, r * h)) + z * h


def simplified_gru(p, x, h):
    u, candidate = sigmoid(gate(p, 0, x, h)), np.tanh(gate(p, 1, x, h))
    return u * candidate + (1 - u) * h


def layer_norm_gru(p, x, h):
    def parts(a, weight, bias):
        rz = normalised(a[:, : 2 * H]) * weight[: 2 * H] + bias[: 2 * H]
        return [*np.split(rz, 2, axis=-1), normalised(a[:, 2 * H :]) * weight[2 * H :] + bias[2 * H :]]

    x_r, x_z, x_n = parts(x @ p["weight_ih"].T, p["weight_ln_ih"], p["bias_ih"])
    h_r, h_z, h_n = parts(h @ p["weight_hh"].T, p["weight_ln_hh"], p["bias_hh"])
    z = sigmoid(x_z + h_z)
    return (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * h


def min_gru(p, x, h):
    z = sigmoid(inputs(p, 0, x))
    return (1 - z) * h + z * inputs(p, 1, x)


def mgu(p, x, h):
    f = sigmoid(gate(p, 0, x, h))
    return (1 - f) * h + f * np.tanh(gate(p, 1, x, f * h))


def ugrnn(p, x, h):
    g = sigmoid(gate(p, 0, x, h))
    return g * h + (1 - g) * np.tanh(gate(p, 1, x, h))


def indrnn(p, x, h):
    return np.maximum(x @ p["weight_ih"].T + p["bias_ih"] + p["weight_hh"] * h + p["bias_hh"], 0)


def antisymmetric(p, h, gamma=0.01):
    return h @ (p["weight_hh"] - p["weight_hh"].T - gamma * np.eye(H)).T


def antisymmetric_rnn(p, x, h):
    return h + 0.1 * np.tanh(antisymmetric(p, h) + inputs(p, 0, x))


def gated_antisymmetric_rnn(p, x, h):
    z = sigmoid(antisymmetric(p, h) + inputs(p, 0, x))
    return h + 0.1 * z * np.tanh(antisymmetric(p, h) + inputs(p, 1, x))


def orthogonal_rnn(p, x, h):
    below = np.tril(p["weight_hh"], -1)
    skew, one = below - below.T, np.eye(H)
    z = x @ p["weight_ih"].T + h @ (np.linalg.inv(one + skew) @ (one - skew)).T
    return np.sign(z) * np.maximum(np.abs(z) + p["bias_ih"], 0)


def cornn(p, x, y, z, dt=0.05, gamma=3.0, epsilon=5.0):
    force = np.tanh(y @ p["weight_hh"].T + z @ p["weight_hh_z"].T + inputs(p, 0, x))
    z = z + dt * force - dt * gamma * y - dt * epsilon * z
    return y + dt * z, z


def lem(p, x, y, z):
    w1, w2, wz = np.split(p["weight_hh"], 3)
    d1 = sigmoid(y @ w1.T + inputs(p, 0, x))
    d2 = sigmoid(y @ w2.T + inputs(p, 1, x))
    z = (1 - d1) * z + d1 * np.tanh(y @ wz.T + inputs(p, 2, x))
    y = (1 - d2) * y + d2 * np.tanh(z @ p["weight_hh_y"].T + inputs(p, 3, x))
    return y, z


EQUATIONS: dict[str, Callable] = {
    f.__name__: f
    for f in (
        rnn, rnn_relu, lstm, projected_lstm, peephole_lstm, coupled_lstm, layer_norm_lstm,
        multiplicative_lstm, mogrifier_lstm, slstm, min_lstm, gru, gru_reset_before, simplified_gru,
        layer_norm_gru, min_gru, mgu, ugrnn, indrnn, orthogonal_rnn, antisymmetric_rnn,
        gated_antisymmetric_rnn, cornn, lem,
    )
}  # fmt: skip


def make(name: str, bias: cells.Bias = True, **options) -> nn.Module:
    """A cell with every parameter drawn at random, so that none is at a value that hides a mistake."""
    if name == "projected_lstm":
        options["proj_size"] = 3
    cell = cells.find(name)(I, H, bias, **options).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_(std=0.7)
    return cell


def random_state(cell: nn.Module, batch: int = B):
    state = cell.initial_state(batch)
    if isinstance(state, torch.Tensor):
        return torch.randn_like(state)
    drawn = [torch.randn_like(s) for s in state]
    if isinstance(cell, cells.SLSTMCell):
        drawn[2] = drawn[2].exp()  # a normaliser is above zero
    return tuple(drawn)


def test_every_shipped_cell_has_its_equation_here():
    assert set(EQUATIONS) == set(cells.CELLS)


@pytest.mark.parametrize("name", EQUATIONS)
def test_steps_are_the_paper_s(name):
    torch.manual_seed(0)
    cell = make(name)
    p = {k: v.detach().numpy() for k, v in cell.named_parameters()}
    xs = torch.randn(T, B, I, dtype=torch.float64)
    state = random_state(cell)
    expected = tuple(s.numpy() for s in ((state,) if isinstance(state, torch.Tensor) else state))
    with torch.no_grad():
        for x in xs:
            new = EQUATIONS[name](p, x.numpy(), *expected)
            expected = new if isinstance(new, tuple) else (new,)
            state = cell(x, state)
            actual = (state,) if isinstance(state, torch.Tensor) else state
            for a, e in zip(actual, expected, strict=True):
                np.testing.assert_allclose(a.numpy(), e, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", ["single", False])
@pytest.mark.parametrize("name", EQUATIONS)
def test_without_a_bias_it_is_the_equation_with_zeros(name, bias):
    torch.manual_seed(0)
    full, cell = make(name), make(name, bias)
    own = dict(cell.named_parameters())
    with torch.no_grad():
        for key, parameter in full.named_parameters():
            if key in own:
                parameter.copy_(own[key])
            else:
                assert key.startswith("bias")
                parameter.zero_()
        x, state = torch.randn(B, I, dtype=torch.float64), random_state(cell)
        for a, e in zip(_flat(cell(x, state)), _flat(full(x, state)), strict=True):
            torch.testing.assert_close(a, e)
    assert not any(key.startswith("bias_hh") for key in own)
    assert bias or not any(key.startswith("bias") for key in own)


@pytest.mark.parametrize("name", EQUATIONS)
def test_gradients(name):
    torch.manual_seed(1)
    cell = make(name)
    x = torch.randn(2, 2, I, dtype=torch.float64, requires_grad=True)
    state = tuple(s.requires_grad_() for s in _flat(random_state(cell, 2)))
    names = [key for key, _ in cell.named_parameters()]

    def run(x, *tensors):
        states, parameters = tensors[: len(state)], dict(zip(names, tensors[len(state) :], strict=True))
        current = states[0] if len(states) == 1 else states
        for x_t in x:
            current = torch.func.functional_call(cell, parameters, (x_t, current))
        return current

    values = [p.detach().clone().requires_grad_() for p in cell.parameters()]
    assert torch.autograd.gradcheck(run, (x, *state, *values), fast_mode=True)


@pytest.mark.parametrize("name", EQUATIONS)
def test_initialisers_leave_no_parameter_undrawn(name):
    options = {"proj_size": 3} if name == "projected_lstm" else {}
    for init in cells.INITIALISERS:
        cell = cells.find(name)(I, H, init=init, **options)
        with torch.no_grad():
            for parameter in cell.parameters():
                parameter.fill_(float("nan"))
        cell.reset_parameters()
        for key, parameter in cell.named_parameters():
            assert parameter.isfinite().all(), f"{init} leaves {key} as it was"


@pytest.mark.parametrize("name", EQUATIONS)
def test_starts_where_a_long_sequence_stays_finite(name):
    torch.manual_seed(0)
    options = {"proj_size": 3} if name == "projected_lstm" else {}
    cell = cells.find(name)(I, H, **options)
    outputs, final = Recurrence(cell, backend="eager")(3 * torch.randn(400, 2, I))
    assert outputs.isfinite().all() and all(s.isfinite().all() for s in _flat(final))


@pytest.mark.parametrize("name", EQUATIONS)
def test_learns_to_tell_the_sign_of_a_sum(name):
    torch.manual_seed(0)
    options = {"projected_lstm": {"proj_size": 8}, "cornn": {"dt": 0.3}}.get(name, {})
    layer, head = Recurrence(cells.find(name)(1, 16, **options), backend="eager"), nn.LazyLinear(1)
    x = torch.randn(12, 64, 1)
    y = (x.sum(0) > 0).float()
    with torch.no_grad():
        head(layer(x)[0][-1])
    optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.03)
    losses = []
    for _ in range(80):
        loss = nn.functional.binary_cross_entropy_with_logits(head(layer(x)[0][-1]), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], losses[::8]


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("rnn", nn.RNN(I, H)),
        ("rnn_relu", nn.RNN(I, H, nonlinearity="relu")),
        ("lstm", nn.LSTM(I, H)),
        ("projected_lstm", nn.LSTM(I, H, proj_size=3)),
        ("gru", nn.GRU(I, H)),
    ],
)
def test_equal_torch_where_it_has_the_cell(name, peer):
    torch.manual_seed(0)
    cell = make(name)
    peer = peer.double()
    peer.load_state_dict({f"{key}_l0": value for key, value in cell.state_dict().items()})
    x = torch.randn(T, B, I, dtype=torch.float64)
    torch.testing.assert_close(Recurrence(cell, backend="eager")(x)[0], peer(x)[0])


def test_mogrifier_without_rounds_is_the_lstm():
    cell = make("mogrifier_lstm", rounds=0)
    plain = make("lstm")
    plain.load_state_dict(cell.state_dict())
    x, state = torch.randn(B, I, dtype=torch.float64), random_state(plain)
    torch.testing.assert_close(cell(x, state), plain(x, state))


def test_slstm_heads_see_their_own_units_only():
    torch.manual_seed(0)
    cell = make("slstm", heads=3)
    x = torch.randn(B, I, dtype=torch.float64)
    state = random_state(cell)
    moved = (state[0].clone(), *state[1:])
    moved[0][:, 2:4] += 1  # the second head of three
    changed = (cell(x, moved)[0] != cell(x, state)[0]).any(0)
    assert changed.tolist() == [False, False, True, True, False, False]


def test_slstm_heads_are_blocks_of_a_dense_matrix():
    torch.manual_seed(0)
    cell, dense = make("slstm", heads=2), make("slstm")
    with torch.no_grad():
        for key, parameter in cell.named_parameters():
            if key == "weight_hh":
                dense.weight_hh.zero_()
                for k in range(4):
                    for head in range(2):
                        rows = slice(k * H + head * 3, k * H + head * 3 + 3)
                        dense.weight_hh[rows, head * 3 : head * 3 + 3] = parameter[rows]
            else:
                dense.get_parameter(key).copy_(parameter)
    x, state = torch.randn(B, I, dtype=torch.float64), random_state(cell)
    torch.testing.assert_close(cell(x, state), dense(x, state))


@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
def test_slstm_survives_gates_that_would_overflow(forget_gate):
    cell = cells.SLSTMCell(I, H, forget_gate=forget_gate)
    with torch.no_grad():
        cell.weight_ih.mul_(300)  # exp of these inputs is past the range of float32
    outputs, _ = Recurrence(cell, backend="eager")(torch.randn(50, B, I))
    assert outputs.isfinite().all() and outputs.abs().max() <= 1


def test_slstm_forgets_its_initial_stabiliser_in_one_step():
    cell = make("slstm")
    x = torch.randn(B, I, dtype=torch.float64)
    h, c, n, m = cell(x, cell.initial_state(B))
    torch.testing.assert_close(n, torch.ones_like(n))
    i, _, z, o = (x @ cell.weight_ih.T + cell.bias_ih + cell.bias_hh).chunk(4, dim=-1)
    torch.testing.assert_close(m, i)
    torch.testing.assert_close(h, torch.sigmoid(o) * torch.tanh(z))
    torch.testing.assert_close(c, torch.tanh(z))


def test_forget_biases():
    cell = cells.UGRNNCell(I, H, forget_bias=1.0)
    assert (cell.bias_ih[:H] + cell.bias_hh[:H] == 1).all()
    cell = cells.PeepholeLSTMCell(I, H, forget_bias=2.0)
    assert (cell.bias_ih[H : 2 * H] + cell.bias_hh[H : 2 * H] == 2).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cells.SLSTMCell(I, H, heads=4), "heads must divide hidden_size=6, got 4"),
        (lambda: cells.SLSTMCell(I, H, forget_gate="tanh"), "forget_gate must be"),
        (lambda: cells.MogrifierLSTMCell(I, H, rounds=-1), "rounds must be"),
        (lambda: cells.UGRNNCell(I, H, False, forget_bias=1.0), "needs a bias"),
        (lambda: cells.LEMCell(I, H, dt=0.0), "dt must be above zero, got 0.0"),
        (lambda: cells.CoRNNCell(I, H, gamma=-1.0), "gamma must be above zero"),
        (lambda: cells.AntisymmetricRNNCell(I, H, gamma=-0.1), "gamma must be at least zero"),
        (lambda: cells.IndRNNCell(I, H, nonlinearity="sigmoid"), "nonlinearity must be"),
        (lambda: cells.find("peephole"), "did you mean 'peephole_lstm'"),
    ],
)
def test_refuses_what_it_cannot_build(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def _flat(state) -> tuple[torch.Tensor, ...]:
    return (state,) if isinstance(state, torch.Tensor) else tuple(state)

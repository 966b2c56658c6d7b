"""rnnlab.RNN, LSTM and GRU are torch.nn's to whoever uses them."""

import copy
import io
import pickle

import pytest
import torch
from agreement import assert_agree, tensors
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import rnnlab

# PyTorch says once that its projected LSTM is not the fastest one.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


F64 = torch.float64
NAMES = ["RNN", "LSTM", "GRU"]
OPTIONS = {
    "plain": {},
    "deep": {"num_layers": 3},
    "both_ways": {"num_layers": 2, "bidirectional": True},
    "no_bias_batch_first": {"bias": False, "batch_first": True},
}


def pair(name, backend="eager", **options):
    """PyTorch's module and ours, each made after the same seed."""
    torch.manual_seed(1)
    theirs = getattr(nn, name)(3, 4, **options)
    torch.manual_seed(1)
    return theirs, getattr(rnnlab, name)(3, 4, backend=backend, **options)


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("form", ["batch", "unbatched", "packed"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_torch_in_results_and_gradients(name, options, form, backend):
    theirs, ours = pair(name, backend, **OPTIONS[options], dtype=F64)
    x = torch.randn(5, 5, 3, dtype=F64, requires_grad=True)
    lengths = torch.tensor([2, 5, 3, 1, 5])

    def inputs():
        if form == "packed":
            return pack_padded_sequence(x, lengths, enforce_sorted=False)
        return x if form == "batch" else x[:, 0]

    _, zeros = theirs(inputs())
    state = [torch.randn_like(s).requires_grad_() for s in tensors(zeros)]
    hx = tuple(state) if name == "LSTM" else state[0]
    assert_agree(
        lambda: ours(inputs(), hx),
        lambda: theirs(inputs(), hx),
        [x, *state, *ours.parameters()],
        [x, *state, *theirs.parameters()],
    )
    assert_agree(
        lambda: ours(inputs()),
        lambda: theirs(inputs()),
        [x, *ours.parameters()],
        [x, *theirs.parameters()],
    )


@pytest.mark.parametrize("bias", [True, False])
def test_projected_lstm_agrees_with_torch(bias):
    theirs, ours = pair("LSTM", num_layers=2, bidirectional=True, proj_size=2, bias=bias, dtype=F64)
    x = torch.randn(5, 2, 3, dtype=F64, requires_grad=True)
    assert_agree(lambda: ours(x), lambda: theirs(x), [x, *ours.parameters()], [x, *theirs.parameters()])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_attributes_are_torchs(name, options):
    theirs, ours = pair(name, "auto", **OPTIONS[options])
    assert isinstance(ours, type(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert [[w.shape for w in row] for row in ours.all_weights] == [
        [w.shape for w in row] for row in theirs.all_weights
    ]
    ours.flatten_parameters()
    ours(torch.randn(5, 2, 3))
    assert list(dict(ours.named_modules())) == [""]
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_move_both_ways(name):
    theirs, ours = pair(name, num_layers=2, bidirectional=True)
    ours(torch.randn(2, 1, 3))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    for source, target in ((theirs, ours), (ours, getattr(nn, name)(3, 4, 2, bidirectional=True))):
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        target.load_state_dict(torch.load(file, weights_only=True))
        x = torch.randn(5, 2, 3)
        torch.testing.assert_close(target(x), source(x))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("name", NAMES)
def test_copies_are_independent(name, duplicate):
    _, ours = pair(name, num_layers=2)
    x = torch.randn(5, 2, 3)
    before = ours(x)
    other = duplicate(ours)
    torch.testing.assert_close(other(x), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert other(x)[0].eq(0).all()
    torch.testing.assert_close(ours(x), before)


def weight_norm(module):
    parametrize.register_parametrization(module, "weight_hh_l0", Halved())


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def replace(module):
    module.weight_ih_l0 = nn.Parameter(torch.ones_like(module.weight_ih_l0))


def drop(module):
    weight = module.weight_hh_l0
    del module.weight_hh_l0
    module.register_parameter("raw", nn.Parameter(weight.detach()))
    module.weight_hh_l0 = weight.detach() * torch.tensor([1.0, 0.0, 1.0, 0.0])


def to_double(module):
    module.double()


@pytest.mark.parametrize("change", [weight_norm, replace, drop, to_double])
def test_parameters_may_change_between_calls(change):
    theirs, ours = pair("GRU", num_layers=2)
    x = torch.randn(5, 2, 3)
    ours(x)
    for module in (theirs, ours):
        change(module)
    x = x.to(ours.weight_ih_l0.dtype)
    torch.testing.assert_close(ours(x), theirs(x))


def test_functional_call_uses_the_given_parameters():
    theirs, ours = pair("LSTM", num_layers=2, dtype=F64)
    x = torch.randn(5, 2, 3, dtype=F64)
    ours(x)
    values = {key: torch.randn_like(value) for key, value in ours.state_dict().items()}
    expected = torch.func.functional_call(theirs, values, (x,))
    torch.testing.assert_close(torch.func.functional_call(ours, values, (x,)), expected)
    torch.testing.assert_close(ours(x), theirs(x))


def test_dropout_acts_between_layers_in_training_alone():
    _, ours = pair("LSTM", num_layers=2, dropout=1.0)
    _, clean = pair("LSTM", num_layers=2)
    x = torch.randn(5, 2, 3)
    assert not torch.equal(ours(x)[0], clean(x)[0])
    torch.testing.assert_close(ours.eval()(x), clean(x))


def test_packed_outputs_keep_their_order():
    theirs, ours = pair("GRU")
    packed = pack_sequence([torch.randn(n, 3) for n in (2, 4, 3)], enforce_sorted=False)
    expected, outputs = theirs(packed)[0], ours(packed)[0]
    for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(outputs, field), getattr(expected, field))


x = torch.randn(5, 2, 3)
h = torch.zeros(1, 2, 4)


def outcome(call):
    with pytest.raises(Exception) as caught:
        call()
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "args",
    [
        (x[0, 0],),
        (x[None],),
        (x.double(),),
        (x.repeat(1, 1, 2),),
        (x[:0],),
        (x, h[:, :1]),
        (x, h[0]),
        (x[:, 0], h),
        (x, torch.zeros(2, 2, 4)),
        (pack_padded_sequence(x, torch.tensor([5, 2])), torch.zeros(1, 3, 4)),
        (pack_padded_sequence(x.repeat(1, 1, 2), torch.tensor([5, 2])),),
        (x, (h, h, h)),
        ("text",),
    ],
)
def test_errors_of_a_call_are_torchs(name, args):
    theirs, ours = pair(name)
    if name == "LSTM" and len(args) == 2 and isinstance(args[1], torch.Tensor):
        args = (args[0], (args[1], args[1]))
    assert outcome(lambda: ours(*args)) == outcome(lambda: theirs(*args))


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_size": 0},
        {"input_size": "3"},
        {"num_layers": 0},
        {"dropout": 2.0},
        {"bias": 1},
        {"proj_size": 9},
        {"nonlinearity": "gelu"},
        {"hiden_size": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_errors_of_the_constructor_are_torchs(name, options):
    arguments = {"input_size": 3, "hidden_size": 4, **options}
    theirs, ours = getattr(nn, name), getattr(rnnlab, name)
    assert outcome(lambda: ours(**arguments)) == outcome(lambda: theirs(**arguments))


def test_a_dropout_without_effect_is_warned_of_as_in_torch():
    with pytest.warns(UserWarning, match="non-zero dropout expects num_layers greater than 1"):
        rnnlab.GRU(3, 4, dropout=0.5)


def test_the_backend_is_checked_and_can_be_changed():
    with pytest.raises(ValueError, match="unknown backend 'fast'"):
        rnnlab.LSTM(3, 4, backend="fast")
    theirs, ours = pair("LSTM", "aten")
    torch.testing.assert_close(ours(x), theirs(x))
    ours.backend = "eager"
    assert repr(ours) == "LSTM(3, 4, backend='eager')"
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("allowed", [False, True])
def test_compiles_with_a_graph_break_as_torchs_or_whole_where_it_is_allowed(allowed):
    _, ours = pair("LSTM", num_layers=2)
    torch.compiler.reset()
    with torch._dynamo.config.patch(allow_rnn=allowed):
        traced = torch.compile(ours, backend="eager", fullgraph=allowed)
        torch.testing.assert_close(traced(x), ours(x))

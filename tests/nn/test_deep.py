"""DeepRNN against torch.nn, and against its own parts composed by hand."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from agreement import assert_agree, tensors
from example_cells import CELLS, Repeat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnnlab import DeepRNN
from rnnlab.nn import convert

# PyTorch says once that its projected LSTM is not the fastest one.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


F64 = torch.float64
LENGTHS = {"full": None, "ragged": [2, 5, 1, 4], "shorter_than_T": [3, 3, 2, 1], "ones": [1, 1, 1, 1]}
STACKS = {
    "rnn": lambda **k: nn.RNN(3, 4, **k),
    "rnn_relu": lambda **k: nn.RNN(3, 4, nonlinearity="relu", **k),
    "lstm": lambda **k: nn.LSTM(3, 4, **k),
    "lstm_projected": lambda **k: nn.LSTM(3, 4, proj_size=2, **k),
    "gru": lambda **k: nn.GRU(3, 4, bias=False, **k),
}


def reference(module, x, state, lengths):
    """torch.nn on a padded batch, by packing it."""
    if lengths is None:
        return module(x, state)
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    outputs, final = module(packed, state)
    return pad_packed_sequence(outputs, total_length=len(x))[0], final


@pytest.mark.parametrize("backend", ["eager", "aten", "auto"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("name", STACKS)
def test_agrees_with_torch(name, num_layers, bidirectional, lengths, backend):
    module = STACKS[name](num_layers=num_layers, bidirectional=bidirectional, dtype=F64)
    network = DeepRNN.from_torch(module, backend=backend)
    lengths = LENGTHS[lengths]
    x = torch.randn(5, 4, 3, dtype=F64, requires_grad=True)
    _, zeros = module(x)
    state = [torch.randn_like(s).requires_grad_() for s in tensors(zeros)]
    by_name = dict(module.named_parameters())
    own = [getattr(cell, parameter) for cell, parameter, _ in convert.names(network)]
    theirs = [by_name[torch_name] for *_, torch_name in convert.names(network)]
    for given_state in (None, tuple(state) if "lstm" in name else state[0]):
        with_state = state if given_state is not None else []
        assert_agree(
            lambda s=given_state: network(x, s, lengths=lengths),
            lambda s=given_state: reference(module, x, s, lengths),
            [x, *with_state, *own],
            [x, *with_state, *theirs],
        )


@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_packed_sequence_comes_back_as_torch_returns_it(batch_first, enforce_sorted):
    module = nn.LSTM(3, 4, 2, bidirectional=True, batch_first=batch_first, dtype=F64)
    x = torch.randn(5, 3, 3, dtype=F64)
    lengths = torch.tensor([5, 3, 2] if enforce_sorted else [2, 5, 3])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
    state = (torch.randn(4, 3, 4, dtype=F64), torch.randn(4, 3, 4, dtype=F64))
    expected, expected_final = module(packed, state)
    for backend in ("eager", "aten"):
        outputs, final = DeepRNN.from_torch(module, backend=backend)(packed, state)
        torch.testing.assert_close(outputs.data, expected.data)
        assert torch.equal(outputs.batch_sizes, expected.batch_sizes)
        if enforce_sorted:
            assert outputs.sorted_indices is outputs.unsorted_indices is None
        else:
            assert torch.equal(outputs.sorted_indices, expected.sorted_indices)
        torch.testing.assert_close(final, expected_final)


def test_a_packed_sequence_takes_resets_in_its_own_order():
    network = DeepRNN("gru", 3, 4, 2, bidirectional=True, return_all_layers=True, dtype=F64)
    x = torch.randn(5, 3, 3, dtype=F64)
    resets = torch.rand(5, 3) < 0.5
    lengths = torch.tensor([2, 5, 3])
    expected, expected_final = network(x, lengths=lengths, resets=resets)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    outputs, final = network(packed, resets=resets)
    torch.testing.assert_close([pad_packed_sequence(o)[0] for o in outputs], list(expected))
    torch.testing.assert_close(final, expected_final)


@pytest.mark.parametrize("backend", ["eager", "aten"])
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_a_row_does_not_depend_on_padding_or_other_rows(backend, lengths):
    network = DeepRNN("gru", 3, 4, 2, bidirectional=True, residual=False, backend=backend, dtype=F64)
    x = torch.randn(6, len(lengths), 3, dtype=F64)
    for row, length in enumerate(lengths):
        x[length:, row] = float("nan")
    x.requires_grad_()
    outputs, final = network(x, lengths=lengths)
    for row, length in enumerate(lengths):
        alone, alone_final = network(x[:length, row])
        torch.testing.assert_close(outputs[:length, row], alone)
        torch.testing.assert_close(final[:, row], alone_final)
        assert outputs[length:, row].eq(0).all()
    gradients = torch.autograd.grad(outputs.sum() + final.sum(), [x, *network.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


@settings(max_examples=15, deadline=None)
@given(marks=st.lists(st.booleans(), min_size=6, max_size=6), bidirectional=st.booleans())
def test_resets_equal_running_each_document_by_itself(marks, bidirectional):
    network = DeepRNN(CELLS["triple"], 3, 4, 2, bidirectional=bidirectional, dtype=F64)
    x = torch.randn(6, 2, 3, dtype=F64)
    resets = torch.zeros(6, 2, dtype=torch.bool)
    resets[:, 1] = torch.tensor(marks)
    outputs, _ = network(x, resets=resets)
    starts = [0, *(t for t in range(1, 6) if marks[t]), 6]
    documents = [network(x[a:b, 1])[0] for a, b in pairwise(starts)]
    torch.testing.assert_close(outputs[:, 1], torch.cat(documents))
    torch.testing.assert_close(outputs[:, 0], network(x[:, 0])[0])


MIXED = {
    "lstm": ("lstm", 4, 2),
    "narrowing": ("gru", [6, 3], 1),
    "mixed": (["lstm", nn.GRUCell, "lstm"], 4, 1),
    "third_party": ([CELLS["triple"], nn.LSTMCell, CELLS["output_and_pair"]], [4, 3, 5], 3),
}


@pytest.mark.parametrize("all_layers", [False, True])
@pytest.mark.parametrize("name", MIXED)
def test_steps_and_pieces_equal_the_whole_sequence(name, all_layers):
    cell, sizes, layers = MIXED[name]
    network = DeepRNN(cell, 3, sizes, layers, return_all_layers=all_layers, dtype=F64)
    x = torch.randn(6, 2, 3, dtype=F64)
    whole, final = network(x)
    state, steps = None, []
    for x_t in x:
        output, state = network.step(x_t, state)
        steps.append(output)
    if all_layers:
        steps = tuple(torch.stack(column) for column in zip(*steps, strict=True))
    else:
        steps = torch.stack(steps)
    torch.testing.assert_close(steps, whole)
    torch.testing.assert_close(state, final)
    first, carried = network(x[:4])
    second, last = network(x[4:], carried)
    torch.testing.assert_close(last, final)
    joined = [torch.cat(pair) for pair in zip(tensors(first), tensors(second), strict=True)]
    torch.testing.assert_close(joined, tensors(whole))
    unbatched, _ = network.step(x[0, 0])
    torch.testing.assert_close(tensors(unbatched), [t[0, 0] for t in tensors(whole)])


def test_a_mixed_stack_is_its_layers_one_after_the_other():
    network = DeepRNN(["lstm", "gru", nn.LSTMCell], 3, [4, 5, 6], dtype=F64)
    x = torch.randn(5, 2, 3, dtype=F64)
    outputs, state = network(x)
    h, finals = x, []
    for layer in network.layers.values():
        h, final = layer(h)
        finals.append(final)
    torch.testing.assert_close(outputs, h)
    torch.testing.assert_close(state, tuple(finals))
    assert network.output_size == 6
    assert not network.stacked_state
    # A state may be given for some layers alone.
    again, _ = network(x, [None, state[1], None])
    assert not torch.equal(again, outputs)


@pytest.mark.parametrize("merge", ["concat", "sum", "mean", "mul"])
def test_directions_merge_as_named(merge):
    network = DeepRNN("gru", 3, 4, bidirectional=True, merge=merge)
    x = torch.randn(5, 2, 3)
    forward, backward = (layer(x)[0] for layer in network.layers.values())
    expected = {
        "concat": torch.cat([forward, backward], -1),
        "sum": forward + backward,
        "mean": (forward + backward) / 2,
        "mul": forward * backward,
    }[merge]
    torch.testing.assert_close(network(x)[0], expected)
    assert network.output_size == expected.shape[-1]


def test_residual_adds_where_widths_agree_and_keeps_padding_out():
    network = DeepRNN("gru", 4, [4, 3, 3], residual=True)
    x = torch.randn(5, 2, 4)
    x[2:, 1] = float("nan")
    outputs, _ = network(x, lengths=[5, 2])
    clean = torch.where(x.isnan(), 0, x)
    layers = list(network.layers.values())
    first = layers[0](clean, lengths=[5, 2])[0] + clean
    second = layers[1](first, lengths=[5, 2])[0]
    third = layers[2](second, lengths=[5, 2])[0] + second
    torch.testing.assert_close(outputs, third)
    assert outputs[2:, 1].eq(0).all()


def test_all_layers_are_returned_without_dropout_between_them():
    network = DeepRNN("gru", 3, 4, 3, return_all_layers=True, dropout=0.5)
    x = torch.randn(5, 2, 3)
    outputs, _ = network(x)
    torch.testing.assert_close(outputs[0], network.layers["l0"](x)[0])
    network.eval()
    outputs, _ = network(x)
    assert len(outputs) == 3
    torch.testing.assert_close(outputs[2], network.layers["l2"](outputs[1])[0])


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_zeroes_between_layers_in_training_alone(variational):
    network = DeepRNN(Repeat, 50, 50, 2, dropout=0.25, variational_dropout=variational)
    x = torch.ones(20, 30, 50)
    outputs, _ = network(x)
    torch.testing.assert_close(outputs.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert outputs.eq(0).float().mean() == pytest.approx(0.25, abs=0.05)
    assert outputs.eq(outputs[:1]).all() == variational
    assert torch.equal(network.eval()(x)[0], x)


@pytest.mark.parametrize("backend", ["eager", "aten"])
def test_every_backend_drops_between_layers(backend):
    network = DeepRNN("gru", 3, 4, 2, dropout=1.0, backend=backend)
    x = torch.randn(5, 2, 3)
    dropped, _ = network(x)
    expected, _ = network.layers["l1"](torch.zeros(5, 2, 4))
    torch.testing.assert_close(dropped, expected)


def test_batch_first_and_unbatched_inputs_are_the_same_network():
    network = DeepRNN("lstm", 3, 4, 2, bidirectional=True)
    x, resets = torch.randn(5, 2, 3), torch.rand(5, 2) < 0.4
    outputs, state = network(x, resets=resets)
    alone, alone_state = network(x[:, 1], resets=resets[:, 1])
    torch.testing.assert_close(alone, outputs[:, 1])
    torch.testing.assert_close(alone_state, tuple(s[:, 1] for s in state))
    torch.testing.assert_close(network(x[:, 1], alone_state)[0], network(x, state)[0][:, 1])
    network.batch_first = True
    swapped, swapped_state = network(x.transpose(0, 1), resets=resets.T)
    torch.testing.assert_close(swapped.transpose(0, 1), outputs)
    torch.testing.assert_close(swapped_state, state)


def test_states_come_stacked_or_as_a_tuple_and_both_are_taken():
    x = torch.randn(5, 2, 3)
    single = DeepRNN("gru", 3, 4, 2, bidirectional=True)
    _, state = single(x)
    assert state.shape == (4, 2, 4)
    torch.testing.assert_close(single(x, state), single(x, list(state)))
    pair = DeepRNN("lstm", 3, 4, 2)
    _, (h, c) = pair(x)
    assert h.shape == c.shape == (2, 2, 4)
    torch.testing.assert_close(pair(x, (h, c)), pair(x, [(h[0], c[0]), (h[1], c[1])]))
    unequal = DeepRNN("gru", 3, [4, 5])
    _, state = unequal(x)
    assert [s.shape for s in state] == [(2, 4), (2, 5)]
    _, state = unequal(x[:, 0])
    assert [s.shape for s in state] == [(4,), (5,)]
    batched, _ = unequal(x[:, :1], [s[None] for s in state])
    torch.testing.assert_close(unequal(x[:, 0], state)[0], batched[:, 0])


def test_parameter_names_stay_as_they_are():
    network = DeepRNN(["gru", "lstm"], 3, 4, bidirectional=True, bias=False)
    assert list(network.state_dict()) == [
        "layers.l0.cell.weight_ih",
        "layers.l0.cell.weight_hh",
        "layers.l0_reverse.cell.weight_ih",
        "layers.l0_reverse.cell.weight_hh",
        "layers.l1.cell.weight_ih",
        "layers.l1.cell.weight_hh",
        "layers.l1_reverse.cell.weight_ih",
        "layers.l1_reverse.cell.weight_hh",
    ]


@pytest.mark.parametrize(
    ("cell", "bias", "count"),
    [
        ("rnn", True, 2929),
        ("lstm", True, 11665),
        ("gru", True, 8753),
        ("rnn", "single", 2881),
        ("lstm", "single", 11473),
    ],
)
def test_parameter_counts_are_those_of_the_formulas(cell, bias, count):
    network = nn.Sequential(DeepRNN(cell, 32, [32, 16], bias=bias), nn.Linear(16, 1))
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("name", MIXED)
def test_copies_compute_the_same(name, duplicate):
    cell, sizes, layers = MIXED[name]
    network = DeepRNN(cell, 3, sizes, layers)
    x = torch.randn(5, 2, 3)
    expected = network(x)
    torch.testing.assert_close(duplicate(network)(x), expected)


def test_the_backend_of_all_layers_can_be_set():
    network = DeepRNN("gru", 3, 4, 2, bidirectional=True)
    assert network.backend == "auto"
    network.backend = "eager"
    assert {layer.backend for layer in network.layers.values()} == {"eager"}
    assert "backend='eager'" in repr(network)
    with pytest.raises(ValueError, match="unknown backend 'cuda'"):
        network.backend = "cuda"


def test_an_explicit_backend_that_cannot_run_raises_with_alternatives():
    network = DeepRNN("gru", 3, 4, 2, backend="aten")
    resets = torch.zeros(5, 2, dtype=torch.bool)
    with pytest.raises(
        ValueError, match=r"'aten' cannot run GRUCell: .*no resets; what can: 'auto'.*'eager'"
    ):
        network(torch.randn(5, 2, 3), resets=resets)


def test_hooks_on_layers_and_cells_are_called():
    network = DeepRNN("gru", 3, 4, 2)
    called = []
    network.layers["l1"].register_forward_hook(lambda *_: called.append("layer"))
    network(torch.randn(5, 2, 3))
    assert called == ["layer"]
    network.layers["l0"].cell.register_forward_hook(lambda *_: called.append("cell"))
    network(torch.randn(5, 2, 3))
    assert called == ["layer", *["cell"] * 5, "layer"]


def test_layers_may_be_wrapped_for_checkpoints():
    network = DeepRNN("gru", 3, 4, 2)
    x = torch.randn(5, 2, 3)
    network(x)[0].sum().backward()
    wanted = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad()
    for name, layer in network.layers.items():
        network.layers[name] = checkpoint_wrapper(layer)
    network(x)[0].sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name.replace("_checkpoint_wrapped_module.", "")])


def test_it_moves_between_dtypes():
    network = DeepRNN("lstm", 3, 4, 2)
    x = torch.randn(5, 2, 3)
    single, _ = network(x)
    double, _ = network.double()(x.double())
    assert double.dtype == F64
    torch.testing.assert_close(double.float(), single)
    with pytest.raises(ValueError, match=r"the input is torch.float32, the parameters torch.float64"):
        network(x)


@pytest.mark.parametrize("backend", ["eager", "aten"])
def test_autocast_takes_inputs_of_either_precision(backend):
    network = DeepRNN("lstm", 3, 4, 2, backend=backend)
    x = torch.randn(5, 2, 3)
    exact, _ = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        for given_x in (x, x.bfloat16()):
            outputs, (h, c) = network(given_x)
            assert outputs.dtype == h.dtype == c.dtype == torch.float32
            torch.testing.assert_close(outputs, exact, atol=0.02, rtol=0)


@pytest.mark.parametrize(("backend", "lengths"), [("aten", None), ("eager", [2, 5])])
def test_it_compiles_without_a_graph_break(backend, lengths):
    network = DeepRNN("lstm", 3, 4, 2, bidirectional=True, backend=backend)
    x = torch.randn(5, 2, 3)
    lengths = None if lengths is None else torch.tensor(lengths)
    traced = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(x, lengths=lengths), network(x, lengths=lengths))


def test_it_exports_with_a_free_batch():
    network = DeepRNN("gru", 3, 4, 2, backend="aten").eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(network, (torch.randn(5, 3, 3),), dynamic_shapes=({1: batch},))
    x = torch.randn(5, 6, 3)
    torch.testing.assert_close(program.module()(x), network(x))


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_shapes_follow_without_values(backend):
    network = DeepRNN("lstm", 3, 4, 2, device="meta", backend=backend)
    outputs, (h, _) = network(torch.randn(5, 2, 3, device="meta"), lengths=[2, 5])
    assert (outputs.shape, h.shape, h.device.type) == ((5, 2, 4), (2, 2, 4), "meta")


def test_gradients_of_each_example_come_by_vmap():
    network = DeepRNN("gru", 3, 4, backend="eager", dtype=F64)
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def loss(parameters, x):
        return torch.func.functional_call(network, parameters, (x,))[0].square().sum()

    examples = torch.randn(4, 5, 3, dtype=F64)
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, examples)
    for index, x in enumerate(examples):
        network.zero_grad()
        network(x)[0].square().sum().backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(each[name][index], parameter.grad)


def test_a_bidirectional_network_cannot_step():
    with pytest.raises(ValueError, match=r"a bidirectional network cannot run step by step"):
        DeepRNN("gru", 3, 4, bidirectional=True).step(torch.randn(2, 3))


x = torch.randn(5, 2, 3)
gru = DeepRNN("gru", 3, 4, 2)
lstm = DeepRNN("lstm", 3, 4)
mixed = DeepRNN(["lstm", "gru"], 3, 4)
packed = pack_padded_sequence(x, torch.tensor([5, 2]))
meta = torch.device("meta")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gru([1.0]), TypeError, r"the input must be a tensor \[T, B, I\], got list"),
        (lambda: gru(x[None]), ValueError, r"must be \[T, B, I\], or without the batch, got \[1, 5, 2, 3\]"),
        (lambda: gru(x[:, 0, 0]), ValueError, r"or without the batch, got \[5\]"),
        (lambda: gru(x.repeat(1, 1, 3)), ValueError, r"must have input_size=3 features, got \[5, 2, 9\]"),
        (lambda: gru(x[:0]), ValueError, "at least one step"),
        (lambda: gru(x.long()), ValueError, "the input is torch.int64, the parameters torch.float32"),
        (lambda: gru(x.to(meta)), ValueError, "the input is on meta, the parameters on cpu"),
        (lambda: gru(x, lengths=[0, 5]), ValueError, "lengths must be from 1 to T=5, got 0 in row 0"),
        (lambda: gru(x, lengths=[5, 6]), ValueError, "got 6 in row 1"),
        (lambda: gru(x, lengths=[5]), ValueError, r"\[B\] = \[2\], one for each row, got \[1\]"),
        (lambda: gru(x[:, 0], lengths=[5]), ValueError, "lengths need a batch"),
        (lambda: gru(packed, lengths=[5, 2]), ValueError, "a PackedSequence has its own lengths"),
        (lambda: gru(x, resets=torch.zeros(2, 5).bool()), ValueError, r"resets must be \[T, B\] = \[5, 2\]"),
        (lambda: gru(x, resets=torch.zeros(5, 2)), TypeError, "resets must be a bool tensor"),
        (lambda: gru(x, torch.zeros(1, 2, 4)), ValueError, r"shape \[1, 2, 4\] does not fit: .*\[2, 2, 4\]"),
        (
            lambda: gru(x[:, 0], torch.zeros(2, 1, 4)),
            ValueError,
            r"\[2, 1, 4\] does not fit: expected \[2, 4\]",
        ),
        (lambda: gru(x, [None]), ValueError, "for each of 2 layers and directions, got 1 entries"),
        (lambda: gru(x, 0), ValueError, "got int; expected"),
        (lambda: lstm(x, torch.zeros(1, 2, 4)), ValueError, r"expected \[1, 2, 4\], \[1, 2, 4\]"),
        (
            lambda: mixed(x, torch.zeros(2, 2, 4)),
            ValueError,
            r"got a tensor \[2, 2, 4\]; expected a tuple over",
        ),
        (lambda: mixed(x, [None, torch.zeros(9, 4)]), ValueError, r"the state of GRUCell must have shapes"),
        (lambda: gru(x, torch.zeros(2, 2, 4).double()), ValueError, "the state is torch.float64"),
        (lambda: gru.step(x), ValueError, r"must be \[B, I\], or without the batch, got \[5, 2, 3\]"),
    ],
)
def test_says_what_does_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers"])
def test_a_flag_is_no_size(name):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer"):
        DeepRNN("gru", **{"input_size": 2, "hidden_size": 3, name: True})


@pytest.mark.parametrize(
    "name", ["batch_first", "bidirectional", "variational_dropout", "residual", "return_all_layers"]
)
def test_a_flag_is_true_or_false(name):
    with pytest.raises(TypeError, match=f"{name} must be True or False, got 'no'"):
        DeepRNN("gru", 3, 3, **{name: "no"})

"""The fused backend against the reference: results and all gradients, over all that a call can be given."""

import copy
import gc
import io
import logging
import weakref
from collections.abc import Callable
from importlib import import_module
from typing import Any

import fused_cells
import published_cells
import pytest
import torch
from rnnlab_kernels.program import Program, interpret
from torch import Tensor, nn

from rnnlab import cells
from rnnlab.recurrence import Recurrence, accuracy, choice, operators
from rnnlab.recurrence.plan import _shared

T, B = 5, 3
LENGTHS = torch.tensor([5, 3, 1])
RESETS = torch.tensor([[0, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.bool)

pytestmark = pytest.mark.usefixtures("interpreter")


def inputs(width: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(T, B, width, dtype=dtype)


def both(
    cell: nn.Module,
    x: Tensor,
    *,
    reverse: bool = False,
    state: tuple[Tensor, ...] | None = None,
    **options: Tensor,
) -> None:
    """Fused and eager give the same, gradients included."""
    found = []
    for backend in ("fused", "eager"):
        torch.manual_seed(1)
        layer = Recurrence(cell, reverse=reverse, backend=backend)
        found.append(accuracy.results(layer, x, state, **options))
    for name, value in found[1].items():
        torch.testing.assert_close(
            found[0][name], value, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert value.isfinite().all(), name


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("resets", [None, RESETS])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("make", [cells.GRUCell, cells.LSTMCell, cells.LEMCell, *fused_cells.ALL])
def test_agrees_with_the_reference(
    make: Callable[..., nn.Module], lengths: Tensor | None, resets: Tensor | None, reverse: bool, given: bool
) -> None:
    cell = (make() if make in fused_cells.ALL else make(5, 6)).double()
    x = inputs()
    if lengths is not None:
        for b, length in enumerate(lengths.tolist()):
            x[length:, b] = float("nan")
    state = None
    if given:
        shapes = Recurrence(cell).spec(x[0]).state_shapes
        state = tuple(torch.randn(B, *shape, dtype=x.dtype) for shape in shapes)
        if len(shapes) == 1:
            state = None if not given else state
    options = {k: v for k, v in {"lengths": lengths, "resets": resets}.items() if v is not None}
    both(cell, x, reverse=reverse, state=state, **options)


@pytest.mark.parametrize("make", published_cells.ALL)
def test_published_cells_are_fused_as_they_are(make: Callable[..., nn.Module]) -> None:
    cell = make(5, 6).double()
    both(cell, inputs())
    both(cell, inputs(), lengths=LENGTHS, reverse=True)


def test_inputs_of_several_dimensions_and_of_integers() -> None:
    class Planes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.filter = nn.Linear(3, 3), nn.Conv1d(2, 2, 1)

        def initial_state(self, batch: int) -> Tensor:
            return self.mix.weight.new_zeros(batch, 2, 3)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(self.mix(h) + self.filter(x))

    both(Planes().double(), torch.randn(T, B, 2, 3, dtype=torch.float64), lengths=LENGTHS)

    class Words(fused_cells.Sized):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 6)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(self.table(x) + self.across(h))

    cell = Words().double()
    words = torch.randint(0, 9, (T, B))
    gradients = []
    for backend in ("fused", "eager"):
        y, _ = Recurrence(cell, backend=backend)(words, lengths=LENGTHS)
        gradients.append(torch.autograd.grad(y.square().sum(), [cell.table.weight, cell.across.weight]))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("wanted", ["x", "weight_hh", "bias_ih", "state", "final alone"])
def test_only_some_gradients_are_asked_for(wanted: str) -> None:
    cell = cells.LSTMCell(5, 6).double()
    x = inputs().requires_grad_(wanted in ("x", "final alone"))
    state = tuple(torch.randn(B, 6, dtype=x.dtype).requires_grad_(wanted == "state") for _ in range(2))
    for name, parameter in cell.named_parameters():
        parameter.requires_grad_(name == wanted)
    leaves = [t for t in (x, *state, *cell.parameters()) if t.requires_grad]
    found = []
    for backend in ("fused", "eager"):
        y, final = Recurrence(cell, backend=backend)(x, state)
        loss = final[1].sin().sum() + (0 if wanted == "final alone" else y.cos().sum())
        found.append(torch.autograd.grad(loss, leaves))
    torch.testing.assert_close(found[0], found[1])


def test_second_derivatives() -> None:
    cell = cells.GRUCell(3, 4).double()
    x = inputs(3).requires_grad_()
    layer = Recurrence(cell, backend="fused")
    torch.autograd.gradgradcheck(
        lambda x, *weights: layer(x, lengths=LENGTHS, resets=RESETS)[0], (x, *cell.parameters())
    )


def test_first_derivatives_by_finite_differences() -> None:
    cell = fused_cells.Heads(3, 4).double()
    layer = Recurrence(cell, reverse=True, backend="fused")
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x, *weights: layer(x), (x, *cell.parameters()))


def test_nothing_is_kept_without_gradients() -> None:
    layer = Recurrence(cells.LSTMCell(5, 6).double(), backend="fused")
    x = inputs()
    with torch.no_grad():
        y, final = layer(x)
    assert not y.requires_grad and not final[1].requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(layer(x)[0], y)
    trained, _ = layer(x)
    assert trained.grad_fn is not None
    torch.testing.assert_close(trained.detach(), y)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_noise_is_the_same(p: float) -> None:
    cell = cells.Zoneout(cells.WeightDrop(cells.LSTMCell(5, 6), 0.4), (0.2, p)).double()
    both(cell, inputs(), lengths=LENGTHS)
    both(cell.eval(), inputs(), lengths=LENGTHS)


def test_masks_of_a_sequence() -> None:
    class Variational(fused_cells.Sized):
        def draw(self, length: int, batch: int, *, device: object, dtype: torch.dtype) -> tuple:
            return ((torch.rand(batch, 5, dtype=dtype).round() * 2, "sequence"),)

        def forward(self, x: Tensor, h: Tensor, mask: Tensor) -> Tensor:
            return torch.tanh(self.inward(x * mask) + self.across(h) * mask[:, :1])

        def initial_state(self, batch: int) -> Tensor:
            return self.across.weight.new_zeros(batch, 6)

    class Probed(Variational):
        def forward(self, x: Tensor, h: Tensor, mask: Tensor | None = None) -> Tensor:
            return super().forward(x, h, torch.ones_like(x) if mask is None else mask)

    both(Probed().double(), inputs(), lengths=LENGTHS)


# What torch.func.jvp imports for itself.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_transforms_of_functions() -> None:
    cell = cells.GRUCell(5, 6).double()
    x = inputs()
    found = []
    for backend in ("fused", "eager"):
        layer = Recurrence(cell, backend=backend)
        layer(x)
        weights = dict(layer.named_parameters())

        def loss(weights: dict[str, Tensor], x: Tensor, layer: Recurrence = layer) -> Tensor:
            return torch.func.functional_call(layer, weights, (x,))[0].square().sum()

        one_by_one = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))
        per_row = one_by_one(weights, x.unsqueeze(2))
        tangent = {k: torch.ones_like(v) for k, v in weights.items()}
        _, forward = torch.func.jvp(lambda w, f=loss: f(w, x), (weights,), (tangent,))
        found.append([*per_row.values(), forward])
    torch.testing.assert_close(found[0], found[1])


# Cells change between calls.


def agree_now(layer: Recurrence, x: Tensor) -> Tensor:
    y, _ = layer(x)
    torch.testing.assert_close(y, Recurrence(layer.cell, backend="eager")(x)[0])
    return y


class Leaky(fused_cells.Sized):
    """A cell with settings."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.5
        self.rates = [0.25, 0.5]
        self.act: Callable[[Tensor], Tensor] = torch.tanh

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        new = self.act(self.inward(x) + self.across(h))
        return self.rate * h + self.rates[1] * new * (0.5 if self.training else 1.0)


def test_a_setting_that_changes_is_noticed() -> None:
    layer = Recurrence(Leaky().double(), backend="fused")
    x = inputs()
    before = agree_now(layer, x)
    cell = layer.cell
    assert isinstance(cell, Leaky)
    changes: list[Callable[[], object]] = [
        lambda: setattr(cell, "rate", 0.25),
        lambda: (setattr(cell, "rate", 0.3), setattr(cell, "rate", 0.75)),
        lambda: cell.rates.__setitem__(1, 0.125),
        lambda: setattr(cell, "act", torch.sigmoid),
        lambda: setattr(cell, "across", nn.Linear(6, 6, bias=False).double()),
        cell.eval,
    ]
    for change in changes:
        change()
        after = agree_now(layer, x)
        assert not torch.equal(before, after)
        before = after


def test_parameters_are_read_at_each_call() -> None:
    layer = Recurrence(cells.GRUCell(5, 6).double(), backend="fused")
    x = inputs()
    agree_now(layer, x)
    with torch.no_grad():
        layer.cell.weight_hh.mul_(2)
    agree_now(layer, x)
    layer.cell.weight_hh = nn.Parameter(torch.randn(18, 6, dtype=torch.float64))
    agree_now(layer, x)
    layer.load_state_dict({k: v * 0.5 for k, v in layer.state_dict().items()})
    agree_now(layer, x)
    swapped = {k: torch.randn_like(v) for k, v in layer.named_parameters()}
    y, _ = torch.func.functional_call(layer, swapped, (x,))
    other = copy.deepcopy(layer)
    other.load_state_dict(swapped)
    torch.testing.assert_close(y, Recurrence(other.cell, backend="eager")(x)[0])
    assert layer.float()(x.float())[0].dtype == torch.float32


def test_copies_and_pickles_stand_for_themselves() -> None:
    layer = Recurrence(fused_cells.Tied().double(), backend="fused")
    x = inputs()
    agree_now(layer, x)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.cell.across.weight.zero_()
    assert not torch.equal(agree_now(twin, x), agree_now(layer, x))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    agree_now(torch.load(file, weights_only=False), x)
    layer.cell.again.weight = nn.Parameter(torch.randn(6, 6, dtype=torch.float64))
    agree_now(layer, x)


def test_cells_of_one_structure_share_a_program() -> None:
    before = len(_shared)
    for _ in range(3):
        agree_now(Recurrence(cells.UGRNNCell(5, 11).double(), backend="fused"), inputs())
    assert len(_shared) == before + 1


def test_constants_of_a_cell_are_its_own() -> None:
    class Constant(fused_cells.Sized):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scales = (torch.full((6,), scale, dtype=torch.float64),)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(self.inward(x) + self.across(h)) * self.scales[0]

    x = inputs()
    for scale in (0.5, 2.0):
        agree_now(Recurrence(Constant(scale).double(), backend="fused"), x)


class Bound(fused_cells.Sized):
    """A cell that refers to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.act = self.squash

    def squash(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.act(self.inward(x) + self.across(h))


@pytest.mark.parametrize("make", [lambda: cells.LSTMCell(5, 6), Bound, fused_cells.Heads])
def test_a_compiled_cell_is_not_kept_alive(make: Callable[[], nn.Module]) -> None:
    cell = make().double()
    layer = Recurrence(cell, backend="fused")
    agree_now(layer, inputs()).sum().backward()
    watched = [weakref.ref(cell), weakref.ref(next(cell.parameters()))]
    del cell, layer
    gc.collect()
    assert [w() for w in watched] == [None, None]


# What cannot be fused.


def test_refuses_with_the_operator_and_the_line() -> None:
    class Sorted(fused_cells.Sized):
        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.sort(self.inward(x) + self.across(h)).values

    x = inputs(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"aten\.sort.*test_fused\.py:\d+: return torch\.sort"):
        Recurrence(Sorted(), backend="fused")(x)
    assert Recurrence(Sorted()).chosen(x) == "eager"


def test_hooks_are_left_to_the_loop() -> None:
    cell = cells.LEMCell(5, 6)
    cell.register_forward_hook(lambda *_: None)
    assert Recurrence(cell).chosen(inputs(dtype=torch.float32)) == "eager"


class Broken(operators.Interpreter):
    """An executor whose compiler makes none of the kernels, or none for a backward."""

    ToolchainError = RuntimeError

    def __init__(self, *, forward: bool = True) -> None:
        self.forward = forward

    def run(self, program: Program, *given: Any, **options: Any) -> Any:  # type: ignore[override]
        if self.forward or program.adjoint:
            raise RuntimeError("the compiler has gone away")
        return interpret(program, *given, **options)


@pytest.mark.parametrize(("make", "runs"), [(cells.GRUCell, "aten"), (cells.LEMCell, "eager")])
def test_where_a_kernel_cannot_be_built_auto_goes_on_with_the_next_backend(
    make: Callable[..., nn.Module], runs: str, caplog: pytest.LogCaptureFixture
) -> None:
    operators.executors["cpu"] = Broken()
    choice._told.clear()
    cell, x = make(5, 6), inputs(dtype=torch.float32)
    layer = Recurrence(cell)
    with caplog.at_level(logging.WARNING, logger="rnnlab"):
        found = [layer(x)[0] for _ in range(2)]
    assert layer.chosen(x) == runs
    for y in found:
        torch.testing.assert_close(y, Recurrence(cell, backend="eager")(x)[0])
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"{make.__name__} runs on backend {runs!r}" in said
    assert "its forward kernel could not be built: the compiler has gone away" in said


def test_a_named_backend_whose_kernel_cannot_be_built_raises_with_what_can() -> None:
    operators.executors["cpu"] = Broken()
    layer = Recurrence(cells.GRUCell(5, 6), backend="fused")
    said = r"'fused' cannot run GRUCell: its forward .* the compiler has gone away; what can: 'auto'.*'eager'"
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), pytest.raises(ValueError, match=said):
            layer(inputs(dtype=torch.float32))


def test_a_backward_that_cannot_be_built_is_interpreted_unless_the_backend_was_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    operators.executors["cpu"] = Broken(forward=False)
    operators._failed.clear()
    cell, x = cells.LEMCell(5, 6).double(), inputs()
    with caplog.at_level(logging.WARNING, logger="rnnlab"):
        for _ in range(2):
            found = accuracy.results(Recurrence(cell), x)
    torch.testing.assert_close(found, accuracy.results(Recurrence(cell, backend="eager"), x))
    (said,) = [record.getMessage() for record in caplog.records]
    assert "a backward kernel is interpreted" in said and "gone away" in said
    y, _ = Recurrence(cell, backend="fused")(x)
    with pytest.raises(RuntimeError, match="its backward kernel could not be built: the compiler has gone"):
        y.sum().backward()


def test_what_triton_cannot_compile_is_told_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = pytest.importorskip("rnnlab_kernels.triton.backend")
    errors = pytest.importorskip("triton.runtime.errors")

    def fails(*_: object) -> None:
        raise errors.OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(backend, "_run", fails)
    operators.executors["cpu"] = import_module("rnnlab_kernels.triton")
    x, cell = inputs(dtype=torch.float32), cells.LEMCell(5, 6)
    with pytest.raises(ValueError, match=r"'fused' cannot run LEMCell: .*OutOfResources.*shared memory"):
        Recurrence(cell, backend="fused")(x)
    layer = Recurrence(cell)
    torch.testing.assert_close(layer(x)[0], Recurrence(cell, backend="eager")(x)[0])
    assert layer.chosen(x) == "eager"


def test_autocast_computes_in_its_type_and_returns_the_states() -> None:
    cell = cells.LSTMCell(5, 6)
    x = inputs(dtype=torch.float32).requires_grad_()
    layer = Recurrence(cell, backend="fused")
    exact, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, final = layer(x)
    assert y.dtype == final[0].dtype == final[1].dtype == torch.float32
    assert 0 < (y - exact).abs().max() < 0.05
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in cell.parameters())

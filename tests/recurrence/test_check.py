"""`rnnlab check` passes good cells, and names the fault of each bad one."""

import textwrap

import pytest
import torch
from example_cells import CELLS as EXAMPLES
from torch import nn
from torch.autograd.function import once_differentiable

import rnnlab
from rnnlab import cells
from rnnlab.recurrence import check as suite
from rnnlab.recurrence.accuracy import Tally
from rnnlab.recurrence.check import check
from rnnlab.recurrence.conformance import CHECKS
from rnnlab.recurrence.locate import locate

NAMES = [name for name, _, _ in CHECKS]


class Plain(nn.Module):
    """A good cell, for the bad ones to differ from in one thing each."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.inward = nn.Linear(input_size, hidden_size)
        self.across = nn.Linear(hidden_size, hidden_size)

    def forward(self, x, h):
        return torch.tanh(self.inward(x) + self.across(h))


class Whole(Plain):
    def initial_state(self, batch):
        return torch.zeros(batch, self.hidden_size, dtype=torch.int64)


class Narrow(Plain):
    def forward(self, x, h):
        return super().forward(x, h).float()


class Counts(Plain):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x, h):
        self.steps += 1
        return super().forward(x, h)


class Remembers(Plain):
    last = 0.0

    def forward(self, x, h):
        new = super().forward(x, h) + 0.1 * self.last
        self.last = new.detach().mean().item()
        return new


class OverBatch(Plain):
    def forward(self, x, h):
        new = super().forward(x, h)
        return new - new.mean(0)


class BatchNorm(Plain):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.norm = nn.BatchNorm1d(sizes[1])

    def forward(self, x, h):
        return self.norm(super().forward(x, h))


class AlwaysDraws(Plain):
    def forward(self, x, h):
        new = super().forward(x, h)
        return torch.where(torch.rand_like(new) < 0.5, h, new)


class Detaches(Plain):
    def forward(self, x, h):
        return super().forward(x, h.detach())


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (a,) = ctx.saved_tensors
        return gradient * a.cos()


class OnceDifferentiable(Plain):
    def forward(self, x, h):
        return _Once.apply(super().forward(x, h))


class Unread(Plain):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.spare = nn.Parameter(torch.ones(3))


class Draws(Plain):
    def forward(self, x, h):
        return nn.functional.dropout(super().forward(x, h), 0.5, self.training)


class Branches(Plain):
    def forward(self, x, h):
        new = super().forward(x, h)
        return new if new.sum() > 100 else 0.5 * new


class Mixes(Plain):
    def forward(self, x, h):
        return torch.lerp(super().forward(x, h), h, 0.5)


class Unpicklable(Plain):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.activation = lambda a: a


BAD = [
    (lambda *sizes: nn.Linear(*sizes), "the contract is kept", "no state found"),
    (Whole, "the contract is kept", "Long and Float"),
    (Narrow, "dtype follows the parameters", "torch.float32"),
    (Counts, "a step has no side effect", "buffers in place"),
    (Remembers, "a step has no side effect", "another result"),
    (AlwaysDraws, "a step has no side effect", "draws random numbers of its own, in eval mode"),
    (
        BatchNorm,
        "rows do not see each other",
        "another output than in its batch, in train",
    ),
    (OverBatch, "rows do not see each other", "row 0"),
    (OverBatch, "padding changes nothing", "changes an output"),
    (Detaches, "gradients are right, in float64", "Jacobian mismatch"),
    (OnceDifferentiable, "the second derivative is right", "Jacobian mismatch"),
    (Unread, "every parameter is reached", "spare"),
    (Draws, "masks are the same on every backend", "draws random numbers"),
    (Branches, "torch.compile takes it whole", ""),
    (Mixes, "autocast works", "dtype"),
    (Unpicklable, "copies and checkpoints restore it", "pickled"),
]


@pytest.mark.parametrize(("factory", "name", "reason"), BAD)
def test_names_the_fault(monkeypatch, factory, name, reason):
    first, *rest = CHECKS
    monkeypatch.setattr(suite, "CHECKS", (first, *(check for check in rest if check[0] == name)))
    report = check(factory, 3, 4)
    failed = {result.name: result for result in report.failures}
    assert name in failed, str(report)
    assert reason in failed[name].detail
    assert failed[name].advice in str(report)
    assert not report.ok


def test_a_side_effect_is_not_blamed_on_other_checks():
    report = check(Remembers, 3, 4)
    assert [result.name for result in report.failures] == ["a step has no side effect"]
    assert report.results[-1].status == "skipped"


@pytest.mark.parametrize("factory", [Plain, nn.LSTMCell, EXAMPLES["triple"], EXAMPLES["output_and_pair"]])
def test_passes_cells_of_every_form(factory):
    report = check(factory, 3, 4)
    assert report.ok, str(report)
    assert [result.name for result in report.results] == NAMES


def test_passes_a_shipped_cell_by_name():
    report = rnnlab.check("slstm")
    assert report.ok, str(report)


def test_passes_wrapped_cells():
    wrapped = cells.Zoneout(cells.WeightDrop(cells.PeepholeLSTMCell(3, 5), 0.4), (0.1, 0.3))
    report = check(wrapped)
    assert report.ok, str(report)


def test_leaves_the_cell_as_it_was(monkeypatch):
    monkeypatch.setattr(suite, "CHECKS", [check for check in CHECKS if "compile" not in check[0]])
    cell = Plain(3, 4).train()
    before = {key: value.clone() for key, value in cell.state_dict().items()}
    torch.manual_seed(3)
    check(cell)
    assert cell.training and all(parameter.grad is None for parameter in cell.parameters())
    assert all(torch.equal(before[key], value) for key, value in cell.state_dict().items())
    found = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(found, torch.rand(1))


def test_tells_each_result_as_it_comes(monkeypatch):
    monkeypatch.setattr(suite, "CHECKS", CHECKS[:3])
    seen = []
    report = check(Plain, done=seen.append)
    assert tuple(seen) == report.results


def test_takes_the_cell_s_own_input_size(monkeypatch):
    monkeypatch.setattr(suite, "CHECKS", CHECKS[:3])
    assert check(nn.GRUCell(7, 2)).ok


@pytest.mark.parametrize("wrong", [3, None])
def test_refuses_what_is_no_cell(wrong):
    with pytest.raises(TypeError, match="must be an nn"):
        check(wrong)


MODULE = """
    import torch
    from torch import nn

    class Leaky(nn.Module):
        def __init__(self, input_size, hidden_size, rate=0.5):
            super().__init__()
            self.hidden_size, self.rate = hidden_size, rate
            self.inward = nn.Linear(input_size, hidden_size)
            self.across = nn.Linear(hidden_size, hidden_size)

        def forward(self, x, h):
            new = torch.tanh(self.inward(x) + self.across(h))
            return self.rate * h + (1 - self.rate) * new

    class Leaking(Leaky):
        def forward(self, x, h):
            return super().forward(x, h.detach())
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "leaky_cells.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_command_line(here, capsys):
    assert suite.main(["leaky_cells:Leaky", "rate=0.9", "--hidden-size", "4"]) == 0
    assert "keeps the contract" in capsys.readouterr().out
    assert locate("leaky_cells.Leaky") is locate("leaky_cells:Leaky")
    assert suite.main(["leaky_cells.py:Leaking"]) == 1
    out = capsys.readouterr().out
    assert "failed" in out and "detach()" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["leaky_cells:Leeky"], "has no 'Leeky'; did you mean 'Leaky'?"),
        (["leaky_sells:Leaky"], "there is no module 'leaky_sells'"),
        (["nothing.py:Leaky"], "there is no file 'nothing.py'"),
        (["leaky_cells.Leeky"], "has no 'Leeky'; did you mean 'Leaky'?"),
        (["leaky_cells"], "one of your own is written my_module:MyCell"),
        (["lemm"], "did you mean 'lem'?"),
        (["leaky_cells:torch"], "which makes no cell"),
        (["leaky_cells:Leaky", "fast"], "'fast' is not a setting"),
        (["leaky_cells:Leaky", "speed=3"], "unexpected keyword argument 'speed'"),
    ],
)
def test_command_line_refuses(here, capsys, words, message):
    assert suite.main(words) == 2
    assert message in capsys.readouterr().err


def test_a_run_in_which_eager_is_lucky_condemns_nobody_and_a_wrong_one_does():
    exact = {"y": torch.ones(4, dtype=torch.float64)}

    def off(by: float) -> dict[str, torch.Tensor]:
        return {"y": torch.full((4,), 1 + by, dtype=torch.float64).float()}

    tally = Tally()
    for by in (2e-6, 1e-6, 2e-6):
        tally.add(off(by), off(by), exact, case="usual")
    assert not tally.add(off(2e-6), off(0), exact, case="lucky").ok
    assert tally.singles().ok
    tally.add(off(5e-5), off(2e-6), exact, case="reverse")
    verdict = tally.singles()
    assert not verdict.ok and "(reverse)" in verdict.worst
    tally = Tally()
    tally.add(off(1e-6), off(float("nan")), exact, case="eager alone is wrong")
    tally.add(off(float("nan")), off(1e-6), exact, case="ours is no number")
    assert "(ours is no number)" in tally.singles().worst
    assert not Tally().singles().ok

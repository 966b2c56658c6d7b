"""`rnnlab bench cpu`: it counts right, what is wrong gets no figure, and what it writes can be read."""

import json

import pytest
import torch
from rnnlab_benchmarks import cli, latency, measure, peak, report, subjects
from rnnlab_benchmarks.cases import CUSTOM, SHAPES, STANDARD, Case, Shape, cases
from rnnlab_benchmarks.runner import OURS, Measured, lengths_ratio, run
from rnnlab_benchmarks.subjects import Aten, Ours, Problem, TorchRunner
from rnnlab_kernels.cpu import toolchain

from rnnlab.recurrence.accuracy import compare

SMALL = Shape(6, 3, 4, 5)
needs_compiler = pytest.mark.skipif(toolchain.missing() is not None, reason=str(toolchain.missing()))


def test_all_cases_are_declared_once():
    every = cases()
    assert len(every) == len(set(every)) == len((*STANDARD, *CUSTOM)) * len(SHAPES) * 2


@pytest.mark.parametrize(
    ("patterns", "count"),
    [
        (["gru"], 16),
        (["lstm/train"], 8),
        (["*/*/100x32x32x32"], 14),
        (["gru/train", "gru/train/100x32x32x32"], 8),
        (["mgu/train/5x4x3x2"], 1),
        (["*_rnn/inference/5x4x3x2"], 3),
    ],
)
def test_patterns(patterns, count):
    assert len(cases(patterns)) == count


@pytest.mark.parametrize("pattern", ["gruu", "gru/training", "gru/train/5x4x3", "gru/train/0x4x3x2"])
def test_a_pattern_that_matches_nothing_is_refused(pattern):
    with pytest.raises(ValueError, match="no case matches"):
        cases([pattern])


def test_interleaving_runs_everybody_equally_often():
    calls = []
    times = measure.interleaved(
        {name: (lambda name=name: calls.append(name)) for name in "abc"}, budget_s=0, rounds=(4, 9)
    )
    assert set(times) == set("abc") and all(t >= 0 for t in times.values())
    assert [calls.count(name) for name in "abc"] == [5, 5, 5]  # one to warm up
    rounds = [calls[k : k + 3] for k in range(3, 15, 3)]
    assert all(sorted(r) == list("abc") for r in rounds) and len(set(map(tuple, rounds))) == 3


def test_bytes_kept_for_backward_are_counted_once_and_without_what_is_there_anyway():
    x = torch.randn(100, requires_grad=True)
    assert measure.saved_bytes(lambda: x.sin(), [x]) == 0
    assert measure.saved_bytes(lambda: x.exp(), [x]) == 400
    assert measure.saved_bytes(lambda: x.exp() * x.exp().view(10, 10).flatten(), [x]) == 800


def test_operations_of_the_matrix_products():
    problem = Problem.of(Case("lstm", "train", Shape(20, 3, 4, 5)))

    def run_at(mode):
        def go(steps):
            cut = Problem(problem.case, problem.cell, problem.x[:steps], problem.cotangent[:steps])
            return getattr(Ours("eager").prepare(cut), mode)

        return measure.matmul_flops(go, 20)

    forward = 2 * 20 * 3 * (4 * 5) * (4 + 5)
    assert run_at("infer") == forward
    # Twice as many backward, but for the gradient of the initial state and the weights' at the zero state.
    assert 2.8 * forward < run_at("train") <= 3 * forward


@pytest.mark.parametrize(
    "name", ["aten", "eager", "fused", "jax", pytest.param("scan", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "lem"])
def test_every_subject_computes_the_same(name, cell):
    case = Case(cell, "train", SMALL)
    subject = subjects.subjects([name])[name]
    reason = subject.refusal(case)
    if reason is not None:
        pytest.skip(reason)
    if name == "fused" and toolchain.missing() is not None:
        pytest.skip("no compiler")
    if name == "scan" and cell != "rnn":
        pytest.skip("one is enough: it compiles for long")
    problem = Problem.of(case)
    eager = Ours("eager").prepare(problem).results()
    exact = Problem(case, Problem.of(case).cell.double(), problem.x.double(), problem.cotangent.double())
    reference = Ours("eager").prepare(exact).results()
    verdict = compare(subject.prepare(problem).results(), eager, reference, factor=100)
    assert verdict.ok, verdict.worst


class Wrong(Ours):
    """A backend of ours whose outputs are off by a thousandth."""

    def prepare(self, problem):
        runner = Ours("eager").prepare(problem)
        assert isinstance(runner, TorchRunner)
        forward = runner.forward
        runner.forward = lambda x: (forward(x)[0] * 1.001, forward(x)[1])
        return runner


class Broken(Aten):
    def prepare(self, problem):
        raise RuntimeError("no memory")


def test_what_is_wrong_gets_no_figure_and_what_fails_is_told():
    who = {OURS: Wrong(OURS), "aten": Broken(), "eager": Ours("eager")}
    results = list(run([Case("gru", "train", SMALL), Case("gru", "inference", SMALL)], who, budget_s=0))
    for m in results:
        assert set(m.times_ms) == {"eager"} and m.ratios == {}
        assert "outputs" in m.wrong[OURS] or "gradient" in m.wrong[OURS]
        assert m.refused["aten"] == "RuntimeError: no memory"
    assert results[0].saved_bytes["eager"] > 0 and not results[1].saved_bytes


def measured(cell, mode, shape, **times):
    return Measured(Case(cell, mode, shape), times, flops=10**6, peak_gflops=100.0)


def test_targets_and_losses_are_told_as_they_are(capsys):
    from rich.console import Console

    results = [
        measured("gru", "train", SHAPES[0], fused=1.0, aten=4.0, eager=30.0),
        measured("gru", "train", SHAPES[3], fused=2.0, aten=1.0, eager=30.0),
        measured("lem", "inference", SHAPES[0], fused=1.0, eager=7.0),
    ]
    found = {v.what: v for v in report.verdicts(results)}
    mean = found["gru train against aten, geometric mean of 2"]
    assert mean.measured == "1.41" and not mean.met
    assert found["lem inference against eager, geometric mean of 1"].met
    worst = found["any cell train against aten, on any single shape"]
    assert not worst.met and "gru/train/100x64x256x256" in worst.measured
    assert not found[f"share of peak at {SHAPES[3]} and above"].met
    Console(width=130).print(report.table(results), report.verdict_table(list(found.values())))
    told = capsys.readouterr().out
    assert told.count("LOSS") == 1 and "MISSED" in told and "met" in told


def test_rows_hold_what_they_promise(tmp_path):
    results = [measured("gru", "train", SHAPES[0], fused=2.0, aten=3.0)]
    path = tmp_path / "new" / "rows.json"
    beside = report.write_json(path, results, {"machine": {}})
    (row,) = json.loads(path.read_text())
    assert row == {
        "cell": "gru", "mode": "train", "T": 100, "B": 32, "I": 32, "H": 32, "dtype": "float32",
        "times_ms": {"fused": 2.0, "aten": 3.0}, "ratios": {"aten": 1.5},
    }  # fmt: skip
    assert beside.name == "rows.summary.json" and json.loads(beside.read_text()) == {"machine": {}}


@needs_compiler
def test_the_command(tmp_path, capsys):
    rows, picture = tmp_path / "rows.json", tmp_path / "ratios.png"
    words = ["cpu", "--quick", "--cases", "lstm/*/9x3x5x20", "lem/train/9x3x5x20", "--peers", "fused", "aten"]
    words += ["eager", "--threads", "1", "--json", str(rows), "--png", str(picture)]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "GFLOP/s" in told and "lstm train 9x3x5x20" in told and "Targets" in told
    found = json.loads(rows.read_text())
    assert [(row["cell"], row["mode"]) for row in found] == [
        ("lstm", "inference"),
        ("lstm", "train"),
        ("lem", "train"),
    ]
    assert all(row["ratios"]["eager"] > 0 for row in found)
    assert picture.read_bytes().startswith(b"\x89PNG")
    summary = json.loads((tmp_path / "rows.summary.json").read_text())
    assert summary["machine"]["threads"] == 1 and summary["cases"][0]["flops"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cpu", "--cases", "grru"], "no case matches 'grru'"),
        (["cpu", "--peers", "fused", "cudnn"], "there is no peer 'cudnn'"),
        (["cpu", "--threads", "0"], "--threads must be at least 1"),
    ],
)
def test_refusals(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["cpuu"]])
def test_no_such_benchmark(words, capsys):
    assert cli.main(words) == 2
    told = capsys.readouterr()
    assert "cpu" in told.out + told.err


@needs_compiler
def test_the_peak_is_a_loop_of_multiply_adds():
    assert peak.source().count("* a + b") == peak.CHAINS
    highest = peak.find()
    highest()
    per_thread = highest.operations / torch.get_num_threads()
    assert per_thread % (2 * peak.CHAINS) == 0 and peak.best(highest, 0.01) > 0
    (m,) = run([Case("rnn", "inference", SMALL)], {OURS: Ours(OURS)}, budget_s=0, peak=highest)
    assert set(m.times_ms) == {OURS} and 0 < m.share_of_peak < 1


@needs_compiler
def test_lengths_are_compared_with_the_padded_batch():
    found = lengths_ratio("gru", SMALL, budget_s=0)
    assert set(found) == {"inference", "train", "tokens"} and 0 < found["tokens"] <= 1


@needs_compiler
def test_first_calls_in_new_processes():
    found = latency.measure("gru", SMALL)
    assert set(found) == {"cold", "cached"}
    assert all(times["first_s"] > 0 and times["steady_s"] > 0 for times in found.values())
    assert len(latency.verdicts(found)) == 2

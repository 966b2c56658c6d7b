"""Runs side by side: what differs, whether it is chance, and what cannot be paired."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rnnlab import cli
from rnnlab.experiments.reports.compare import compare, flatten, paired_bootstrap
from rnnlab.experiments.sweeps.folder import Job, Status, write_status


@pytest.fixture
def make_run(tmp_path: Path):
    def make(
        name: str, seed: int, right: list[float] | None = None, ids: range | None = None, **config: Any
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        tree = {
            "seed": seed,
            "run_dir": str(folder),
            "output_dir": "runs",
            "model": {"hidden_size": 8, "num_layers": 1, **config},
            "callbacks": {"checkpoint": {"folder": f"{folder}/checkpoints"}},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        environment = {"time": str(seed), "threads": 2, "packages": {"torch": f"2.{seed}"}}
        (folder / "environment.yaml").write_text(yaml.safe_dump(environment), encoding="utf-8")
        mean = sum(right) / len(right) if right else 0.5 + seed / 100
        rows = f"step,epoch,val/loss,test/accuracy\n9,0,0.9,\n19,1,0.7,\n20,1,,{mean}\n"
        (folder / "metrics.csv").write_text(rows, encoding="utf-8")
        if right:
            lines = [f"{i},{value},1,0" for i, value in zip(ids or range(len(right)), right, strict=True)]
            text = "id,accuracy,predicted,truth\n" + "\n".join(lines) + "\n"
            (folder / "predictions.csv").write_text(text, encoding="utf-8")
        return folder

    return make


def test_only_what_differs_is_shown(make_run, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run("runs/a", 1), make_run("runs/b", 2, num_layers=3)]
    found = compare(runs)
    assert found.config == {"model.num_layers": [1, 3], "seed": [1, 2]}
    assert found.environment == {"packages.torch": ["2.1", "2.2"]}
    assert found.metrics == {"test/accuracy": [0.51, 0.52], "val/loss": [0.7, 0.7]}
    assert [run.name for run in found.runs] == ["a", "b"]
    assert cli.main(["compare", *map(str, runs)]) == 0
    out = capsys.readouterr().out
    assert "model.num_layers" in out and "hidden_size" not in out and "+0.01" in out
    assert "packages.torch" in out and "no run kept its predictions (callbacks=predictions keeps them)" in out
    assert "val/loss" not in out


def test_what_is_referred_to_is_told_once(
    make_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(name, 1, cell={"bias": bias}) for name, bias in (("a", True), ("b", False))]
    for run, bias in zip(runs, (True, False), strict=True):
        with (run / "config.yaml").open("a", encoding="utf-8") as stream:
            stream.write(f"cell: {{bias: {str(bias).lower()}}}\n")
    file = tmp_path / "x.json"
    assert cli.main(["compare", *map(str, runs), f"output={file}"]) == 0
    out = capsys.readouterr().out
    assert "cell.bias" in out and "model.cell.bias" not in out and "1 more keys repeat these" in out
    assert set(json.loads(file.read_text(encoding="utf-8"))["config"]) == {"cell.bias", "model.cell.bias"}


def test_a_difference_that_is_none_by_chance_is_sure(make_run, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [float(i % 4 == 0) for i in range(400)]
    better = [float(i % 4 != 1) for i in range(400)]
    runs = [make_run("a", 1, wrong), make_run("b", 2, better), make_run("c", 3, wrong)]
    found = compare(runs)
    sure, none = (found.bootstraps["test/accuracy"][name] for name in ("b", "c"))
    assert (sure.difference, sure.examples) == (pytest.approx(0.5), 400)
    assert 0.4 < sure.low < 0.5 < sure.high < 0.6 and sure.p < 0.001
    assert (none.difference, none.low, none.high, none.p) == (0, 0, 0, 1)
    assert cli.main(["compare", *map(str, runs), "resamples=500"]) == 0
    out = capsys.readouterr().out
    assert "paired bootstrap over 400 test examples" in out


def test_the_shares_of_several_processes_are_one_test_set(make_run) -> None:
    runs = [make_run(name, 1, [float(i % 3 == n) for i in range(41)]) for n, name in enumerate("ab")]
    expected = compare(runs).bootstraps["test/accuracy"]["b"]
    for run in runs:
        head, *rows = (run / "predictions.csv").read_text(encoding="utf-8").splitlines()
        for rank in range(2):
            share = "\n".join([head, *rows[rank::2]]) + "\n"
            (run / f"predictions-{rank}.csv").write_text(share, encoding="utf-8")
        (run / "predictions.csv").unlink()
    assert compare(runs).bootstraps["test/accuracy"]["b"] == expected


def test_an_interval_covers_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(200):
        torch.manual_seed(trial)
        first = torch.randn(60)
        found = paired_bootstrap(first, first + 0.3 + torch.randn(60), resamples=400, seed=trial)
        covered += found.low <= 0.3 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_interval_is_that_of_the_paired_differences_and_not_of_the_spread_between_examples() -> None:
    hard = 10 * torch.randn(300)
    found = paired_bootstrap(hard, hard + 0.1 + 0.1 * torch.randn(300))
    assert found.low > 0.05 and found.p < 0.001


def test_weights_count() -> None:
    found = paired_bootstrap(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([3.0, 1.0]))
    assert found.difference == pytest.approx(0.75)
    with pytest.raises(ValueError, match="got 2 and 3"):
        paired_bootstrap(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="two or more examples"):
        paired_bootstrap(torch.zeros(1), torch.ones(1))


def test_the_interval_is_that_of_the_normal_law_where_that_holds() -> None:
    """Many examples, known variance: the mean differs by d +- 1.96 s / sqrt(N), and the seed fixes it."""
    apart = torch.randn(4000, generator=torch.Generator().manual_seed(1)).double()
    found = paired_bootstrap(torch.zeros(4000), 0.05 + apart)
    error = float(apart.std()) / 4000**0.5
    assert found.difference == pytest.approx(0.05 + float(apart.mean()), abs=1e-6)
    assert found.low == pytest.approx(found.difference - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.difference + 1.96 * error, abs=0.1 * error)
    normal = math.erfc(abs(found.difference) / error / 2**0.5)
    assert found.p == pytest.approx(normal, rel=0.5, abs=2e-3)
    assert found == paired_bootstrap(torch.zeros(4000), 0.05 + apart)
    assert found != paired_bootstrap(torch.zeros(4000), 0.05 + apart, seed=1)


def test_what_is_not_finite_is_no_certainty(
    make_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run("a", 1, [1.0, math.nan, 0.0]), make_run("b", 2, [1.0, 1.0, 1.0], clip=math.inf)]
    result = compare(runs).bootstraps["test/accuracy"]["b"]
    assert math.isnan(result.p) and math.isnan(result.low) and result.examples == 3
    assert cli.main(["compare", *map(str, runs), f"output={tmp_path / 'x.json'}"]) == 0
    assert "not finite" in capsys.readouterr().out
    content = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert content["paired_bootstrap"]["test/accuracy"]["b"]["p"] is None
    assert content["config"]["model.clip"] == {"a": None, "b": "inf"}


def test_few_examples_are_told(make_run, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run("a", 1, [0.0] * 5), make_run("b", 2, [1.0] * 5)]
    assert cli.main(["compare", *map(str, runs)]) == 0
    assert "so few that the range is too narrow" in capsys.readouterr().out
    lone = [make_run("c", 3, [0.0]), make_run("d", 4, [1.0])]
    assert "one test example alone" in compare(lone).refusals["d"]


def test_different_test_sets_are_not_paired(make_run, capsys: pytest.CaptureFixture[str]) -> None:
    one = make_run("a", 1, [1.0] * 10)
    other = make_run("b", 2, [0.0] * 10, ids=range(4, 14))
    assert compare([one, other]).bootstraps == {}
    assert cli.main(["compare", str(one), str(other)]) == 0
    out = capsys.readouterr().out
    assert "tested on different examples (6 are the same, 4 only in the first, 4 only in the second)" in out


def test_examples_are_paired_by_their_id(make_run) -> None:
    one = make_run("a", 1, [1.0, 0.0, 0.0])
    other = make_run("b", 2, [0.0, 0.0, 1.0], ids=range(2, -1, -1))
    result = compare([one, other]).bootstraps["test/accuracy"]["b"]
    assert (result.difference, result.low, result.high) == (0, 0, 0)


def test_files_hold_what_is_shown(make_run, tmp_path: Path) -> None:
    runs = [str(make_run("a", 1, [0.0, 1.0])), str(make_run("b", 2, [1.0, 1.0], hidden_size=[3, 4]))]
    assert cli.main(["compare", *runs, f"output={tmp_path / 'x.json'}"]) == 0
    content = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert content["config"]["model.hidden_size"] == {"a": 8, "b": [3, 4]}
    assert content["paired_bootstrap"]["test/accuracy"]["b"]["difference"] == 0.5
    assert cli.main(["compare", *runs, f"output={tmp_path / 'x.csv'}"]) == 0
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["key"]: row for row in csv.DictReader(stream)}
    assert rows["model.hidden_size"]["b"] == "[3,4]"
    assert float(rows["test/accuracy"]["difference b"]) == 0.5


def test_jobs_of_a_sweep_are_runs(make_run, tmp_path: Path) -> None:
    make_run("jobs/x/run", 1)
    make_run("jobs/y/run", 2)
    found = compare([tmp_path / "jobs" / "x", tmp_path / "jobs" / "y"])
    assert [run.name for run in found.runs] == ["x", "y"]


def test_jobs_are_told_by_their_points_and_measured_by_their_runs(make_run, tmp_path: Path) -> None:
    for name, point in (("x", {"cell": "gru"}), ("y", {"cell": "lstm"}), ("z", {"cell": "rnn"})):
        job = Job(tmp_path / "jobs" / name, name, 0, [f"cell={point['cell']}"], point, "code")
        job.write()
        (job.folder / "config.yaml").write_text("seed: 7\n", encoding="utf-8")  # as it was planned
        write_status(job.folder, Status("finished", 1, metrics={"test/accuracy": 0.9}))
        if name != "z":
            make_run(f"jobs/{name}/run", ord(name))
    (tmp_path / "jobs" / "y" / "run" / "metrics.csv").unlink()  # logger=none
    found = compare([tmp_path / "jobs" / "x", tmp_path / "jobs" / "y"])
    assert [run.name for run in found.runs] == ["cell=gru", "cell=lstm"]
    assert found.metrics["test/accuracy"] == [pytest.approx(0.5 + ord("x") / 100), 0.9]
    with pytest.raises(ValueError, match="has not begun"):
        compare([tmp_path / "jobs" / "x", tmp_path / "jobs" / "z"])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["{run}"], "two or more runs are compared; got 1"),
        (["{run}", "{run}"], "given twice"),
        (["{run}", "nowhere"], "no such folder"),
        (["{run}", "{here}"], "not the folder of a run: it has no config.yaml"),
        (["{run}", "{broken}"], "config.yaml: damaged"),
        (["{run}", "{run}", "resamples=3"], "from 100 to 1,000,000"),
        (["{run}", "{run}", "output=x.txt"], "ends in .json or .csv"),
    ],
)
def test_what_is_wrong_is_said(
    words: list[str], part: str, make_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = make_run("broken", 2)
    (broken / "config.yaml").write_text("a: [", encoding="utf-8")
    places = {"run": make_run("run", 1), "here": Path(__file__).parent, "broken": broken}
    assert cli.main(["compare", *(word.format(**places) for word in words)]) == 2
    assert part in capsys.readouterr().err


def test_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}

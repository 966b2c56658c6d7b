"""Ranks, spreads, factors and fronts against numbers worked out here."""

import math
import shlex
from pathlib import Path
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rnnlab.experiments.reports.gather import Factor, Level, Report, Spread, command, guess_mode, number, text
from rnnlab.experiments.reports.page import payload
from rnnlab.experiments.reports.tables import print_report, write_csv
from rnnlab.experiments.sweeps.folder import Job, Status, read_sweep, write_about

from .conftest import add_job


def test_settings_are_ranked_by_their_mean_over_seeds(make_sweep) -> None:
    report = Report(read_sweep(make_sweep(broken=False)))
    assert (report.metric, report.mode, report.seeds) == ("test/accuracy", "max", ["seed"])
    best = report.settings[0]
    assert best.label == "cell=lstm model.num_layers=2"
    values = [0.90 + (seed - 1) * 0.01 for seed in range(3)]
    spread = best.measure("test/accuracy")
    assert (spread.mean, spread.deviation, spread.count) == (
        pytest.approx(fmean(values)),
        pytest.approx(stdev(values)),
        3,
    )
    means = [setting.measure("test/accuracy").mean for setting in report.settings]
    assert means == sorted(means, reverse=True)
    other = Report(report.sweep, "test/loss")
    assert other.mode == "min"
    assert [s.label for s in other.settings] == [s.label for s in report.settings]


def test_no_job_is_counted_twice_or_lost(make_sweep) -> None:
    report = Report(read_sweep(make_sweep()))
    assert report.counts == {"finished": 14, "failed": 1, "interrupted": 1, "pending": 1, "damaged": 1}
    assert sum(report.counts.values()) == report.planned == 18
    assert sum(len(setting.jobs) for setting in report.settings) == 17
    assert all(setting.point["cell"] != "old" for setting in report.settings)
    finished = {setting.label: len(setting.finished) for setting in report.settings}
    assert finished["cell=gru model.num_layers=2"] == 2


def test_factors_have_marginal_means_and_their_share_of_the_variance(make_sweep) -> None:
    report = Report(read_sweep(make_sweep(broken=False)))
    cell, layers = report.factors
    assert [level.value for level in cell.levels] == ["rnn", "gru", "lstm"]
    assert [level.spread.mean for level in cell.levels] == pytest.approx([0.67, 0.87, 0.89])
    assert cell.balanced and not cell.numeric and layers.numeric
    assert [level.spread.count for level in layers.levels] == [9, 9]
    assert 0.9 < cell.share < 1.0
    assert layers.share < 0.05
    assert not Report(read_sweep(make_sweep("other"))).factors[0].balanced


@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=5), min_size=2, max_size=4))
def test_a_share_of_the_variance_is_a_share(groups: list[list[float]]) -> None:
    share = Factor("x", tuple(Level(i, tuple(values)) for i, values in enumerate(groups))).share
    assert share is None or -1e-9 <= share <= 1 + 1e-6


def test_numbers_that_a_search_drew_have_a_correlation_and_no_means() -> None:
    levels = tuple(Level(rate, (1 - rate**2,)) for rate in (0.001, 0.002, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5))
    factor = Factor("optim.lr", levels)
    assert factor.continuous
    assert factor.correlation == pytest.approx(-1.0)
    assert not Factor("layers", (Level(1, (0.1, 0.2)), Level(2, (0.3, 0.1)))).continuous


def test_values_that_one_job_each_has_explain_nothing() -> None:
    cells = Factor("cell", tuple(Level(name, (value,)) for name, value in (("rnn", 0.1), ("gru", 0.5))))
    assert cells.share is None
    rates = Factor("lr", tuple(Level(v, (v,)) for v in (0.0014135935551752314, 0.02, 0.3)))
    assert rates.continuous and rates.correlation == pytest.approx(1.0)
    assert rates.labels == ["0.001414", "0.02", "0.3"]
    assert Factor("lr", (Level(0.100001, ()), Level(0.100002, ()))).labels == ["0.100001", "0.100002"]
    assert Factor("cell", (Level("gru", (0.1, 0.2)), Level("rnn", (0.3, 0.1)))).correlation is None
    assert Factor("layers", (Level(1, (0.1, 0.1)), Level(2, (0.1,)))).correlation is None


def test_nobody_beats_the_front(make_sweep) -> None:
    report = Report(read_sweep(make_sweep(broken=False)))
    front = report.front("parameters")
    sizes = [setting.parameters.mean for setting in front]
    assert sizes == sorted(sizes)
    assert (front[0].label, front[-1].label) == (
        "cell=rnn model.num_layers=1",
        "cell=lstm model.num_layers=2",
    )
    for mine in front:
        for other in report.settings:
            cheaper = other.parameters.mean < mine.parameters.mean
            assert not (cheaper and other.measure(report.metric).mean > mine.measure(report.metric).mean)


def test_values_that_are_not_finite_are_not_averaged() -> None:
    assert Spread.of([1.0, math.nan, 3.0]) == Spread(2.0, stdev([1.0, 3.0]), 2)
    assert str(Spread.of([math.inf])) == "-"
    assert str(Spread.of([0.5])) == "0.5"


def test_a_metric_that_no_job_has_is_refused(make_sweep) -> None:
    with pytest.raises(ValueError, match=r"metric=test/acuracy: .* did you mean test/accuracy"):
        Report(read_sweep(make_sweep()), "test/acuracy")


def test_the_command_is_one_that_a_shell_takes_apart_again(tmp_path) -> None:
    words = ["cell=gru", "data.source=my file.csv", "name=it's; rm -rf $HOME", "model.hidden_size=[32,16]"]
    job = Job(tmp_path, "id", 0, words, {}, "code", config_dir="my configs")
    shown = ["rnnlab", "train", "--config-dir", "my configs", *words]
    assert shlex.split(command(job)) == shown
    assert shlex.split(command(job, ["mine", "$(rm) -r"])) == [*shown, "allow=mine,$(rm) -r"]


def test_a_sweep_for_its_cost_is_ranked_by_it(tmp_path: Path) -> None:
    ids = []
    for place, (size, seconds) in enumerate(((8, 3.0), (4, 5.0), (6, 4.0))):
        status = Status("finished", 1, seconds=seconds, metrics={"test/loss": 0.1 * size}, parameters=size)
        ids.append(add_job(tmp_path, place, {"model.hidden_size": size}, status).id)
    write_about(tmp_path, {"jobs": ids, "objectives": [{"metric": "seconds", "mode": "min"}]})
    report = Report(read_sweep(tmp_path))
    assert (report.metric, report.mode) == ("seconds", "min")
    assert [setting.point["model.hidden_size"] for setting in report.settings] == [8, 6, 4]
    assert [level.spread.mean for level in report.factors[0].levels] == [5.0, 4.0, 3.0]
    assert payload(report)["jobs"][0]["metrics"]["seconds"] == 3.0
    write_csv(report, tmp_path)
    head = (tmp_path / "jobs.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert head.count("seconds") == 1
    print_report(report, Console(width=120, quiet=True))
    smallest = Report(read_sweep(tmp_path), "parameters")
    assert [setting.point["model.hidden_size"] for setting in smallest.settings] == [4, 6, 8]


def test_names_tell_what_is_better() -> None:
    assert [guess_mode(m) for m in ("val/accuracy", "test/f1", "test/loss", "seconds", "val/f1_macro")] == [
        "max",
        "max",
        "min",
        "min",
        "max",
    ]
    assert [number(v) for v in (12345.0, 0.123456, 1234567.8)] == ["12,345", "0.1235", "1,234,568"]
    assert [text(v) for v in (None, True, [1, 2], 0.5)] == ["null", "true", "[1,2]", "0.5"]


def test_pruned_trials_are_shown_and_not_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = {0.1: [0.9, 0.4, 0.5], 0.2: [0.8, 0.6, 0.6], 0.9: [0.01]}  # the last one was pruned
    ids = []
    for place, (rate, values) in enumerate(losses.items()):
        status = Status("finished", 1, seconds=2.0, metrics={"val/loss": values[-1]}, parameters=10)
        status.best, status.pruned = {"val/loss": min(values)}, len(values) == 1
        status.reason = "pruned after 1 validations" if status.pruned else None
        ids.append(add_job(tmp_path, place, {"optim.lr": rate}, status).id)
    write_about(tmp_path, {"jobs": ids, "objectives": [{"metric": "val/loss", "mode": "min"}]})
    report = Report(read_sweep(tmp_path))
    assert report.counts == {"finished": 2, "pruned": 1}
    assert [setting.point["optim.lr"] for setting in report.settings] == [0.1, 0.2, 0.9]
    # The best of all validations, as the sweep itself ranks.
    assert [setting.measure("val/loss").mean for setting in report.settings[:2]] == [0.4, 0.6]
    assert report.settings[2].measure("val/loss").count == 0
    assert [level.spread.count for level in report.factors[0].levels] == [1, 1, 0]
    assert [setting.point["optim.lr"] for setting in report.front("parameters")] == [0.1]
    print_report(report, Console(width=120))
    told = capsys.readouterr().out
    assert "2 of 3 jobs finished; 1 pruned" in told
    assert "not finished" not in told
    write_csv(report, tmp_path)
    rows = (tmp_path / "leaderboard.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in rows] == ["rank", "1", "2", ""]
    assert [job["state"] for job in payload(report)["jobs"]] == ["finished", "finished", "pruned"]

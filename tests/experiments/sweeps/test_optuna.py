"""Optuna by ask and tell: a study that goes on, several objectives, pruning, and what Optuna is asked."""

import os
import signal
from pathlib import Path

import pytest
from sweeping import Start, wait_until

from rnnlab.experiments.sweeps.command import sweep
from rnnlab.experiments.sweeps.folder import read_sweep
from rnnlab.experiments.sweeps.plan import read_space

optuna = pytest.importorskip("optuna")

SPACE = ["optim.lr=tag(log,interval(0.001,0.1))", "cell=rnn,gru", "model.hidden_size=range(2,9,2)"]


def study_of(folder: Path) -> "optuna.Study":
    address = f"sqlite:///{folder / 'study.db'}"
    (summary,) = optuna.get_all_study_summaries(address)
    return optuna.load_study(study_name=summary.study_name, storage=address)


def test_a_study_goes_on_to_its_number_of_trials(small: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    words = [*small, *SPACE, "search=tpe", f"sweep_dir={folder}", "metric=val/loss"]
    assert sweep([*words, "trials=2"]) == 0
    before = read_sweep(folder)
    assert len(before.jobs) == 2
    assert sweep([*words, "trials=4"]) == 0
    after = read_sweep(folder)
    assert [job.id for job in after.jobs[:2]] == [job.id for job in before.jobs]
    assert [job.status for job in after.jobs[:2]] == [job.status for job in before.jobs]
    trials = study_of(folder).get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    by_id = {job.id: job for job in after.jobs}
    for trial in trials:
        job = by_id[trial.user_attrs["job"]]
        assert trial.values == job.status.values == [job.status.best["val/loss"]]
        assert job.point["optim.lr"] == trial.params["optim.lr"]
    assert sweep([f"sweep_dir={folder}"]) == 0
    assert len(study_of(folder).get_trials()) == 4


def test_several_objectives(small: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    words = [*small, *SPACE, "search=nsga2", "trials=2", "metric=val/accuracy,parameters"]
    assert sweep([*words, f"sweep_dir={folder}"]) == 0
    study = study_of(folder)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    jobs = read_sweep(folder).jobs
    assert {trial.values[1] for trial in study.get_trials()} == {
        float(job.status.parameters or 0) for job in jobs
    }


@pytest.mark.slow
def test_a_hopeless_trial_is_pruned(small: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    words = [*small, "cell=rnn", "optim.lr=tag(log,interval(1e-6,0.1))", "trainer.max_epochs=3"]
    words += ["search=tpe", "trials=10", "pruner=median", "metric=val/loss", "test=false"]
    assert sweep([*words, f"sweep_dir={folder}"]) == 0
    found = read_sweep(folder)
    pruned = {job.id for job in found.jobs if job.status.pruned}
    assert pruned
    assert all(job.state == "finished" for job in found.jobs)
    for trial in study_of(folder).get_trials():
        ended_early = trial.user_attrs["job"] in pruned
        assert trial.state.name == ("PRUNED" if ended_early else "COMPLETE")
        assert len(trial.intermediate_values) < 3 or not ended_early


def test_the_judge_calls_what_lags_behind_hopeless(tmp_path: Path) -> None:
    from rnnlab.experiments.sweeps.optuna_search import OptunaJudge, make_pruner, open_storage, study_address

    address = study_address(tmp_path)
    study = optuna.create_study(storage=open_storage(address), study_name="s", pruner=make_pruner("median"))
    for _ in range(6):
        good = study.ask()
        good.report(0.1, 1)
        study.tell(good, 0.1)
    verdicts = [
        OptunaJudge(address, "s", study.ask()._trial_id, "median").hopeless(loss, 1) for loss in (0.05, 9.0)
    ]
    assert verdicts == [False, True]


def test_a_study_holds_trials_of_one_version_of_the_code(tmp_path: Path) -> None:
    from rnnlab.experiments.sweeps.optuna_search import OptunaSearch
    from rnnlab.experiments.sweeps.plan import Planner

    space = read_space(SPACE)

    def name(code: str) -> str:
        planner = Planner(space, tmp_path)
        objectives = [("val/loss", "min")]
        return OptunaSearch(space, planner, tmp_path, code, objectives, "tpe", "none", 3, 0, False).name

    first, second = name("one"), name("two")
    assert first != second
    assert name("one") == first
    assert name("any") == second


def test_each_kind_of_key_has_its_distribution() -> None:
    from rnnlab.experiments.sweeps.optuna_search import distribution

    space = read_space([*SPACE, "seed=int(interval(1,9))", "data.window=3,1"])
    found = {axis.key: distribution(axis) for axis in space.axes}
    assert found["optim.lr"] == optuna.distributions.FloatDistribution(0.001, 0.1, log=True)
    assert found["cell"] == optuna.distributions.CategoricalDistribution(("rnn", "gru"))
    assert found["model.hidden_size"] == optuna.distributions.IntDistribution(2, 8, step=2)
    assert found["seed"] == optuna.distributions.IntDistribution(1, 9)
    assert found["data.window"] == optuna.distributions.CategoricalDistribution(("3", "1"))


@pytest.mark.parametrize("name", ["tpe", "gp", "nsga2", "qmc"])
def test_every_sampler_draws(name: str) -> None:
    from rnnlab.experiments.sweeps.optuna_search import distribution, make_sampler

    if name == "gp":
        pytest.importorskip("scipy")
    space = read_space(SPACE)
    study = optuna.create_study(sampler=make_sampler(name, 1, 1, False))
    trial = study.ask({axis.key: distribution(axis) for axis in space.axes})
    assert set(trial.params) == {axis.key for axis in space.axes}


@pytest.mark.slow
def test_a_study_killed_in_the_middle_goes_on(slow_job: list[str], tmp_path: Path, start: Start) -> None:
    folder = tmp_path / "sweep"
    words = [*slow_job, *SPACE, "search=tpe", "trials=5", "metric=val/loss", f"sweep_dir={folder}"]
    process = start(*words)
    wait_until(
        folder,
        lambda now: (
            sum(job.state == "finished" for job in now.jobs) >= 2
            and any(job.state == "running" and job.status.step > 20 for job in now.jobs)
        ),
        process,
    )
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {job.id: job.status for job in read_sweep(folder).jobs if job.state == "finished"}
    assert start(*words).wait() == 0, (tmp_path / "start-1.log").read_text(encoding="utf-8")
    trials = study_of(folder).get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5
    after = {job.id: job for job in read_sweep(folder).jobs}
    assert all(job.state == "finished" and job.status.attempts == 1 for job in after.values())
    assert {name: after[name].status for name in before} == before

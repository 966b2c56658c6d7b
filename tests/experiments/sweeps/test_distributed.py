"""A job of two processes under a sweep: gloo on this machine, with the gradients of one process."""

import os
from pathlib import Path

import pytest
import torch

from rnnlab.experiments.reports.compare import compare
from rnnlab.experiments.sweeps.command import sweep
from rnnlab.experiments.sweeps.folder import read_sweep
from rnnlab.training.predictions import read_predictions


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(small: list[str], tmp_path: Path) -> None:
    # Plain gradient descent without clipping: the weights after three steps are equal if the gradients are.
    shared = [*small, "callbacks=checkpoint", "optim=sgd", "optim.momentum=0", "optim.nesterov=false"]
    shared += ["optim.weight_decay=0", "optim.lr=0.5", "trainer.gradient_clip_val=null", "cell=gru"]
    shared += ["task.dropout=0", "task.embedding_dropout=0", "trainer.max_epochs=-1", "trainer.max_steps=3"]
    shared += ["test=false", "seed=1,2"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert sweep([*shared, "data.batch_size=16", f"sweep_dir={one}"]) == 0
    distributed = ["trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=8"]
    before = dict(os.environ)
    assert sweep([*shared, *distributed, f"sweep_dir={two}"]) == 0, "\n".join(
        job.log.read_text(encoding="utf-8") for job in read_sweep(two).jobs
    )
    assert dict(os.environ) == before
    for alone, shared_out in zip(read_sweep(one).jobs, read_sweep(two).jobs, strict=True):
        assert shared_out.status.step == alone.status.step == 3
        left = torch.load(alone.run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        right = torch.load(shared_out.run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name, value in left.items():
            if value.is_floating_point():
                torch.testing.assert_close(right[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_what_two_processes_keep_of_the_test_is_what_one_keeps(small: list[str], tmp_path: Path) -> None:
    shared = [*small, "callbacks=predictions", "trainer.max_epochs=-1", "trainer.max_steps=2", "seed=1,2"]
    shared += ["data.test=0.3", "data.eval_batch_size=5"]
    distributed = ["trainer.devices=2", "trainer.strategy=ddp"]
    jobs = []
    for name, more in (("one", []), ("two", distributed)):
        assert sweep([*shared, *more, f"sweep_dir={tmp_path / name}"]) == 0
        jobs.append(read_sweep(tmp_path / name).jobs[0])
    one, two = (read_predictions(job.run / "predictions.csv") for job in jobs)
    assert {file.name for file in jobs[1].run.glob("predictions*")} == {
        "predictions-0.csv",
        "predictions-1.csv",
    }
    assert len(one) % 2 and list(one) == list(two)
    assert [row["truth"] for row in one.values()] == [row["truth"] for row in two.values()]
    assert compare([job.run for job in jobs]).bootstraps

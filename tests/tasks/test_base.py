from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from rnnlab.tasks.base import Task, gradient_norm, output_features, parameter_groups
from rnnlab.tasks.schedules import warmup_cosine


class Line(Task):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.layer = nn.Linear(2, 1)
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


class Trained:
    """As much of a trainer as the schedule asks for."""

    def __init__(self, steps: float) -> None:
        self.estimated_stepping_batches = steps


def configured(scheduler: Any, steps: float = 10) -> Any:
    task = Line(optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.2), scheduler=scheduler)
    task._trainer = Trained(steps)  # type: ignore[assignment]
    return task, task.configure_optimizers()


def test_weight_decay_spares_vectors_and_frozen_parameters_stay_out() -> None:
    task, optimizer = configured(None)
    groups = optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0]
    assert groups[0]["params"] == [task.layer.weight]
    assert groups[1]["params"] == [task.layer.bias]
    assert [list(g) for g in parameter_groups([("w", nn.Parameter(torch.zeros(2, 2)))])] == [["params"]]


def test_a_schedule_is_stepped_as_often_as_it_can_count() -> None:
    _, plan = configured(partial(warmup_cosine, warmup=0.5))
    assert plan["lr_scheduler"]["interval"] == "step"
    assert plan["optimizer"].param_groups[0]["lr"] == pytest.approx(0.02)
    _, plan = configured(partial(torch.optim.lr_scheduler.StepLR, step_size=1))
    assert plan["lr_scheduler"]["interval"] == "epoch"
    _, plan = configured(torch.optim.lr_scheduler.ReduceLROnPlateau)
    assert plan["lr_scheduler"]["monitor"] == "val/loss"


def test_a_schedule_without_an_end_is_told() -> None:
    with pytest.raises(ValueError, match=r"give trainer.max_epochs or trainer.max_steps"):
        configured(warmup_cosine, float("inf"))


def test_the_gradient_s_norm_is_that_of_all_gradients_together() -> None:
    task = Line(optimizer=torch.optim.SGD)
    task.layer(torch.ones(3, 2)).sum().backward()
    flat = torch.cat([p.grad.flatten() for p in task.parameters() if p.grad is not None])
    torch.testing.assert_close(gradient_norm(task.parameters()), flat.norm())


def test_a_model_that_does_not_tell_its_width_is_refused() -> None:
    with pytest.raises(TypeError, match="LSTM has no integer `output_size`"):
        output_features(nn.LSTM(2, 3))

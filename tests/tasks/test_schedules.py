import math

import pytest
import torch

from rnnlab.tasks.schedules import constant, one_cycle, warmup_cosine


def rates(make, steps: int, **options) -> list[float]:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = make(optimizer, steps, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_warmup_cosine_rises_linearly_and_falls_as_a_cosine() -> None:
    seen = rates(warmup_cosine, 100, warmup=0.1, final=0.2)
    assert seen[:10] == pytest.approx([0.2 * (n + 1) for n in range(10)])
    expected = [2 * (0.2 + 0.8 * (1 + math.cos(math.pi * n / 90)) / 2) for n in range(90)]
    assert seen[10:] == pytest.approx(expected)


def test_one_cycle_peaks_at_the_learning_rate() -> None:
    seen = rates(one_cycle, 100, warmup=0.3)
    assert max(seen) == pytest.approx(2.0, rel=1e-3)
    assert seen.index(max(seen)) in (29, 30)
    assert seen[0] == pytest.approx(2.0 / 25)
    assert seen[-1] < 1e-3


def test_constant_stays_after_its_warmup() -> None:
    assert rates(constant, 10) == [2.0] * 10
    assert rates(constant, 10, warmup=0.2) == [1.0] + [2.0] * 9


@pytest.mark.parametrize("make", [warmup_cosine, one_cycle, constant])
@pytest.mark.parametrize("steps", [1, 2])
def test_very_short_runs_work(make, steps: int) -> None:
    assert all(0 < rate <= 2.0 for rate in rates(make, steps, warmup=0.5))


def test_shares_out_of_range_are_refused() -> None:
    for make in (warmup_cosine, one_cycle, constant):
        with pytest.raises(ValueError, match=r"warmup is a share of all steps in \[0, 1\); got 1.0"):
            rates(make, 5, warmup=1.0)
    with pytest.raises(ValueError, match=r"final lies in \[0, 1\]; got 2"):
        rates(warmup_cosine, 5, final=2)

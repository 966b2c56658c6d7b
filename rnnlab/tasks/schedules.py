"""Learning-rate schedules that know the number of optimiser steps.

Legend: `n` step from 0, `N` all steps, `w` share of them that warms up.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, *, warmup: float = 0.1, final: float = 0.0
) -> LambdaLR:
    """A linear rise, then half a cosine down.

        factor = (n + 1) / (w N)                               while n < w N
        factor = final + (1 - final) (1 + cos(pi p)) / 2,  p = (n - w N) / (N - w N)   after

    Args:
        optimizer: its learning rates are those of factor 1.
        total_steps: `N`.
        warmup: `w`, in [0, 1).
        final: factor at the end, in [0, 1].

    Raises:
        ValueError: a share out of range.

    Source: Loshchilov and Hutter 2017 (SGDR), eq. 5, one cycle.
    """
    _check_share("warmup", warmup)
    if not 0.0 <= final <= 1.0:
        raise ValueError(f"final lies in [0, 1]; got {final}")
    rise = warmup * total_steps

    def factor(step: int) -> float:
        if step < rise:
            return min(1.0, (step + 1) / rise)
        progress = min(1.0, (step - rise) / max(1.0, total_steps - rise))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)


def one_cycle(optimizer: Optimizer, total_steps: int, *, warmup: float = 0.3) -> OneCycleLR:
    """A cosine rise from 1/25 of the learning rate and a cosine fall to almost nothing; momentum opposite.

    Args:
        optimizer: its learning rates are the largest of the cycle.
        total_steps: `N`.
        warmup: share of the steps that rises, in [0, 1).

    Raises:
        ValueError: a share out of range.

    Source: Smith and Topin 2018, "Super-Convergence".
    """
    _check_share("warmup", warmup)
    rates = [group["lr"] for group in optimizer.param_groups]
    # A rise of a single step is a phase of length 0, by which OneCycleLR would divide.
    share = warmup if warmup * total_steps > 1 else 0.0
    return OneCycleLR(optimizer, max_lr=rates, total_steps=total_steps, pct_start=share)


def constant(optimizer: Optimizer, total_steps: int, *, warmup: float = 0.0) -> LambdaLR:
    """A linear rise over the share `w` of the steps, then no change.

    Raises:
        ValueError: a share out of range.
    """
    _check_share("warmup", warmup)
    rise = warmup * total_steps
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / rise) if step < rise else 1.0)


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} is a share of all steps in [0, 1); got {value}")


def decay_after(optimizer: Optimizer, *, epochs: int, factor: float) -> LambdaLR:
    """The same learning rate for some epochs, then smaller by a factor after each.

        rate factor = factor ** max(0, n - epochs + 1),   n the epoch from 0

    Args:
        optimizer: its learning rates are those of the first epochs.
        epochs: at the full learning rate.
        factor: in (0, 1].

    Raises:
        ValueError: a factor out of range, or a negative number of epochs.

    Source: Zaremba, Sutskever and Vinyals 2014, "Recurrent Neural Network Regularization", section 4.1.
    """
    if not 0.0 < factor <= 1.0:
        raise ValueError(f"factor lies in (0, 1]; got {factor}")
    if epochs < 0:
        raise ValueError(f"epochs is at least 0; got {epochs}")
    return LambdaLR(optimizer, lambda epoch: factor ** max(0, epoch - epochs + 1))

"""How the jobs of a sweep are found: all points of a grid, points drawn by chance, or Optuna's choice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol

from rnnlab.experiments.sweeps.folder import Job
from rnnlab.experiments.sweeps.plan import Planned, Planner, Space


class Search(Protocol):
    """Jobs one after the other, each answered by what it came to.

    Attributes:
        total: jobs in all.
    """

    total: int

    def next(self) -> Planned | None:
        """The next job; None when there is no other."""

    def trial_of(self, job: Job) -> tuple[str, str, int] | None:
        """Address of the study, its name and the trial, where the job may be pruned."""

    def tell(self, job: Job) -> None:
        """A job has ended: it is finished, or has failed for good."""


class Listed:
    """Jobs that are known from the beginning."""

    def __init__(self, jobs: Sequence[Planned]) -> None:
        self.jobs = list(jobs)
        self.total = len(self.jobs)
        self._left = list(reversed(self.jobs))

    def next(self) -> Planned | None:
        """The next of the list."""
        return self._left.pop() if self._left else None

    def trial_of(self, job: Job) -> None:
        """None: nothing is pruned."""

    def tell(self, job: Job) -> None:
        """Nothing depends on it."""


def draw_points(space: Space, number: int, seed: int) -> list[dict[str, Any]]:
    """Points drawn independently of each other: the same ones for the same seed, more for a larger number.

    No point is drawn twice; where the space has no more than `number` points, all of them are.
    """
    points: dict[str, dict[str, Any]] = {}
    index = 0
    while len(points) < min(number, space.size):
        point = {
            axis.key: axis.draw(random.Random(f"{seed}/{index}/{axis.key}").random()) for axis in space.axes
        }
        points.setdefault(repr(point), point)
        index += 1
    return list(points.values())


def list_jobs(space: Space, planner: Planner, number: int | None, seed: int) -> Listed:
    """The jobs of a grid, or so many random ones.

    Raises:
        ConfigError: all that is wrong with any of them.
    """
    points = list(space.grid()) if number is None else draw_points(space, number, seed)
    return Listed(planner.plan_all(points))

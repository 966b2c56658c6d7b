"""From the words of a sweep to its jobs: the swept keys, the points, and what each point comes to."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Glob, IntervalSweep, Override, QuotedString, RangeSweep
from omegaconf import DictConfig, OmegaConf

from rnnlab.experiments.compose import compose, parse_values
from rnnlab.experiments.groups import exclusive, read_groups, search_path
from rnnlab.experiments.sweeps.folder import Job, read_job, write_whole
from rnnlab.experiments.sweeps.version import code_version
from rnnlab.training.ranges import out_of_range
from rnnlab.training.validate import ConfigError

# What does not change a result: where it is written, what it is called, how the work is shared out.
LEFT_OUT = ("name", "run_dir", "output_dir", "threads")


@dataclass(frozen=True)
class Axis:
    """One swept key.

    Attributes:
        key: the key or group.
        values: what it takes, in order; empty for an interval.
        words: the same as they are written.
        low, high: ends of an interval or a range of numbers, both included.
        step: of a range of integers.
        integer: an interval of integers.
        log: drawn uniformly in the logarithm.
    """

    key: str
    values: tuple[Any, ...] = ()
    words: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    step: int | None = None
    integer: bool = False
    log: bool = False

    @property
    def is_interval(self) -> bool:
        return not self.values

    def word(self, value: Any) -> str:
        """`key=value` of one value."""
        if self.is_interval:
            return f"{self.key}={value!r}"
        return f"{self.key}={self.words[self.values.index(value)]}"

    def draw(self, uniform: float) -> Any:
        """The value at `uniform` in [0, 1)."""
        if not self.is_interval:
            return self.values[int(uniform * len(self.values))]
        assert self.low is not None and self.high is not None
        if self.integer:
            if self.log:
                return min(int(self.low * ((self.high + 1) / self.low) ** uniform), int(self.high))
            return int(self.low) + int(uniform * (int(self.high) - int(self.low) + 1))
        if self.log:
            return self.low * (self.high / self.low) ** uniform
        return self.low + uniform * (self.high - self.low)


@dataclass(frozen=True)
class Space:
    """What all jobs share, and what each chooses from.

    Attributes:
        fixed: words that all jobs share.
        axes: the swept keys, in order.
        config_dir: the user's own configuration folder.
    """

    fixed: list[str]
    axes: list[Axis]
    config_dir: str | None = None

    def words(self, point: Mapping[str, Any]) -> list[str]:
        """The words of the run at a point."""
        return [*self.fixed, *(axis.word(point[axis.key]) for axis in self.axes)]

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every point, the last key running fastest.

        Raises:
            ConfigError: an interval has no grid.
        """
        if open_ended := [axis.key for axis in self.axes if axis.is_interval]:
            raise ConfigError(
                [
                    f"{key}: an interval has no grid; give values, or search=random or tpe"
                    for key in open_ended
                ]
            )
        for values in itertools.product(*(axis.values for axis in self.axes)):
            yield dict(zip((axis.key for axis in self.axes), values, strict=True))

    @property
    def size(self) -> float:
        """How many points there are."""
        size = 1.0
        for axis in self.axes:
            size *= float("inf") if axis.is_interval else len(axis.values)
        return size


def read_space(words: Sequence[str], config_dir: str | None = None) -> Space:
    """The swept keys among the words of a sweep, in Hydra's own grammar; values win over an earlier value.

    Raises:
        ConfigError: an empty range, a key swept and then given again, a word that is no assignment, two
            options of a group and no sweep.
    """
    known = read_groups(search_path(config_dir))
    found: list[str] = []
    fixed: list[str] = []
    axes: list[Axis] = []
    overrides = parse_values(words)
    swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
    seen: set[str] = set()
    for override in overrides:
        line, key = str(override.input_line), override.key_or_group
        if key in seen:
            found.append(f"{line}: {key} is swept before, and given here again")
            continue
        if not override.is_sweep_override():
            if key not in swept:
                fixed.append(line)
            continue
        seen.add(key)
        try:
            axes.append(_axis(override, key, known))
        except ValueError as error:
            found.append(f"{line}: {error}")
    if not axes and not found:
        found = _meant_as_sweep(overrides, known)
    if found:
        raise ConfigError(found)
    return Space(fixed, axes, config_dir)


def _meant_as_sweep(overrides: Sequence[Override], groups: Mapping[str, Mapping[str, Path]]) -> list[str]:
    """Where nothing is swept, the groups of which several options are chosen and a run takes one."""
    chosen: dict[str, list[str]] = {}
    for override in overrides:
        name, option = str(override.key_or_group), str(override.value())
        if option in groups.get(name, ()) and option not in chosen.setdefault(name, []):
            chosen[name].append(option)
    return [
        f"nothing is swept, and of {' and '.join(f'{name}={option}' for option in options)} a run takes one; "
        f"several values are one word: {name}={','.join(options)}"
        for name, options in chosen.items()
        if exclusive(options, groups[name])
    ]


def _axis(override: Override, key: str, groups: Mapping[str, Mapping[str, Path]]) -> Axis:
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        low, high = sweep.start, sweep.end
        if low is None or high is None or not low < high:
            raise ValueError(
                f"an empty interval: expected two numbers, the smaller one first; got {low}, {high}"
            )
        log = "log" in sweep.tags
        if log and low <= 0:
            raise ValueError(f"a logarithm wants an interval of positive numbers; it begins at {low}")
        return Axis(key, low=low, high=high, integer=isinstance(low, int) and isinstance(high, int), log=log)
    if isinstance(sweep, Glob):
        if key not in groups:
            raise ValueError(f"glob(...) chooses among the options of a group, and {key} is none")
        names = sweep.filter(sorted(groups[key]))
        if not names:
            raise ValueError(f"no option matches; there are {', '.join(sorted(groups[key]))}")
        return Axis(key, tuple(names), tuple(names))
    values = tuple(_plain(value) for value in override.sweep_iterator())
    words = tuple(str(word) for word in override.sweep_string_iterator())
    if not values:
        raise ValueError("an empty range: it holds no value")
    kept = [index for index, word in enumerate(words) if word not in words[:index]]
    values, words = tuple(values[i] for i in kept), tuple(words[i] for i in kept)
    if isinstance(sweep, RangeSweep) and all(type(value) is int for value in values) and not sweep.shuffle:
        step = abs(int(sweep.step))
        return Axis(key, values, words, low=min(values), high=max(values), step=step)
    return Axis(key, values, words)


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return value


@dataclass
class Planned:
    """A job that is not yet on disk: the job, its configuration, and the name of its experiment."""

    job: Job
    config: DictConfig
    name: str

    def write(self) -> None:
        """Put the job into the sweep's folder; what is there already stays."""
        if not (self.job.folder / "job.yaml").exists():
            self.job.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.job.folder / "config.yaml", OmegaConf.to_yaml(self.config))
            self.job.write()


@dataclass
class Planner:
    """Makes jobs of points; what they share is composed once.

    Args:
        space: what all jobs share, and what each chooses from.
        folder: of the sweep.
    """

    space: Space
    folder: Path
    _memory: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)

    def plan(self, point: Mapping[str, Any], number: int, trial: int | None = None) -> Planned:
        """The job at a point, proven as `rnnlab train` proves a run.

        Raises:
            ConfigError: all that is wrong with it.
        """
        words = self.space.words(point)
        composed = compose(words, config_dir=self.space.config_dir, memory=self._memory)
        plain = _resolved(composed.config)
        if found := out_of_range(plain):
            raise ConfigError(found)
        code = code_version(plain)
        name = job_id(plain, code)
        job = Job(
            self.folder / "jobs" / name,
            name,
            number,
            words,
            dict(point),
            code,
            config_dir=None if self.space.config_dir is None else str(Path(self.space.config_dir).resolve()),
            trial=trial,
        )
        return Planned(job, composed.config, str(plain.get("name") or "run"))

    def plan_all(self, points: Sequence[Mapping[str, Any]]) -> list[Planned]:
        """The jobs at many points, each content once; every fault of any of them is told.

        Raises:
            ConfigError: all that is wrong with any of them, each line once.
        """
        found: dict[str, None] = {}
        jobs: dict[str, Planned] = {}
        for point in points:
            try:
                planned = self.plan(point, len(jobs))
            except ConfigError as error:
                found.update(dict.fromkeys(error.faults))
            else:
                jobs.setdefault(planned.job.id, planned)
        if found:
            raise ConfigError(list(found))
        return list(jobs.values())


def job_id(config: Mapping[str, Any], code: str) -> str:
    """What a job is: digits of its resolved configuration, a dash, and digits of the version of its code."""
    content = {key: value for key, value in config.items() if key not in LEFT_OUT}
    text = json.dumps(content, sort_keys=True, default=str)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:10]}-{code[:6]}"


def of_any_code(job: Job) -> Job:
    """The job of the same configuration that is nearest its end, whatever its code; else the job itself."""
    found = []
    for folder in job.folder.parent.glob(f"{job.id.partition('-')[0]}-*"):
        if "." not in folder.name:
            with contextlib.suppress(ValueError, OSError):
                found.append(read_job(folder))
    ranks = {"finished": 3, "running": 2, "interrupted": 1}
    return max(found, key=lambda one: (ranks.get(one.state, 0), one.status.began or 0.0), default=job)


def corner_points(space: Space) -> list[dict[str, Any]]:
    """A few points that show whether a space can be run at all: each value of each key at least once."""
    options = [axis.values or (axis.low, axis.high) for axis in space.axes]
    longest = max((len(values) for values in options), default=1)
    return [
        {axis.key: values[min(i, len(values) - 1)] for axis, values in zip(space.axes, options, strict=True)}
        for i in range(longest)
    ]


def _resolved(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}

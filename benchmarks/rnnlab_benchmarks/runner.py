"""One runner for every case: correctness first, then interleaved medians."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rnnlab.recurrence import Recurrence
from rnnlab.recurrence.accuracy import Accuracy, Tally, compare
from rnnlab_benchmarks import measure
from rnnlab_benchmarks.cases import SCAN_SHAPES, Case, Shape
from rnnlab_benchmarks.peak import Peak
from rnnlab_benchmarks.subjects import Ours, Problem, Runner, Subject, TorchRunner

OURS = "fused"
PEAK = "peak"
WITHOUT = "outputs without gradients"


@dataclass
class Measured:
    """What came out of one case."""

    case: Case
    times_ms: dict[str, float] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    """Subjects whose results failed the check, with the reason: their times are not published."""
    refused: dict[str, str] = field(default_factory=dict)
    prepare_s: dict[str, float] = field(default_factory=dict)
    """Preparation and first calls: for `scan` and `jax`, mostly their compilers."""
    saved_bytes: dict[str, int] = field(default_factory=dict)
    flops: int = 0
    peak_gflops: float | None = None
    """The machine's peak in the same rounds, by the median."""

    @property
    def share_of_peak(self) -> float | None:
        """Our matrix products' operations a second, as a share of the peak in the same rounds."""
        ours = self.times_ms.get(OURS)
        if ours is None or not self.peak_gflops:
            return None
        return self.flops / (ours * 1e6) / self.peak_gflops

    @property
    def ratios(self) -> dict[str, float]:
        """Each peer's time over ours: above one where we are faster."""
        ours = self.times_ms.get(OURS)
        if ours is None:
            return {}
        return {peer: time_ms / ours for peer, time_ms in self.times_ms.items() if peer != OURS}

    def row(self) -> dict[str, Any]:
        """The case as one JSON object."""
        shape, case = self.case.shape, self.case
        return {
            "cell": case.cell,
            "mode": case.mode,
            **shape._asdict(),
            "dtype": case.dtype,
            "times_ms": {k: round(v, 5) for k, v in self.times_ms.items()},
            "ratios": {k: round(v, 4) for k, v in self.ratios.items()},
        }


def run(
    cases: Iterable[Case],
    subjects: Mapping[str, Subject],
    *,
    budget_s: float = 1.5,
    scan_everywhere: bool = False,
    peak: Peak | None = None,
    started: Callable[[Case], object] = lambda case: None,
) -> Iterator[Measured]:
    """Measure the cases one by one, those of one cell and shape together; `peak` takes turns with them."""
    order: dict[tuple[str, Shape], list[Case]] = {}
    for case in cases:
        order.setdefault((case.cell, case.shape), []).append(case)
    prepared: tuple[tuple[str, Shape], _Prepared] | None = None
    for case in (case for together in order.values() for case in together):
        started(case)
        key = (case.cell, case.shape)
        if prepared is None or prepared[0] != key:
            prepared = None  # free the old problem before the new one is made
            prepared = (key, _prepare(case, subjects, scan_everywhere))
        ready = prepared[1]
        functions: dict[str, Callable[[], Any]] = {
            name: getattr(r, "infer" if case.mode == "inference" else "train")
            for name, r in ready.good.items()
        }
        if functions and peak is not None:
            functions[PEAK] = peak
        times_ms = measure.interleaved(functions, budget_s=budget_s) if functions else {}
        peak_ms = times_ms.pop(PEAK, None)
        result = Measured(
            case,
            times_ms,
            ready.wrong,
            ready.refused,
            ready.prepare_s,
            flops=ready.flops[case.mode],
            peak_gflops=None if peak is None or peak_ms is None else peak.gflops(peak_ms),
        )
        if case.mode == "train":
            for name, runner in ready.good.items():
                if isinstance(runner, TorchRunner):
                    own = (runner._input, *runner.parameters.values())
                    result.saved_bytes[name] = measure.saved_bytes(runner.kept, own)
        yield result


@dataclass
class _Prepared:
    good: dict[str, Runner]
    wrong: dict[str, str]
    refused: dict[str, str]
    prepare_s: dict[str, float]
    flops: dict[str, int]


def _prepare(case: Case, subjects: Mapping[str, Subject], scan_everywhere: bool) -> _Prepared:
    """Prepare every subject for a cell and shape, and leave out those whose numbers are wrong."""
    problem = Problem.of(case)
    eager, exact = _references(problem)
    good: dict[str, Runner] = {}
    wrong: dict[str, str] = {}
    refused: dict[str, str] = {}
    prepare_s: dict[str, float] = {}
    for name, subject in subjects.items():
        reason = subject.refusal(case)
        if reason is None and name == "scan" and not scan_everywhere and case.shape not in SCAN_SHAPES:
            reason = "asked for by --scan only: it compiles for long"
        if reason is not None:
            refused[name] = reason
            continue
        start = time.perf_counter()
        try:
            runner = subject.prepare(problem)
            found = _results(runner)
        except Exception as error:  # who fails must not end the run; it is reported with its reason
            lines = str(error).splitlines() or [""]
            # A backend of ours refuses by a ValueError; anything else from it is a fault.
            told = wrong if name == OURS and not isinstance(error, ValueError) else refused
            told[name] = f"{type(error).__name__}: {lines[0]}"[:200]
            continue
        prepare_s[name] = time.perf_counter() - start
        if name == OURS:
            verdict = _judge(subject, case, found, eager, exact)
        else:  # a peer only has to compute the same thing, in whatever way it likes
            verdict = compare(found, eager, exact, factor=100)
        if verdict.ok:
            good[name] = runner
        else:
            wrong[name] = verdict.worst
    return _Prepared(good, wrong, refused, prepare_s, _flops(problem))


def _results(runner: Runner) -> dict[str, Tensor]:
    """What a runner gives in training, and the outputs of its inference, which has kernels of its own."""
    return runner.results() | {WITHOUT: torch.as_tensor(runner.infer())}


def _references(problem: Problem) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The results of the reference in the case's own dtype, and in float64."""
    eager, exact = Ours("eager").prepare(problem).results(), _exact(problem)
    return eager | {WITHOUT: eager["outputs"]}, exact | {WITHOUT: exact["outputs"]}


def _judge(
    subject: Subject,
    case: Case,
    found: dict[str, Tensor],
    eager: dict[str, Tensor],
    exact: dict[str, Tensor],
) -> Accuracy:
    """Our results under the error rule; over more weights and inputs where one draw leaves a doubt."""
    verdict = compare(found, eager, exact)
    if verdict.ok:
        return verdict
    tally = Tally()
    single = tally.add(found, eager, exact)
    for seed in range(1, 6):
        if not single.ok:
            return single
        problem = Problem.of(case, seed)
        single = tally.add(_results(subject.prepare(problem)), *_references(problem))
    return tally.verdict() if single.ok else single


def _exact(problem: Problem) -> dict[str, Tensor]:
    """The results of the reference in float64."""
    cell = copy.deepcopy(problem.cell).double()
    exact = Problem(problem.case, cell, problem.x.double(), problem.cotangent.double())
    return Ours("eager").prepare(exact).results()


def _flops(problem: Problem) -> dict[str, int]:
    def at(length: int) -> TorchRunner:
        cut = Problem(problem.case, problem.cell, problem.x[:length], problem.cotangent[:length])
        runner = Ours("eager").prepare(cut)
        assert isinstance(runner, TorchRunner)
        return runner

    length = problem.case.shape.T
    return {
        "inference": measure.matmul_flops(lambda steps: at(steps).infer, length),
        "train": measure.matmul_flops(lambda steps: at(steps).train, length),
    }


def lengths_ratio(cell: str, shape: Shape, *, budget_s: float = 2.0, backend: str = OURS) -> dict[str, float]:
    """The time with `lengths` drawn uniformly from 1 to T over that of the padded batch, in either mode."""
    problem = Problem.of(Case(cell, "train", shape))
    layer = Recurrence(problem.cell, backend=backend)
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, shape.T + 1, (shape.B,), generator=generator)
    parameters = dict(problem.cell.named_parameters())
    modes: dict[str, Callable[[], Any]] = {}
    for name, given in (("padded", None), ("uniform", lengths)):
        forward = partial(layer, lengths=given)
        runner = TorchRunner(forward, parameters, problem.x, problem.cotangent)
        modes[f"{name} inference"], modes[f"{name} train"] = runner.infer, runner.train
    times = measure.interleaved(modes, budget_s=budget_s)
    return {
        "inference": times["uniform inference"] / times["padded inference"],
        "train": times["uniform train"] / times["padded train"],
        "tokens": float(lengths.float().mean() / shape.T),
    }

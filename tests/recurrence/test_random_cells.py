"""Random cells, fused against the eager loop: in float64 to rounding, in float32 under the error rule.

`make fuzz` draws thousands. A cell that once failed stays here as a recipe.
"""

import copy
import os
import random

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_cells import RandomCell, Recipe, recipes
from rnnlab_kernels import cpu

from rnnlab.recurrence import Recurrence, accuracy
from rnnlab.recurrence import plan as plans

EXAMPLES = int(os.environ.get("RNNLAB_FUZZ", "60"))
COMPILED = int(os.environ.get("RNNLAB_FUZZ_COMPILED", "308"))
BATCH = 28
"""Cells that one run of the compiler makes; only the first batch is optimised, which takes longer."""

FOUND: list[Recipe] = [
    # A row of one number, normalised: gradients of 300 times the others' size must cancel.
    Recipe(1, (1, 1), ((67, 2, 0, 6),), 0, False),
]
"""Recipes that failed once."""


def case(recipe: Recipe, mode: int) -> tuple[RandomCell, dict[str, object], bool]:
    """A recipe's cell, how to run it, and in which direction."""
    cell = RandomCell(recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    options: dict[str, object] = {}
    if mode & 1:
        options["lengths"] = torch.tensor([4, 1, 3])
    if mode & 2:
        options["resets"] = torch.rand(4, 3, generator=generator) < 0.3
    return cell, options, bool(mode & 4)


def run(cell: RandomCell, backend: str, dtype: torch.dtype, options: dict, reverse: bool) -> dict:
    generator = torch.Generator().manual_seed(cell.recipe.seed + 1)
    x = torch.randn(4, 3, cell.input_size, generator=generator)
    state = tuple(torch.randn(3, w, generator=generator) / 2 for w in cell.recipe.widths)
    layer = Recurrence(copy.deepcopy(cell).to(dtype), reverse=reverse, backend=backend)
    found = accuracy.results(layer, x.to(dtype), tuple(s.to(dtype) for s in state), **options)
    # Cells have different parameters: their gradients count as one, in the norm of each.
    weights = [found.pop(name) for name in list(found) if "weights" in name]
    return found | {"gradient of the parameters": torch.cat([w.flatten() for w in weights])}


def judge(recipe: Recipe, mode: int, tally: accuracy.Tally, *, both: bool = True) -> None:
    """Hold one cell to the rule, and count it."""
    cell, options, reverse = case(recipe, mode)
    exact = run(cell, "eager", torch.float64, options, reverse)
    if both:
        fused = run(cell, "fused", torch.float64, options, reverse)
        for name, value in exact.items():
            torch.testing.assert_close(fused[name], value, rtol=1e-8, atol=1e-10, msg=name)
    eager = run(cell, "eager", torch.float32, options, reverse)
    fused = run(cell, "fused", torch.float32, options, reverse)
    tally.add(fused, eager, exact)
    # One cell's error is a draw of noise, which the mean over all cells judges; this finds what is wrong.
    for name, value in exact.items():
        assert accuracy.error(fused[name], value) < max(1e-4, 8 * accuracy.error(eager[name], value)), name


@pytest.mark.usefixtures("interpreter")
def test_random_cells_as_programs() -> None:
    tally = accuracy.Tally()

    @settings(
        max_examples=EXAMPLES,
        derandomize=EXAMPLES <= 1000,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(recipe=recipes, mode=st.integers(0, 7))
    def search(recipe: Recipe, mode: int) -> None:
        judge(recipe, mode, tally)

    search()
    verdict = tally.verdict()
    assert verdict.ok, verdict.worst


def drawn(count: int, seed: int) -> list[Recipe]:
    """Recipes of a seed, longer ones than those that hypothesis prefers."""
    pick = random.Random(seed)
    return [
        Recipe(
            pick.randint(1, 6),
            tuple(pick.randint(1, 9) for _ in range(pick.randint(1, 3))),
            tuple(tuple(pick.randint(0, 99) for _ in range(4)) for _ in range(pick.randint(4, 16))),
            pick.randint(0, 2**16),
            pick.random() < 0.3,
        )
        for _ in range(count)
    ]


@pytest.mark.skipif(cpu.toolchain.missing() is not None, reason="no C++ compiler")
@pytest.mark.parametrize("seed", range(-(-COMPILED // BATCH)))
def test_random_cells_compiled(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = drawn(min(BATCH, COMPILED), seed)
    programs = [program for i, recipe in enumerate(found) for program in programs_of(recipe, i % 8)]
    programs = list({program.key: program for program in programs}.values())
    # One run of the compiler for all of them takes a fraction of what one for each would.
    kernels = cpu.build_many(programs, torch.float32, optimised=seed == 0)
    for program, kernel in zip(programs, kernels, strict=True):
        monkeypatch.setitem(cpu.launch._kernels, (program.key, torch.float32), kernel)
    tally = accuracy.Tally()
    for i, recipe in enumerate(found):
        judge(recipe, i % 8, tally, both=False)
    verdict = tally.verdict()
    assert verdict.ok, verdict.worst


def programs_of(recipe: Recipe, mode: int) -> list:
    """The Programs, forward and backward, that `judge` will run."""
    cell, options, reverse = case(recipe, mode)
    layer = Recurrence(cell, reverse=reverse)
    x = torch.zeros(4, 3, cell.input_size, requires_grad=True)
    state = tuple(torch.zeros(3, w, requires_grad=True) for w in recipe.widths)
    call = layer.call(x, state, **options)
    plan, values = plans.find(call)
    assert not isinstance(plan, str), plan
    inputs = plan.compiled.inputs(values, x)
    requires = tuple(t.requires_grad for t in inputs)
    restart = call.resets is not None
    entry = plan.entry(requires + (False,) * (1 + len(state)) if restart else requires, restart)
    assert entry.derivative is not None
    return [entry.program, entry.derivative.adjoint]


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("recipe", FOUND)
@pytest.mark.parametrize("mode", range(8))
def test_what_failed_once(recipe: Recipe, mode: int) -> None:
    judge(recipe, mode, accuracy.Tally())

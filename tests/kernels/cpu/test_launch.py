"""Programs on the CPU against their definition: every structure, every option, the same bits each time.

Legend: T time, B batch.
"""

import os
import signal
from dataclasses import replace
from functools import cache

import pytest
import step_programs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rnnlab_kernels import cpu
from rnnlab_kernels.cpu import Kernel, toolchain
from rnnlab_kernels.program import COMPARE, Contraction, Operand, Output, Program, contract, interpret
from torch import Tensor

pytestmark = pytest.mark.skipif(toolchain.missing() is not None, reason=str(toolchain.missing()))

RANDOM = 40
BY_HAND = step_programs.by_hand()


@cache
def kernels(dtype: torch.dtype) -> list[Kernel]:
    """All Programs of these tests, compiled in one run."""
    drawn = [step_programs.at_random(seed) for seed in range(RANDOM)] if dtype == torch.float64 else []
    return cpu.build_many([*BY_HAND, *drawn], dtype)


def options(T: int, B: int, lengths: bool, resets: bool, reverse: bool, seed: int = 1) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "lengths": torch.randint(0, T + 1, (B,), generator=generator) if lengths else None,
        "resets": torch.rand(T, B, generator=generator) < 0.2 if resets else None,
        "reverse": reverse,
    }


def flat(results: tuple[list[Tensor], list[Tensor]]) -> list[Tensor]:
    return [*results[0], *results[1]]


def assert_agrees(kernel: Kernel, T: int, B: int, seed: int, sharing: int, **how) -> None:
    inputs, states = step_programs.tensors(kernel.program, T, B, seed)
    expected = flat(interpret(kernel.program, inputs, states, **how))
    actual = flat(kernel(inputs, states, sharing=sharing, **how))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10, msg=lambda m: f"{m}\n{kernel.program}")


@pytest.mark.parametrize("number", range(len(BY_HAND)))
@pytest.mark.parametrize(("T", "B"), [(1, 1), (5, 13), (17, 2)])
def test_every_structure(number, T, B):
    kernel = kernels(torch.float64)[number]
    torch.set_num_threads(2)
    for case in range(8):
        how = options(T, B, bool(case & 1), bool(case & 2), bool(case & 4))
        assert_agrees(kernel, T, B, 0, sharing=1 + (case + number) % 2, **how)


@settings(max_examples=100, deadline=None)
@given(
    number=st.integers(0, len(BY_HAND) + RANDOM - 1),
    T=st.integers(1, 9),
    B=st.integers(1, 20),
    seed=st.integers(0, 99),
    lengths=st.booleans(),
    resets=st.booleans(),
    reverse=st.booleans(),
    sharing=st.sampled_from((0, 1, 2)),
    threads=st.sampled_from((1, 2)),
)
def test_random_programs(number, T, B, seed, lengths, resets, reverse, sharing, threads):
    torch.set_num_threads(threads)
    how = options(T, B, lengths, resets, reverse, seed)
    assert_agrees(kernels(torch.float64)[number], T, B, seed, sharing, **how)


def summing(program: Program) -> Program:
    """The Program with a total of every vector that it computes or is given, and with half of its outputs."""
    matrices = [item.value for item in program.inputs if item.is_matrix]
    masks = [node.value for node in program.nodes if node.op in COMPARE]
    rows = [value for value in program.widths if value not in matrices + masks]
    totals = tuple(Output(value, f"total{value}", program.widths[value]) for value in rows)
    summing = replace(program, outputs=program.outputs[::2], totals=totals)
    summing.validate()
    return summing


def test_totals_of_every_kind_of_value():
    drawn = [step_programs.at_random(seed) for seed in range(12)]
    found = cpu.build_many([summing(p) for p in [*BY_HAND, *drawn]], torch.float64, optimised=False)
    for number, kernel in enumerate(found):
        for case in range(4):
            torch.set_num_threads(1 + case // 2)
            # More rows than are summed up at once, and fewer; enough for two threads to be worth it, and not.
            T, B = [(3, 70), (9, 5), (7, 200), (5, 300)][case]
            how = options(T, B, bool(case & 1), number % 2 == 1, number % 3 == 1)
            assert_agrees(kernel, T, B, number, sharing=1 + (case + number) % 2, **how)


def test_totals_of_no_rows_are_zero():
    program = summing(step_programs.at_random(0))
    (kernel,) = cpu.build_many([program], torch.float64, optimised=False)
    inputs, states = step_programs.tensors(program, 4, 0)
    outputs, _ = kernel(inputs, states)
    assert [total.tolist() for total in outputs[len(program.outputs) :]] == [
        [0.0] * total.width for total in program.totals
    ]


def test_totals_do_not_pile_up_rounding_errors():
    b = step_programs.Builder()
    x, state = b.input("x", "step", 4), b.state("h", 4)
    b.next[state] = b.op("add", state, x)
    program = replace(b.program(), totals=(Output(x, "sum", 4),))
    (kernel,) = cpu.build_many([program], torch.float32, optimised=False)
    (found,), _ = kernel([torch.full((4000, 50, 4), 0.1)], [torch.zeros(50, 4)])
    # Added up one by one, 200,000 tenths would be off by 1 in 10,000 and more.
    torch.testing.assert_close(found / 20000, torch.ones(4), rtol=1e-5, atol=0)


@pytest.mark.parametrize("number", range(len(BY_HAND)))
def test_float32_errs_at_most_twice_as_much_as_eager(number):
    kernel = kernels(torch.float32)[number]
    inputs, states = step_programs.tensors(kernel.program, 30, 9, dtype=torch.float32)
    exact = flat(interpret(kernel.program, [t.double() for t in inputs], [t.double() for t in states]))
    eager = flat(interpret(kernel.program, inputs, states))
    for actual, reference, true in zip(flat(kernel(inputs, states)), eager, exact, strict=True):
        unit = torch.finfo(torch.float32).eps * true.norm()
        assert (actual - true).norm() <= 2 * (reference - true).norm() + unit


def test_bfloat16_keeps_float32_inside():
    program = BY_HAND[0]
    (kernel,) = cpu.build_many([program], torch.bfloat16)
    inputs, states = step_programs.tensors(program, 12, 5, dtype=torch.bfloat16)
    exact = flat(interpret(program, [t.double() for t in inputs], [t.double() for t in states]))
    for actual, true in zip(flat(kernel(inputs, states)), exact, strict=True):
        assert actual.dtype == torch.bfloat16
        torch.testing.assert_close(actual.double(), true, rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize("number", range(len(BY_HAND)))
def test_same_bits_each_time_and_whatever_the_batch(number):
    kernel = kernels(torch.float32)[number]
    inputs, states = step_programs.tensors(kernel.program, 11, 29, dtype=torch.float32)

    def some(rows: slice) -> tuple[list[Tensor], list[Tensor]]:
        cut = {"step": lambda t: t[:, rows], "sequence": lambda t: t[rows], "call": lambda t: t}
        parts = [cut[item.per](t) for item, t in zip(kernel.program.inputs, inputs, strict=True)]
        return parts, [state[rows] for state in states]

    torch.set_num_threads(2)
    whole = kernel(inputs, states)
    again = kernel(inputs, states)
    assert all(torch.equal(a, b) for a, b in zip(flat(whole), flat(again), strict=True))
    for rows in (slice(0, 1), slice(3, 10), slice(20, 29)):
        part = kernel(*some(rows))
        assert all(torch.equal(a[:, rows], b) for a, b in zip(whole[0], part[0], strict=True))
        assert all(torch.equal(a[rows], b) for a, b in zip(whole[1], part[1], strict=True))


def test_padding_is_never_read_into_a_result():
    kernel = kernels(torch.float64)[0]
    inputs, states = step_programs.tensors(kernel.program, 6, 4)
    lengths = torch.tensor([6, 0, 3, 1])
    expected = flat(kernel(inputs, states, lengths=lengths))
    past = torch.arange(6)[:, None] >= lengths
    poisoned = [inputs[0].masked_fill(past[:, :, None], float("nan")), *inputs[1:]]
    assert all(
        torch.equal(a, b)
        for a, b in zip(flat(kernel(poisoned, states, lengths=lengths)), expected, strict=True)
    )


def test_nan_and_infinity_pass_through():
    kernel = kernels(torch.float64)[0]
    inputs, states = step_programs.tensors(kernel.program, 5, 4)
    inputs[0][1, 1, 0], inputs[0][2, 2, 1] = float("nan"), float("inf")
    expected = flat(interpret(kernel.program, inputs, states))
    for one, other in zip(flat(kernel(inputs, states)), expected, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_tensors_are_read_through_their_strides():
    kernel = kernels(torch.float64)[0]
    inputs, states = step_programs.tensors(kernel.program, 6, 4)
    expected = flat(kernel(inputs, states))
    batch_first = inputs[0].transpose(0, 1).contiguous().transpose(0, 1)
    columns_apart = inputs[3].repeat_interleave(2)[::2]
    turned = inputs[1].T.contiguous().T
    results = kernel([batch_first, turned, inputs[2], columns_apart], [states[0].T.contiguous().T, states[1]])
    assert all(torch.equal(a, b) for a, b in zip(flat(results), expected, strict=True))
    once = [state[:1].expand(4, -1) for state in states]
    for one, other in zip(
        flat(kernel(inputs, [s[:1] for s in states])), flat(kernel(inputs, once)), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0), (0, 0)])
def test_nothing_to_do(T, B):
    for number in (0, 2):
        kernel = kernels(torch.float64)[number]
        inputs, states = step_programs.tensors(kernel.program, T, B)
        outputs, finals = kernel(inputs, states)
        for tensor, output in zip(outputs, kernel.program.outputs, strict=True):
            assert tensor.shape == (T, B, output.width)
        for final, state in zip(finals, states, strict=True):
            assert torch.equal(final, state) if T == 0 else final.shape == state.shape


@settings(max_examples=40, deadline=None)
@given(
    T=st.integers(0, 70),
    B=st.integers(1, 9),
    K=st.sampled_from((1, 5, 16, 33, 100)),
    N=st.sampled_from((1, 7, 64, 150)),
    threads=st.sampled_from((1, 2)),
    dtype=st.sampled_from((torch.float64, torch.bfloat16)),
    some=st.booleans(),
)
def test_contractions(T, B, K, N, threads, dtype, some):
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(T)
    left, right = (torch.randn(B, T, w, generator=generator).to(dtype).transpose(0, 1) for w in (K, N))
    shifted = torch.randn(T + 1, B, N, generator=generator).to(dtype)[:-1]
    place = Operand("output", 0)
    cases: list[tuple[Contraction, Tensor | None, Tensor]] = [
        (Contraction("outer", 0, place, place, transposed=True), left, right),
        (Contraction("outer", 1, place, place, transposed=True), shifted, right),
        (Contraction("outer", 2, place, place), left, right),
        (Contraction("sum", 3, None, place), None, right),
        (Contraction("product", 4, place, place), shifted, right),
        (Contraction("sum", 5, None, place), None, left),
        *((Contraction("product", 6 + n, place, place), right, right) for n in range(9)),
    ]
    rows = (torch.rand(T * B, generator=generator) < 0.5).nonzero().squeeze(1) if some else None
    summed = slice(None) if rows is None else rows

    def valid(tensor: Tensor | None) -> Tensor | None:
        """The rows that are summed up; what stands in the others must not matter."""
        return None if tensor is None else tensor.flatten(0, 1)[summed][:, None].double()

    def spoilt(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or rows is None:
            return tensor
        kept = torch.zeros(T * B, 1, dtype=torch.bool).index_fill_(0, rows, True).view(T, B, 1)
        return torch.where(kept, tensor, float("nan"))

    factors = {id(t): spoilt(t) for t in (left, right, shifted)} | {id(None): None}
    found = cpu.contract_all(
        [c for c, _, _ in cases],
        [factors[id(a)] for _, a, _ in cases],
        [factors[id(b)] for _, _, b in cases],
        rows,
    )
    for (contraction, a, b), result in zip(cases, found, strict=True):
        expected = contract(contraction, valid(a), valid(b))
        tolerance = 1e-10 if dtype == torch.float64 else 0.05
        torch.testing.assert_close(
            result.double(), expected, rtol=tolerance, atol=tolerance * (T * B + 1) ** 0.5
        )


def test_a_forked_child_computes_on_one_thread():
    kernel = kernels(torch.float64)[0]
    torch.set_num_threads(2)
    inputs, states = step_programs.tensors(kernel.program, 60, 30)
    expected = flat(kernel(inputs, states))
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        same = all(torch.equal(a, b) for a, b in zip(flat(kernel(inputs, states)), expected, strict=True))
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_refusals():
    program = BY_HAND[0]
    assert cpu.refusal(program, torch.float32) is None
    assert "float16" in str(cpu.refusal(program, torch.float16))
    without = Program((), program.states, (), (), False)
    assert "step" in str(cpu.refusal(without, torch.float32))


def test_the_listing_is_the_source():
    listing = cpu.source(BY_HAND[0], torch.float32)
    assert "sigmoid" in listing and "rnnlab_program0" in listing

"""Every elementary operation, compiled: right to a few units of its last place, special values as torch."""

import pytest
import torch
from rnnlab_kernels import cpu
from rnnlab_kernels.cpu import toolchain
from rnnlab_kernels.program import BINARY, UNARY, Input, Node, Output, Program, State

pytestmark = pytest.mark.skipif(toolchain.missing() is not None, reason=str(toolchain.missing()))

SPECIAL = [0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan"), 1e-30, -1e-30, 88.0, -88.0, 104.0]
SPECIAL += [-104.0, 3e38, -3e38, 1e-42, 0.5, 2.0, 9.2, -9.2, 700.0, -700.0, 1e-5, -1e-5]
POSITIVE = {"log", "sqrt", "rsqrt"}
UNITS = 4
"""How far a result may be off, in units of its last place."""


def apply(op: str, *operands: torch.Tensor) -> torch.Tensor:
    """One operation on whole tensors [N], as a Program of one step."""
    width = operands[0].numel()
    inputs = tuple(Input(k, f"x{k}", "step", width) for k in range(len(operands)))
    node = Node(op, tuple(range(len(operands))), 10, width)
    program = Program(inputs, (State(5, 5, "h", 1),), (node,), (Output(10, "y", width),))
    program.validate()
    rows = [x.reshape(1, 1, width).contiguous() for x in operands]
    (y,), _ = cpu.run(program, rows, [operands[0].new_zeros(1, 1)])
    return y.flatten()


def points(dtype: torch.dtype) -> torch.Tensor:
    """Values of every magnitude and either sign."""
    generator = torch.Generator().manual_seed(0)
    magnitude = 10 ** (torch.rand(4000, generator=generator, dtype=torch.float64) * 9 - 7)
    sign = torch.where(torch.rand(4000, generator=generator) < 0.5, -1.0, 1.0)
    near = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    return torch.cat([magnitude * sign, near]).to(dtype)


def assert_near(actual: torch.Tensor, exact: torch.Tensor) -> None:
    assert torch.equal(actual.isnan(), exact.isnan())
    finite = exact.abs() < torch.finfo(actual.dtype).max
    assert torch.equal(
        actual[~finite & ~exact.isnan()].sign(), exact[~finite & ~exact.isnan()].sign().to(actual)
    )
    info = torch.finfo(actual.dtype)
    unit = exact[finite].abs().clamp_min(info.tiny) * info.eps
    normal = exact[finite].abs() >= info.tiny  # what is smaller may become zero
    off = ((actual[finite].double() - exact[finite]).abs() / unit)[normal].max()
    assert off <= UNITS, f"{off:.1f} units"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("op", UNARY)
def test_unary(op, dtype):
    x = points(dtype)
    x = x.abs() if op in POSITIVE else x
    x = x.clamp_min(-0.99) if op == "log1p" else x
    if op in ("sin", "cos"):
        x = x[x.abs() < 20]
    if dtype == torch.float32:
        assert_near(apply(op, x), UNARY[op](x.double()))
    else:  # nothing exact is at hand: torch itself is good to about one unit
        assert_near(apply(op, x), UNARY[op](x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("op", UNARY)
def test_special_values(op, dtype):
    x = torch.tensor(SPECIAL, dtype=dtype)
    if op in ("sin", "cos"):
        x = x[~(x.abs() > 1000)]
    expected, actual = UNARY[op](x), apply(op, x)
    assert torch.equal(actual.isnan(), expected.isnan())
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=2e-6, atol=1e-38)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("op", BINARY)
def test_binary_special_values(op, dtype):
    x = torch.tensor(SPECIAL, dtype=dtype)
    a, b = (t.flatten() for t in torch.meshgrid(x, x, indexing="ij"))
    if op == "pow":  # results that overflow are judged above
        keep = ~((a.abs() > 1000) & a.isfinite()) & ~((b.abs() > 1000) & b.isfinite())
        a, b = a[keep], b[keep]
    expected, actual = BINARY[op](a, b), apply(op, a, b)
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=2e-6, atol=1e-38)

"""Programs on the CPU: compiled on first use, then called with tensors.

Legend: T time, B batch.
"""

import ctypes
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache as cache_result
from pathlib import Path
from struct import Struct

import torch
from torch import Tensor

from rnnlab_kernels.cpu import cache, codegen, toolchain
from rnnlab_kernels.cpu.memory import pool
from rnnlab_kernels.cpu.microkernels import micro_kernels
from rnnlab_kernels.program import Program

NAMES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


# A forked child inherits libgomp's pool without its threads, and would wait for them for ever.
os.register_at_fork(after_in_child=_after_fork)


def refusal(program: Program, dtype: torch.dtype) -> str | None:
    """Why this backend cannot run a Program, or None where it can."""
    if dtype not in NAMES:
        return f"the CPU backend computes in float32, float64 and bfloat16, not in {dtype}"
    if not any(item.per == "step" for item in program.inputs):
        return "the CPU backend needs an input that varies with the step"
    return toolchain.missing()


def source(program: Program, dtype: torch.dtype) -> str:
    """The C++ that is generated for a Program."""
    return codegen.generate([program], NAMES[dtype])


def run(
    program: Program,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run a Program over whole sequences: what `rnnlab_kernels.program.interpret` computes, compiled.

    Raises:
        ToolchainError: the Program cannot be compiled here.
    """
    kernel = prepare(program, inputs[program.first_step].dtype)
    return kernel(inputs, states, lengths=lengths, resets=resets, reverse=reverse, inner=program.inner)


def threads() -> int:
    """How many threads a kernel may take."""
    return 1 if _forked else torch.get_num_threads()


def row_by_row(tensor: Tensor, keep: list[Tensor]) -> Tensor:
    """The tensor with the columns of a row side by side, kept alive in `keep`."""
    if tensor.stride()[-1] != 1 and tensor.shape[-1] != 1:
        tensor = tensor.contiguous()
    keep.append(tensor)
    return tensor


def prepare(program: Program, dtype: torch.dtype) -> "Kernel":
    """The compiled Program; compiled once a process, and once a machine where the cache can be written."""
    key = (program.key, dtype)
    kernel = _kernels.get(key)
    if kernel is None:
        kernel = _kernels[key] = build_many([program], dtype)[0]
    return kernel


_kernels: dict[tuple[str, torch.dtype], "Kernel"] = {}


def build_many(programs: Sequence[Program], dtype: torch.dtype, *, optimised: bool = True) -> list["Kernel"]:
    """Compile several Programs in one run of the compiler; not `optimised`, where a run or two is all."""

    def make(path: Path) -> None:
        # The routines take the compiler longer than a Program does: both at once, where they are new too.
        with ThreadPoolExecutor(1) as beside:
            beside.submit(routines, dtype)
            text = codegen.generate(programs, NAMES[dtype])
            toolchain.compile_object(text, path, openmp=False, optimised=optimised)

    # What decides the text stands for it, so that nothing is generated where the cache has the object.
    decides = [*(program.key for program in programs), NAMES[dtype], str(optimised), *_generators()]
    library = cache.load(_key("\0".join(decides)), make)
    shared = routines(dtype)
    return [
        Kernel(program, dtype, _address(library, f"rnnlab_program{number}"), shared)
        for number, program in enumerate(programs)
    ]


def _address(library: ctypes.CDLL, name: str) -> int:
    function = getattr(library, name)
    function.restype = ctypes.c_void_p
    return function()


@cache_result
def routines(dtype: torch.dtype) -> ctypes.CDLL:
    """The routines that all Programs share, for one dtype."""
    real, stored = codegen.STORE_TYPES[NAMES[dtype]]
    core, generator = ((toolchain.HERE / name).read_text() for name in ("core.cpp", "microkernels.py"))

    def make(path: Path) -> None:
        body = core.replace("#include MICRO_KERNELS\n", micro_kernels())
        toolchain.compile_object(f"#define REAL {real}\n#define STORED {stored}\n{body}", path, openmp=True)

    library = cache.load(_key("\0".join((real, stored, core, generator))), make)
    library.rnnlab_run.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.rnnlab_run.restype = ctypes.c_int
    for function in (library.rnnlab_contract, library.rnnlab_column_sums):
        function.argtypes = [ctypes.c_void_p]
        function.restype = ctypes.c_int
    return library


@cache_result
def _generators() -> list[str]:
    """The code that writes a Program's text, as part of what decides it."""
    names = ("program.py", "cpu/codegen.py", "cpu/planner.py", "cpu/schedule.py")
    return [(toolchain.HERE.parent / name).read_text() for name in names]


def _key(text: str) -> str:
    """A digest of all that decides a shared object."""
    found = toolchain.compiler()
    parts = [text, *found.command, found.version, found.target, *found.flags]
    parts += [(toolchain.HERE / name).read_text() for name in toolchain.HEADERS]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class Kernel:
    """A compiled Program. Calling it does what `interpret` does."""

    def __init__(self, program: Program, dtype: torch.dtype, address: int, shared: ctypes.CDLL) -> None:
        self.program, self.dtype = program, dtype
        self.address, self.routines = address, shared
        self.carried = torch.float32 if dtype == torch.bfloat16 else dtype
        # How an input lies in memory: what its strides mean.
        self.kinds = ["matrix" if item.is_matrix else item.per for item in program.inputs]
        self.output_widths = [output.width for output in program.outputs]
        self.widths = [state.width for state in program.states]
        self.total_widths = [total.width for total in program.totals]
        after = {o.value: number for number, o in reversed(list(enumerate(program.outputs)))}
        self.shared = {
            before: after[program.states[state].next]
            for state, before in codegen.shared_outputs(program).items()
        }
        tables = len(program.inputs) + len(program.outputs) + 2 * len(program.states) + len(program.totals)
        self.pack = Struct(f"{7 + 3 * tables}q").pack

    def __call__(
        self,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        reverse: bool = False,
        sharing: int = 0,
        inner: int = 0,
    ) -> tuple[list[Tensor], list[Tensor]]:
        program, dtype, carried = self.program, self.dtype, self.carried
        first, reached = inputs[program.first_step], reverse != program.adjoint
        T, B, _ = first.shape
        keep: list[Tensor] = []
        arguments = [T, B, threads(), reached, 0, 0, sharing]
        if lengths is not None:
            lengths = lengths.to("cpu", torch.int64).contiguous()
            arguments[4] = lengths.data_ptr()
        if resets is not None:
            resets = resets.to(torch.bool).contiguous()
            arguments[5] = resets.data_ptr()
        for tensor, kind in zip(inputs, self.kinds, strict=True):
            if tensor.dtype is not dtype:
                tensor = tensor.to(dtype)
                keep.append(tensor)
            strides = tensor.stride()
            if strides[-1] != 1 and kind != "matrix" and tensor.shape[-1] != 1:
                tensor = tensor.contiguous()
                keep.append(tensor)
                strides = tensor.stride()
            if kind == "call":
                arguments += (tensor.data_ptr(), 0, 0)
            elif kind == "sequence":
                arguments += (tensor.data_ptr(), 0, strides[0])
            else:
                arguments += (tensor.data_ptr(), strides[0], strides[1])
        converted = False
        for state in states:
            if state.dtype is not carried:
                state, converted = state.to(carried), True
            row = row_by_row(state, keep)
            arguments += (row.data_ptr(), 0, row.stride()[0] if row.shape[0] == B else 0)
        if self.shared and lengths is None and resets is None:
            outputs = self._joined_outputs(first, reached, arguments, inner)
        else:
            outputs = []
            shown = len(self.output_widths) - inner
            for number, width in enumerate(self.output_widths):
                tensor = first.new_empty(T, B, width) if number < shown else pool.empty(first, (T, B, width))
                outputs.append(tensor)
                arguments += (tensor.data_ptr(), B * width, width)
        finals = []
        for width in self.widths:
            tensor = first.new_empty(B, width, dtype=carried)
            finals.append(tensor)
            arguments += (tensor.data_ptr(), 0, width)
        for width in self.total_widths:
            total = first.new_empty(width) if B else first.new_zeros(width)
            outputs.append(total)
            arguments += (total.data_ptr(), 0, 0)
        if B and self.routines.rnnlab_run(self.address, self.pack(*arguments)):
            raise MemoryError("the CPU backend found no memory for its buffers")
        if converted:
            finals = [final.to(state.dtype) for final, state in zip(finals, states, strict=True)]
        return outputs, finals

    def _joined_outputs(self, first: Tensor, reached: bool, arguments: list[int], inner: int) -> list[Tensor]:
        """Room for the outputs, where a state before and after a step is one sequence of T + 1."""
        T, B, _ = first.shape
        shown = len(self.output_widths) - inner

        def empty(number: int, steps: int) -> Tensor:
            shape = steps, B, self.output_widths[number]
            return first.new_empty(shape) if number < shown else pool.empty(first, shape)

        whole = {after: empty(min(before, after), T + 1) for before, after in self.shared.items()}
        outputs: list[Tensor] = []
        for number, width in enumerate(self.output_widths):
            step = B * width
            if number in self.shared:
                both = whole[self.shared[number]]
                outputs.append(both[1:] if reached else both[:-1])
                # The kernel stores the other output; what is stored here is the initial state alone.
                arguments += (0, both.data_ptr() + (T * step if reached else 0) * both.itemsize, width)
                continue
            tensor = whole.get(number)
            if tensor is None:
                tensor = empty(number, T)
            else:
                tensor = tensor[:-1] if reached else tensor[1:]
            outputs.append(tensor)
            arguments += (tensor.data_ptr(), step, width)
        return outputs

"""The guide shows what is generated."""

from pathlib import Path

import torch
from rnnlab_kernels.triton import source

from rnnlab import cells
from rnnlab.recurrence.compiler import compile_cell

GUIDE = Path(__file__).parents[3] / "docs" / "kernels.md"


def test_the_listings_of_the_guide_are_those_of_the_generator() -> None:
    compiled = compile_cell(cells.GRUCell(64, 64), torch.zeros(2, 2, 64))
    guide = GUIDE.read_text()
    text = source(compiled.program, torch.bfloat16, "resident")
    assert text[text.index("@triton.jit(do_not_specialize") :].rstrip() in guide
    program = "\n".join(line.split("  #")[0].rstrip() for line in str(compiled.program).splitlines())
    assert program in guide


def test_the_code_of_the_guide_runs() -> None:
    blocks = [block.split("```")[0] for block in GUIDE.read_text().split("```python\n")[1:]]
    exec(compile(next(block for block in blocks if "compile_cell" in block), str(GUIDE), "exec"), {})

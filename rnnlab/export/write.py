"""A checkpoint as files for other programs: the model, and beside it what its numbers mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rnnlab import __version__
from rnnlab.export.agreement import largest_difference
from rnnlab.export.opaque import ExportError, frozen
from rnnlab.export.signature import Signature, signature
from rnnlab.training.archive import dump_safetensors
from rnnlab.training.checkpoint import find_checkpoint, read_checkpoint, task_of
from rnnlab.training.storage import whole_file, write_text_whole

Format = Literal["onnx", "torch", "safetensors"]
SUFFIXES: dict[str, str] = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}


@dataclass(frozen=True)
class Exported:
    """What an export left.

    Attributes:
        file: the model.
        description: the JSON beside it; None for safetensors, which holds all by itself.
        difference: the largest difference of an output on batches of other sizes, as a part of the largest
            output; None where nothing could be run.
        notes: what a user should know.
    """

    file: Path
    description: Path | None
    difference: float | None
    notes: tuple[str, ...] = ()


def export(checkpoint: str, format: Format, output: str | None = None) -> Exported:
    """Export a checkpoint.

    Args:
        checkpoint: a file, or the folder of a run.
        format: `onnx`, `torch` (a program of `torch.export`) or `safetensors`.
        output: the file; the checkpoint's name with another ending, in the working folder, by default.

    Raises:
        FileNotFoundError, ValueError: see `read_checkpoint`; or the model has no form in the format.
        OSError: the file cannot be written; nothing was left behind.
    """
    if format not in SUFFIXES:
        raise ValueError(f"format={format}: expected {', '.join(SUFFIXES)}")
    content = read_checkpoint(checkpoint)
    found = find_checkpoint(checkpoint)
    file = Path(output).expanduser() if output else Path(f"{found.stem}{SUFFIXES[format]}")
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"output={output}: expected a file in a folder that is there")
    if file.resolve() == found.resolve():
        raise ValueError(f"output={file}: would replace the checkpoint that is exported")
    task: Any = task_of(content, found)
    if format == "safetensors":
        with whole_file(file) as stream:
            stream.write(dump_safetensors(content))
        return Exported(file, None, None)
    torch.set_grad_enabled(False)
    try:
        return _program(task, content, format, file)
    finally:
        torch.set_grad_enabled(True)


def _program(task: Any, content: Mapping[str, Any], format: Format, file: Path) -> Exported:
    model = signature(frozen(task))
    about = describe(model, type(task).__name__, content["rnnlab"]["facts"])
    text = json.dumps(about, ensure_ascii=False, indent=1)
    notes: tuple[str, ...] = ()
    difference: float | None
    if format == "onnx":
        from rnnlab.export.onnx_model import onnx_model

        raw = onnx_model(model, {"rnnlab": text}).SerializeToString()
        difference = _onnx_difference(model, raw)
        if difference is None:
            notes = ("not run here: the package onnxruntime is missing (pip install 'rnnlab[onnx]')",)
    else:
        from rnnlab.export.torch_program import dump_program, torch_program

        program = torch_program(model)
        runs = program.module()
        difference = largest_difference(model, lambda inputs: runs(*inputs))
        raw = dump_program(program, {"rnnlab.json": text})
    description = file.with_name(f"{file.name}.json")
    write_text_whole(description, text + "\n")
    with whole_file(file) as stream:
        stream.write(raw)
    return Exported(file, description, difference, notes)


def describe(model: Signature, task: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a program needs to know that runs the model without rnnlab.

    Returns:
        `inputs` and `outputs` with dtypes and shapes, in which names are free sizes, and the `facts` of the
        data: vocabulary, labels, how text becomes numbers.
    """
    inputs = {
        name: {
            "dtype": str(example.dtype).removeprefix("torch."),
            "shape": [model.free[name].get(dim, size) for dim, size in enumerate(example.shape)],
        }
        for name, example in model.inputs.items()
    }
    plain = {key: value.tolist() if isinstance(value, Tensor) else value for key, value in facts.items()}
    return {
        "made_by": f"rnnlab {__version__}",
        "task": task,
        "inputs": inputs,
        "outputs": list(model.outputs),
        "facts": plain,
    }


def _onnx_difference(model: Signature, raw: bytes) -> float | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
        taken = {item.name for item in session.get_inputs()}

        def run(inputs: list[Tensor]) -> list[Tensor]:
            named = {name: value.numpy() for name, value in zip(model.inputs, inputs, strict=True)}
            made = session.run(None, {name: value for name, value in named.items() if name in taken})
            return [torch.from_numpy(array) for array in made]

        return largest_difference(model, run)
    except ExportError:
        raise
    except Exception as error:  # onnxruntime's own kinds of errors are not public
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ExportError(f"onnxruntime cannot run the exported model: {first[:300]}") from error

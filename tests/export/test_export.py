"""Whole tasks exported by the command, and run without rnnlab on batches of other lengths and sizes."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import FACTS, OPTIMIZER, TASK

from rnnlab import cli
from rnnlab.export.agreement import batch
from rnnlab.export.opaque import ExportError, frozen
from rnnlab.export.signature import signature
from rnnlab.export.write import SUFFIXES, Exported, Format, export
from rnnlab.training.checkpoint import describe_model, load_task
from rnnlab.training.targets import build

pytest.importorskip("onnxruntime")

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "export.md"
TEXT = {"vocabulary": ["<pad>", "<unk>", "<eos>", "a", "b", "c"], "tokenizer": "char", "lowercase": False}
FORWARD = {"_target_": "rnnlab.DeepRNN", "_partial_": True, "hidden_size": 4, "num_layers": 2}
WRITES = {"optimizer": OPTIMIZER, "scheduler": None, "embedding_size": 3}
TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sentiment": (
        {**TASK, "model": {**FORWARD, "cell": "lstm", "bidirectional": True}, "pooling": "last"},
        FACTS,
    ),
    "attention over a custom cell": (
        {**TASK, "model": {**FORWARD, "cell": "min_gru", "bidirectional": True}, "pooling": "attention"},
        FACTS,
    ),
    "language model": (
        {
            "_target_": "rnnlab.tasks.LanguageModel",
            "model": {**FORWARD, "cell": "gru"},
            **WRITES,
            "tied": True,
        },
        {**TEXT, "window": 8},
    ),
    "conditional generation": (
        {"_target_": "rnnlab.tasks.ConditionalGeneration", "model": {**FORWARD, "cell": "rnn"}, **WRITES},
        {**TEXT, "labels": ["x", "y"], "max_length": 9},
    ),
}


def checkpoint(name: str, folder: Path) -> Path:
    task, facts = TASKS[name]
    torch.manual_seed(1)
    record = describe_model({"task": task, "seed": 1}, facts)
    torch.save({"state_dict": build(task, **facts).state_dict(), "rnnlab": record}, folder / "best.ckpt")
    return folder / "best.ckpt"


def check_description(file: Path, name: str) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert about["facts"]["vocabulary"] == TASKS[name][1]["vocabulary"]
    assert about["inputs"][next(iter(about["inputs"]))]["shape"] == ["T", "B"]
    return about


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Format], Exported]:
    """A task once exported, in a folder of its own."""

    @functools.cache
    def make(name: str, format: Format) -> Exported:
        folder = tmp_path_factory.mktemp("export")
        source = checkpoint(name, folder)
        return export(str(source), format, str(folder / f"best{SUFFIXES[format]}"))

    return make


@pytest.mark.parametrize("name", TASKS)
def test_onnx_agrees(name: str, made: Callable[[str, Format], Exported]) -> None:
    found = made(name, "onnx")
    assert found.difference is not None and found.difference < 1e-5
    assert found.description is not None
    about = check_description(found.description, name)
    import onnx

    model = onnx.load(found.file)
    kinds = {node.op_type for node in model.graph.node}
    cell = TASKS[name][0]["model"]["cell"]
    assert ({"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}.get(cell, "Scan")) in kinds
    assert json.loads({item.key: item.value for item in model.metadata_props}["rnnlab"]) == about
    assert [item.name for item in model.graph.input] == list(about["inputs"])
    left = sorted(path.name for path in found.file.parent.iterdir())
    assert left == ["best.ckpt", "best.onnx", "best.onnx.json"]


def run_elsewhere(file: Path, inputs: list[torch.Tensor], folder: Path) -> list[torch.Tensor]:
    """What a program gives that has torch and no rnnlab."""
    torch.save(inputs, folder / "inputs.pt")
    code = (
        "import sys, warnings, torch\n"
        "warnings.simplefilter('ignore')\n"
        f"program = torch.export.load({str(file)!r}).module()\n"
        f"made = program(*torch.load({str(folder / 'inputs.pt')!r}))\n"
        f"torch.save(list(made), {str(folder / 'outputs.pt')!r})\n"
        "assert not any(name.split('.')[0] == 'rnnlab' for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
    made: list[torch.Tensor] = torch.load(folder / "outputs.pt")
    return made


@pytest.mark.parametrize(
    "name",
    [
        "attention over a custom cell",
        pytest.param("sentiment", marks=pytest.mark.slow),
        pytest.param("language model", marks=pytest.mark.slow),
        pytest.param("conditional generation", marks=pytest.mark.slow),
    ],
)
def test_a_program_of_torch_agrees_and_needs_no_rnnlab(
    name: str, made: Callable[[str, Format], Exported], tmp_path: Path
) -> None:
    found = made(name, "torch")
    assert found.difference is not None and found.difference < 1e-5
    assert found.description is not None
    check_description(found.description, name)
    model = signature(frozen(load_task(found.file.with_name("best.ckpt"))))
    inputs = batch(model, 7, 2, seed=5)
    with torch.no_grad():
        wanted = model.module(*inputs)
    for ours, theirs in zip(wanted, run_elsewhere(found.file, inputs, tmp_path), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_guide_runs(
    made: Callable[[str, Format], Exported], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 2
    name = "attention over a custom cell"
    for block, file in zip(blocks, (made(name, "onnx").file, made(name, "torch").file), strict=True):
        monkeypatch.chdir(file.parent)
        exec(compile(block, str(GUIDE), "exec"), {})
    assert capsys.readouterr().out.strip() in FACTS["labels"]


def test_safetensors_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("safetensors")
    source = checkpoint("language model", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", f"checkpoint={source}", "format=safetensors"]) == 0
    first, again = load_task(source), load_task(tmp_path / "best.safetensors")
    assert type(first) is type(again)
    weights = again.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.state_dict().items())
    assert cli.main(["sample", "checkpoint=best.safetensors", "a", "length=3", "seed=1"]) == 0
    from safetensors.torch import load_file

    assert set(load_file(tmp_path / "best.safetensors")) == set(first.state_dict())


def test_a_damaged_file_of_weights_is_refused(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    source = checkpoint("language model", tmp_path)
    made = export(str(source), "safetensors", str(tmp_path / "x.safetensors")).file
    raw = made.read_bytes()
    for broken in (raw[:-40], b"", b"\xff" * 64, (2**60).to_bytes(8, "little") + raw[8:]):
        made.write_bytes(broken)
        with pytest.raises(ValueError, match="cannot be read"):
            load_task(made)
    made.write_bytes(safetensors.save({"w": torch.ones(2)}))
    with pytest.raises(ValueError, match="does not say of which model"):
        load_task(made)


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoint("language model", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="format=tflite: expected onnx, torch, safetensors"):
        export(str(source), "tflite")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="would replace the checkpoint"):
        export(str(source), "safetensors", str(source))
    with pytest.raises(ValueError, match="in a folder that is there"):
        export(str(source), "onnx", "nowhere/x.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in [name for name in sys.modules if name.startswith("rnnlab.export.onnx_")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ExportError, match=r"pip install 'rnnlab\[onnx\]'"):
        export(str(source), "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]


def test_a_task_of_unknown_inputs_is_refused() -> None:
    class Other(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return pictures

    with pytest.raises(ExportError, match="Other takes 'pictures'"):
        signature(Other())

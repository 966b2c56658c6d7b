"""Every task agrees once exported, or is refused by name in one line and leaves nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import MODEL, OPTIMIZER

from rnnlab.export.opaque import ExportError
from rnnlab.export.write import Format, export
from rnnlab.training.checkpoint import describe_model
from rnnlab.training.targets import build

pytest.importorskip("onnxruntime")

SYMBOLS = ["<pad>", "<unk>", "<eos>", "a"]
CLASSES = {"labels": ["x", "y"]}
SERIES = {"channels": ["a", "b", "c"], "mean": [0, 1, 2], "std": [1, 2, 1], "max_length": None, "reading": {}}
COLUMNS = {"columns": ["a", "b"], "targets": ["a", "b"], "mean": [0.0, 1.0], "std": [1.0, 2.0]}
WINDOW: dict[str, Any] = {"context": 6, "horizon": 3, "season": None, "reading": {}}
SOUND = {"sample_rate": 8000, "features": {"mels": 4}}
CLIP = {"frame": [1, 8, 8], "moving": None}
SENTENCE = {"lowercase": True, "max_length": 9, "max_characters": 5}
PAIR = {
    "lowercase": True,
    "max_source": 9,
    "max_target": 9,
    "token_name": "word",
    "sequence_name": "sentence",
}
FACTS: dict[str, dict[str, Any]] = {
    "SeriesClassification": {**CLASSES, **SERIES},
    "Forecasting": {**COLUMNS, **WINDOW},
    "Music": {"frames_per_beat": 4.0},
    "Memory": {"problem": "copy", "length": 6, "test_length": 6},
    "SpeechClassification": {**CLASSES, **SOUND},
    "SpeechRecognition": {"alphabet": ["<blank>", "a", "b"], "lowercase": True, **SOUND},
    "VideoClassification": {**CLASSES, **CLIP},
    "Tagging": {"vocabulary": SYMBOLS, "characters": SYMBOLS, **CLASSES, **SENTENCE},
    "Translation": {
        **{f"{side}_vocabulary": SYMBOLS for side in ("source", "target")},
        **{f"{side}_tokenizer": "word" for side in ("source", "target")},
        **PAIR,
    },
}


def checkpoint(name: str, folder: Path, settings: dict[str, Any]) -> str:
    facts, task = FACTS[name], {"_target_": f"rnnlab.tasks.{name}", "model": MODEL, "scheduler": None}
    task.update(optimizer=OPTIMIZER, **settings)
    torch.manual_seed(1)
    record = describe_model({"task": task, "seed": 1}, facts)
    torch.save({"state_dict": build(task, **facts).state_dict(), "rnnlab": record}, folder / "best.ckpt")
    return str(folder / "best.ckpt")


@pytest.mark.parametrize(
    ("name", "format", "settings", "shape"),
    [
        ("SeriesClassification", "onnx", {}, ["T", "B", 3]),
        ("Forecasting", "onnx", {"highway": 2}, [6, "B", 2]),
        ("Forecasting", "onnx", {"apart": True, "pooling": "mean"}, [6, "B", 2]),
        ("Forecasting", "torch", {"normalise": "window"}, [6, "B", 2]),
        ("Music", "onnx", {"embedding_size": 5, "skip": True}, ["T", "B", 88]),
        ("Memory", "onnx", {}, ["T", "B"]),
        ("Memory", "onnx", {"embedding": "learned"}, ["T", "B"]),
        ("SpeechClassification", "onnx", {}, ["T", "B", 4]),
        ("SpeechRecognition", "onnx", {}, ["T", "B", 4]),
        ("VideoClassification", "torch", {}, ["T", "B", 1, 8, 8]),
    ],
)
def test_it_agrees(
    name: str, format: Format, settings: dict[str, Any], shape: list[Any], tmp_path: Path
) -> None:
    made = export(checkpoint(name, tmp_path, settings), format, str(tmp_path / "made"))
    assert made.difference is not None and made.difference < 1e-5
    assert made.description is not None
    inputs = json.loads(made.description.read_text(encoding="utf-8"))["inputs"]
    assert next(iter(inputs.values()))["shape"] == shape


@pytest.mark.parametrize(
    ("name", "format", "settings", "told"),
    [
        ("Tagging", "onnx", {}, "Tagging takes 'batch'.*format=safetensors keeps its weights"),
        ("Translation", "torch", {}, "Translation takes 'batch'.*format=safetensors keeps its weights"),
        ("VideoClassification", "onnx", {}, "max_pool2d.*format=torch takes any operator"),
        ("Forecasting", "onnx", {"normalise": "window"}, "aten.var.*format=torch takes any operator"),
    ],
)
def test_it_is_refused_in_one_line(
    name: str, format: Format, settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    source = checkpoint(name, tmp_path, settings)
    with pytest.raises(ExportError, match=told) as refusal:
        export(source, format, str(tmp_path / "made"))
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]

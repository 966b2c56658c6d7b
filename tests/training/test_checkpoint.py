"""Checkpoints rebuild the model; files of other kinds are refused in one sentence."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from rnnlab.training.checkpoint import describe_model, find_checkpoint, load_task, read_checkpoint
from rnnlab.training.predict import predict_records
from rnnlab.training.run import RunResult


def test_a_checkpoint_loads_without_pickled_code_and_rebuilds_the_task(run: RunResult) -> None:
    assert run.checkpoint is not None
    content = torch.load(run.checkpoint, weights_only=True)
    assert set(content["rnnlab"]) == {"format", "config", "facts"}
    task = load_task(run.checkpoint)
    assert not task.training
    expected = run.task.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in task.state_dict().items())


def test_a_folder_stands_for_its_best_checkpoint(run: RunResult) -> None:
    assert find_checkpoint(run.folder) == run.folder / "checkpoints" / "best.ckpt"
    assert find_checkpoint(run.folder / "checkpoints") == run.folder / "checkpoints" / "best.ckpt"


def test_predictions_come_in_order_whatever_the_batch(run: RunResult) -> None:
    texts = ["a fine and lovely film", "a dull and empty film", "a warm and clever film"]
    one = predict_records(str(run.folder), texts, batch_size=1)
    all_at_once = predict_records(str(run.folder), texts)
    assert [record["label"] for record in one] == ["good", "bad", "good"]
    for left, right in zip(one, all_at_once, strict=True):
        assert left["probability"] == pytest.approx(right["probability"], abs=1e-6)


def test_a_device_that_is_not_there_is_refused(run: RunResult) -> None:
    with pytest.raises(ValueError, match="device=abacus: cannot be used here"):
        predict_records(str(run.folder), ["a film"], device="abacus")


def broken(run: RunResult, kind: str, file: Path) -> None:
    """Write a file that is no checkpoint of ours."""
    assert run.checkpoint is not None
    content: Any = torch.load(run.checkpoint, weights_only=True)
    if kind == "text":
        file.write_text("hello", encoding="utf-8")
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "cut":
        file.write_bytes(run.checkpoint.read_bytes()[:5000])
    elif kind == "pickle":
        file.write_bytes(pickle.dumps(Path("x")))
    elif kind == "code":
        torch.save({"state_dict": {}, "rnnlab": Path("x")}, file)
    elif kind == "other program":
        torch.save({"state_dict": {"weight": torch.ones(1)}, "epoch": 3}, file)
    elif kind == "tensor":
        torch.save(torch.ones(3), file)
    elif kind == "newer":
        torch.save(content | {"rnnlab": content["rnnlab"] | {"format": 99}}, file)
    elif kind == "other weights":
        torch.save(content | {"state_dict": {"weight": torch.ones(1)}}, file)
    elif kind == "unknown target":
        content["rnnlab"]["config"]["task"]["_target_"] = "rnnlab.tasks.Nothing"
        torch.save(content, file)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("text", "cannot be read"),
        ("empty", "cannot be read"),
        ("cut", "cannot be read"),
        ("pickle", "cannot be read"),
        ("code", "cannot be read"),
        ("other program", "a checkpoint of another program"),
        ("tensor", "a checkpoint of another program"),
        ("newer", "format 99, this rnnlab reads 1"),
        ("other weights", "its weights do not fit its own model"),
        ("unknown target", "its model cannot be built here"),
    ],
)
def test_what_is_no_checkpoint_of_ours_is_refused(
    kind: str, part: str, run: RunResult, tmp_path: Path
) -> None:
    file = tmp_path / "x.ckpt"
    broken(run, kind, file)
    with pytest.raises(ValueError, match=part) as caught:
        load_task(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(FileNotFoundError, match="no checkpoint in this folder"):
        read_checkpoint(tmp_path)


def test_only_plain_containers_go_into_a_checkpoint() -> None:
    assert describe_model({"a": [1, None]}, {"words": ["x"], "mean": torch.ones(2)})["format"] == 1
    with pytest.raises(TypeError, match=r"rnnlab\.facts\.where\[1\] is a PosixPath"):
        describe_model({}, {"where": ["x", Path("y")]})
    with pytest.raises(TypeError, match="is a tuple, not text or a number"):
        describe_model({}, {"pairs": {(1, 2): 3}})

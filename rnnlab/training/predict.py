"""What a checkpoint says of new inputs."""

from collections.abc import Sequence
from typing import Any

import torch

from rnnlab.training.checkpoint import load_task

DEVICES = ("cpu", "cuda", "mps", "xpu")


def check_device(device: str) -> None:
    """Raise ValueError unless tensors can be put on this device."""
    kind, _, number = device.partition(":")
    if kind not in DEVICES or (number and not number.isdigit()):
        raise ValueError(f"device={device}: cannot be used here; there are {', '.join(DEVICES)}, and cuda:1")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={device}: cannot be used here, there is no such device; device=cpu always can"
        ) from error


def predict_records(
    checkpoint: str,
    inputs: Sequence[str],
    *,
    device: str = "cpu",
    batch_size: int = 256,
    picture: str | None = None,
) -> list[dict[str, Any]]:
    """One record an input, in order.

    Args:
        checkpoint: a file, or the folder of a run.
        inputs: texts, or whatever the task reads from a word of the command line.
        device: where the model runs, such as `cpu` or `cuda:1`.
        batch_size: inputs at a time.
        picture: a file to draw the first input in, for a task that has `draw(text, file)`.

    Raises:
        FileNotFoundError, ValueError: see `load_task`; or no such device; or the task draws nothing.
    """
    check_device(device)
    task: Any = load_task(checkpoint, device)
    if picture is not None and not hasattr(task, "draw"):
        raise ValueError(
            f"picture={picture}: a {type(task).__name__} draws nothing; a Translation with attention does"
        )
    records: list[dict[str, Any]] = []
    with torch.inference_mode():
        for start in range(0, len(inputs), batch_size):
            records += task.predict_records(list(inputs[start : start + batch_size]))
        if picture is not None:
            task.draw(inputs[0], picture)
    return records

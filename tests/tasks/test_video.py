"""A network over frames tells what no single frame shows."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from rnnlab import DeepRNN, cli
from rnnlab.experiments.compose import compose
from rnnlab.nn.frames import FrameEncoder
from rnnlab.tasks import VideoClassification
from rnnlab.training.run import train

QUICK = ["trainer.accelerator=cpu", "threads=1", "logger=none", "callbacks=checkpoint", "examples=2"]


def make_task(**options) -> VideoClassification:
    torch.manual_seed(0)
    return VideoClassification(
        **{
            "labels": ["x", "y"],
            "frame": [1, 8, 8],
            "moving": None,
            "model": partial(DeepRNN, "gru", hidden_size=8),
            "optimizer": partial(torch.optim.AdamW, lr=0.01),
            "channels": [4],
            "features": 8,
            **options,
        }
    )


def test_the_direction_is_learned_predicted_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    words = ["experiment=moving_digits", "data.moving.target=direction", "data.moving.clips=256", *QUICK]
    words += ["data.moving.eval_clips=64", "data.moving.hidden=0.0", "data.moving.noise=0.0"]
    words += ["data.moving.size=14", "data.moving.least=4", "data.moving.most=6", "task.features=24"]
    words += ["model.hidden_size=24", "task.channels=[4,8]", "optim.lr=0.01", "trainer.max_epochs=5"]
    words += ["cell=gru", f"run_dir={tmp_path / 'run'}"]
    result = train(compose(words).config)
    assert result.metrics["test/accuracy"] > 0.25  # one in eight is chance
    assert set(result.examples[0]) == {"clip", "truth", "predicted", "confidence"}

    assert cli.main(["predict", f"checkpoint={result.folder}", "json=true", "moving_digits:1"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["label"] == result.examples[0]["predicted"]
    assert cli.main(["predict", f"checkpoint={result.folder}", "moving_digits:65"]) == 2
    assert "moving_digits:1 to moving_digits:64" in capsys.readouterr().err

    result.task.draw_pictures(result.datamodule, tmp_path)
    from matplotlib.image import imread

    assert min(imread(tmp_path / "clips.png").shape[:2]) > 300


def test_files_are_learned_and_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar that falls is no bar that rises, though both show the same frames."""
    for split in ("train", "valid", "test"):
        for label in ("down", "up"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(8):
                clip = np.zeros((6, 8, 8, 3), dtype=np.uint8)
                for frame in range(6):
                    clip[frame, frame if label == "down" else 6 - frame, :, number % 3] = 255
                np.save(tmp_path / split / label / f"{number}.npy", clip)
    words = [
        "data=clips",
        f"data.source={tmp_path}",
        "task=video_classification",
        *QUICK,
        "data.batch_size=4",
    ]
    words += ["model.hidden_size=12", "model.num_layers=1", "model.bidirectional=false", "task.channels=[4]"]
    words += ["task.features=12", "optim.lr=0.01", "trainer.max_epochs=10", f"run_dir={tmp_path / 'run'}"]
    result = train(compose(words).config)
    assert result.metrics["test/accuracy"] == 1.0
    file = tmp_path / "test" / "up" / "3.npy"
    assert cli.main(["predict", f"checkpoint={result.folder}", "json=true", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "up"
    np.save(tmp_path / "small.npy", np.zeros((3, 4, 4)))
    for word, told in [
        ("small.npy", r"frames of [1, 4, 4] (channels, height, width); the model reads [3, 8, 8]"),
        ("absent.npy", "there is no such file"),
    ]:
        assert cli.main(["predict", f"checkpoint={result.folder}", str(tmp_path / word)]) == 2
        assert told in capsys.readouterr().err
    assert cli.main(["predict", f"checkpoint={result.folder}", "moving_digits:1"]) == 2
    assert "this model has learned from files" in capsys.readouterr().err


def test_padding_changes_neither_scores_nor_gradients() -> None:
    task = make_task().double()
    clips = torch.randn(5, 2, 1, 8, 8, dtype=torch.float64)
    clips[3:, 1] = 7.0  # past its end a clip may hold anything

    def gradients(scores: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(scores[:, 0].square().sum(), list(task.parameters())))

    together = task(clips, torch.tensor([5, 3]))
    alone = torch.cat([task(clips[:, :1], torch.tensor([5])), task(clips[:3, 1:], torch.tensor([3]))])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(gradients(together), gradients(alone))


def test_frames_are_read_one_by_one() -> None:
    encoder = FrameEncoder([3, 9, 7], channels=[4, 5], features=6)
    frames = torch.randn(2, 3, 3, 9, 7)
    found = encoder(frames)
    assert found.shape == (2, 3, 6)
    torch.testing.assert_close(found[1, 2], encoder(frames[1, 2:3])[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": [2, 2, 2, 2]}, r"4 convolutions halve frames of \[1, 8, 8\] to nothing"),
        ({"features": 0}, "are at least 1"),
        ({"pooling": "sum"}, "pooling 'sum' is not known"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(**options)

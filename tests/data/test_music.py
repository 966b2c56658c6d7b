import json
from pathlib import Path

import pytest
import torch

from rnnlab.data.music import DrawnRolls, MusicData, Rolls
from rnnlab.data.piano_rolls import KEYS


def piece(frames: int, key: int = 40) -> torch.Tensor:
    """A scale: key, key + 1, ... a frame each."""
    return torch.eye(KEYS, dtype=torch.bool)[(key + torch.arange(frames)) % KEYS]


def test_a_batch_feeds_a_silent_frame_and_asks_for_all() -> None:
    rolls = Rolls([piece(3), piece(5, 10)])
    batch = rolls[[0, 1]]
    assert batch.inputs.shape == batch.targets.shape == (5, 2, KEYS)
    assert batch.inputs.is_contiguous() and batch.targets.is_contiguous()
    assert not batch.inputs[0].any()
    assert torch.equal(batch.targets[:, 1], piece(5, 10).float())
    assert torch.equal(batch.inputs[1:, 1], piece(5, 10)[:-1].float())
    assert torch.equal(batch.targets[:3, 0], piece(3).float())
    assert not batch.targets[3:, 0].any() and not batch.inputs[3:, 0].any()


def test_parts_are_in_time_and_transposed_whole() -> None:
    drawn = DrawnRolls(Rolls([piece(30), piece(7, 3)]), window=10, transpose=5, seed=0)
    assert drawn.lengths.tolist() == [10, 10, 10, 7]
    starts, shifts = set(), set()
    for epoch in range(40):
        batch = drawn[epoch, [0, 1, 2, 3]]
        assert torch.equal(batch.targets.sum(2).T, (torch.arange(10) < batch.lengths[:, None]).float())
        assert torch.equal(batch.inputs[1:, :3], batch.targets[:-1, :3])
        # A scale stays a scale: each key is one above that before it.
        keys = batch.targets[:, :3].argmax(2)
        assert (keys.diff(dim=0) == 1).all()
        starts.add(int(keys[0, 0]))
        shifts.add(int(batch.targets[0, 3].argmax()) - 3)
        assert not batch.inputs[0, 3].any()
    assert shifts == set(range(-3, 6))  # no key leaves the piano below
    assert len(starts) > 8


def test_whole_pieces_untransposed_are_as_they_are() -> None:
    rolls = Rolls([piece(6), piece(4)])
    drawn = DrawnRolls(rolls, window=None, transpose=0, seed=0)
    for epoch in range(3):
        assert torch.equal(drawn[epoch, [1, 0]].targets, rolls[[1, 0]].targets)


def test_a_file_without_splits_is_shared_out(tmp_path: Path) -> None:
    pieces = [[[60 + n % 12], [60 + n // 12], [62]] for n in range(60)]
    (tmp_path / "a.json").write_text(json.dumps(pieces))
    data = MusicData(str(tmp_path / "a.json"), validation=0.2, test=0.2)
    data.setup()
    told = data.summary()
    assert sum(told["pieces"].values()) == 60
    assert all(told["pieces"].values())
    assert told["keys"] == "MIDI 60 to 71, 1.0 at a time"
    assert next(iter(data.train_dataloader())).inputs.shape[2] == KEYS
    assert data.facts() == {"frames_per_beat": 2.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": [[[60]]], "valid": [[[60], [61]]], "test": []}, "no piece falls into the test split"),
        ({"train": [[[60]]], "valid": [[[60]]], "test": [[[60]]]}, "no piece of two frames"),
    ],
)
def test_too_little_music_is_refused(tmp_path: Path, content: dict, message: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        MusicData(str(tmp_path / "a.json"), test=0.0).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window is at least 2"),
        ({"transpose": 44}, "transpose is from 0 to 43"),
        ({"frames_per_beat": 0.0}, "frames_per_beat is above 0"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MusicData("a.json", **options)

"""Generated clips are what they say, and clips in files are read or refused by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data import VideoData
from rnnlab.data.video import DIRECTIONS, MovingClips, MovingDigits, read_clip

pytest.importorskip("sklearn")


@given(seed=st.integers(0, 10**6), frames=st.integers(2, 9), size=st.integers(16, 24))
def test_a_digit_moves_one_pixel_a_frame_in_the_direction_of_its_label(
    seed: int, frames: int, size: int
) -> None:
    moving = MovingDigits(size=size, most=9)
    clip, label = moving.draw("train", frames, torch.Generator().manual_seed(seed), clean=True)
    assert clip.shape == (frames, 1, size, size)
    digit, _, direction = label.partition(" ")
    rows, columns = DIRECTIONS[direction]
    for before, after in zip(clip[:-1, 0], clip[1:, 0], strict=True):
        # No pixel of the digit ever leaves the frame, so that nothing comes round the other side.
        assert torch.equal(before.roll((rows, columns), (0, 1)), after)
        assert before.sum() == pytest.approx(float(clip[0].sum()))
    assert label in moving.labels
    assert MovingDigits(target="digit").labels.index(digit) == int(digit)


def test_no_digit_is_in_two_splits() -> None:
    from rnnlab.data.video import _digits

    _, digits, rows = _digits()
    assert sorted(row for part in rows.values() for row in part) == list(range(len(digits)))
    assert all(set(digits[part].tolist()) == set(range(10)) for part in rows.values())


def test_training_changes_with_epoch_and_seed_and_the_test_never() -> None:
    moving = MovingDigits(clips=50, eval_clips=50)
    train, again, other = (MovingClips(moving, "train", seed) for seed in (1, 1, 2))
    batch = train[3, [4, 9]]
    assert torch.equal(batch.inputs, again[3, [4, 9]].inputs)
    length = int(batch.lengths[1])
    assert torch.equal(batch.inputs[:length, 1], train[3, [9]].inputs[:, 0])
    assert not torch.equal(train[4, [9]].inputs, train[3, [9]].inputs)
    assert [other.clip(row)[1] for row in range(50)] != [train.clip(row)[1] for row in range(50)]
    first, second = (MovingClips(moving, "test", seed) for seed in (1, 2))
    assert torch.equal(first[0, [7]].inputs, second[5, [7]].inputs)


def test_what_is_asked_of_moving_digits() -> None:
    for target, count in (("digit", 10), ("direction", 8), ("both", 80)):
        data = VideoData(moving=MovingDigits(target=target, clips=200, eval_clips=100))
        data.setup()
        assert len(data.facts()["labels"]) == count
        # Guessing is as good as the number of classes says, give or take what is drawn.
        assert data.summary()["accuracy_of_the_most_frequent_label"] < 4 / count
        batch = next(iter(data.train_dataloader()))
        assert batch.inputs.shape == (int(batch.lengths.max()), 32, 1, 20, 20)
        assert int(batch.lengths.min()) >= 6


def write_clips(folder: Path, count: int = 4, shape: tuple[int, ...] = (5, 6, 7)) -> None:
    generator = np.random.default_rng(0)
    for label in ("walk", "run"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            clip = generator.integers(0, 256, (shape[0] + number % 2, *shape[1:]), dtype=np.uint8)
            np.save(folder / label / f"{number}.npy", clip)


def test_folders_of_clips(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_clips(tmp_path / split)
    data = VideoData(str(tmp_path), batch_size=3)
    data.setup()
    assert data.facts() == {"labels": ["run", "walk"], "frame": [1, 6, 7], "moving": None}
    assert data.summary()["clips"] == {"train": 8, "validation": 8, "test": 8}
    batch = next(iter(data.val_dataloader()))
    assert 0.0 <= float(batch.inputs.min()) < float(batch.inputs.max()) <= 1.0
    (name, clip, label), *_ = data.examples("test", 2)
    assert torch.equal(clip, read_clip(name).float() / 255)
    assert label == Path(name).parent.name
    other = VideoData(str(tmp_path / "train"), validation=0.3, test=0.3)
    other.adopt({"labels": ["walk", "run"], "frame": [1, 6, 7], "moving": None})
    other.setup()
    assert other.facts()["labels"] == ["walk", "run"]


def test_colour_comes_before_height_and_width(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((4, 5, 6, 3))
    np.save(tmp_path / "a.npy", array)
    clip = read_clip(tmp_path / "a.npy")
    assert (clip.shape, clip.dtype) == ((4, 3, 5, 6), torch.float32)
    assert clip[1, 2, 3, 4] == pytest.approx(array[1, 3, 4, 2])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4)), r"a clip is an array \[T, H, W\] or \[T, H, W, C\] of numbers; got \[3, 4\]"),
        (np.zeros((0, 4, 4)), "the clip is empty"),
        (np.array([[["a"]]]), "of numbers; got"),
        (np.full((2, 2, 2), np.nan), "there is a NaN or an infinity"),
        (np.array([{}], dtype=object), "not an array that numpy.load reads"),
    ],
)
def test_what_is_no_clip_is_refused_by_name(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message) as caught:
        read_clip(tmp_path / "a.npy")
    assert str(caught.value).startswith(str(tmp_path / "a.npy"))


def test_mistakes_in_a_folder_are_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder; moving_digits is generated"):
        VideoData(str(tmp_path / "absent")).setup()
    with pytest.raises(ValueError, match="no clip for training"):
        VideoData(str(tmp_path)).setup()
    write_clips(tmp_path, count=20)
    np.save(tmp_path / "run" / "odd.npy", np.zeros((3, 9, 9)))
    with pytest.raises(ValueError, match=r"frames of \[1, .* where others have"):
        VideoData(str(tmp_path), validation=0.3, test=0.3).setup()
    (tmp_path / "run" / "odd.npy").write_text("text")
    with pytest.raises(ValueError, match=r"odd.npy: not an array"):
        VideoData(str(tmp_path), validation=0.3, test=0.3).setup()
    with pytest.raises(ValueError, match="no clip falls into the validation split"):
        VideoData(str(tmp_path), validation=0.0).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "speed"}, "target is 'digit', 'direction' or 'both'"),
        ({"least": 5, "most": 4}, "not above most; got 5 and 4"),
        ({"size": 15}, "size=15: a digit of 8 pixels that moves for 12 frames needs 19"),
        ({"hidden": 1.0}, "hidden lies in"),
        ({"clips": 0}, "clips and eval_clips are at least 1"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MovingDigits(**options)

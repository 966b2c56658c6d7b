"""Piano rolls from files as the wild has them."""

import json
from pathlib import Path

import pytest
import torch

from rnnlab.data.piano_rolls import KEYS, find_pieces, read_rolls, write_midi


def write(folder: Path, content: object, name: str = "rolls.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_json_of_midi_numbers_with_rests(tmp_path: Path) -> None:
    path = write(tmp_path, {"train": [[[60, 64.0], [], [-1, 108]]], "valid": [[[21]]], "test": [[[None]]]})
    pieces = read_rolls(path)
    assert {split: len(found) for split, found in pieces.items()} == {"train": 1, "validation": 1, "test": 1}
    assert pieces["train"][0].nonzero().tolist() == [[0, 39], [0, 43], [2, 87]]
    assert not pieces["test"][0].any()
    alone = read_rolls(write(tmp_path, [[[60]], [[61], [62]]]))
    assert [len(piece) for piece in alone["train"]] == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"train": [[[60],]]}', "line 1: not valid JSON"),
        ({"dev2": []}, "'dev2' is no split"),
        ({"train": []}, "there is no piece in it"),
        ({"train": 5}, "train: expected a list of pieces, got int"),
        ({"train": [[[60]], []]}, r"train, piece 2: expected a list of frames, got \[\]"),
        ({"test": [[[60], 61]]}, "test, piece 1, frame 2: expected a list of MIDI numbers, got 61"),
        ({"test": [[[60], [61, "C"]]]}, "test, piece 1, frame 2: 'C' is no MIDI number"),
        ([[[60.5]]], "piece 1, frame 1: 60.5 is no MIDI number"),
        ([[[20]]], r"piece 1, frame 1: MIDI number 20 is not on a piano \(21 to 108\)"),
        ([[[True]]], "piece 1, frame 1: True is no MIDI number"),
    ],
)
def test_what_is_no_piano_roll_is_named(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_rolls(write(tmp_path, content))


def test_mat_files_are_those_of_the_published_sets(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    import numpy as np

    def cells(*rolls: np.ndarray) -> np.ndarray:
        found = np.empty((1, len(rolls)), dtype=object)
        for place, roll in enumerate(rolls):
            found[0, place] = roll
        return found

    roll = np.zeros((5, KEYS), dtype=np.uint8)
    roll[2, 39] = 1
    path = tmp_path / "set.mat"
    scipy_io.savemat(
        path, {"traindata": cells(roll, roll[:3]), "validdata": cells(roll), "testdata": cells(roll)}
    )
    pieces = read_rolls(path)
    assert [len(piece) for piece in pieces["train"]] == [5, 3]
    assert pieces["test"][0].nonzero().tolist() == [[2, 39]]
    scipy_io.savemat(path, {"traindata": cells(roll, roll[:, :87])})
    with pytest.raises(ValueError, match=r"traindata, piece 2: expected frames of 88 keys, got \(5, 87\)"):
        read_rolls(path)
    scipy_io.savemat(path, {"traindata": cells(roll * 3)})
    with pytest.raises(ValueError, match=r"traindata, piece 1: expected 0 and 1 alone, got 3"):
        read_rolls(path)
    scipy_io.savemat(path, {"x": roll})
    with pytest.raises(ValueError, match="none of traindata, validdata and testdata in it, but x"):
        read_rolls(path)
    write(tmp_path, "no matrix at all", "set.mat")
    with pytest.raises(ValueError, match="SciPy cannot read it"):
        read_rolls(path)


def test_pieces_are_found_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, {"train": [[[60]], [[61]]], "test": [[[62]], [[63]], [[64]]]})
    assert [name for name, _ in find_pieces(str(path))] == [f"{path}:test:{n}" for n in (1, 2, 3)]
    assert find_pieces(f"{path}:train:2")[0][1].nonzero().tolist() == [[0, 40]]
    assert find_pieces(f"{path}:3")[0][0] == f"{path}:test:3"
    with pytest.raises(ValueError, match="there is no piece number 4; the test split has 1 to 3"):
        find_pieces(f"{path}:4")
    with pytest.raises(ValueError, match="has no split 'valid', but train, test"):
        find_pieces(f"{path}:valid:1")
    with pytest.raises(ValueError, match="there is no such file"):
        find_pieces("nowhere.json")
    with pytest.raises(ValueError, match="ends neither in"):
        read_rolls(write(tmp_path, "x", "rolls.txt"))


def test_midi_holds_keys_over_frames(tmp_path: Path) -> None:
    mido = pytest.importorskip("mido")
    roll = torch.zeros(4, KEYS)
    roll[0:3, 39] = 1  # C4 for three frames
    roll[1, 43] = 1  # E4 for one
    roll[3, 39] = 0
    write_midi(tmp_path / "song.mid", roll, bpm=120, frames_per_beat=2)
    file = mido.MidiFile(tmp_path / "song.mid")
    notes, now = [], 0.0
    for message in file:
        now += message.time
        if message.type.startswith("note"):
            notes.append((round(now, 3), message.type, message.note))
    assert notes == [
        (0.0, "note_on", 60),
        (0.25, "note_on", 64),
        (0.5, "note_off", 64),
        (0.75, "note_off", 60),
    ]
    with pytest.raises(ValueError, match="are above 0; got 0 and 2"):
        write_midi(tmp_path / "song.mid", roll, bpm=0, frames_per_beat=2)


@pytest.mark.usefixtures("local_data")
@pytest.mark.parametrize(
    ("name", "pieces", "frames"),
    [("JSB_Chorales", (229, 76, 77), 4725), ("Nottingham", (694, 173, 170), None)],
)
def test_the_published_sets(local_data: Path, name: str, pieces: tuple, frames: int | None) -> None:
    pytest.importorskip("scipy")
    if not (local_data / f"{name}.mat").exists():
        pytest.skip(f"{name}.mat is not there")
    found = read_rolls(local_data / f"{name}.mat")
    assert tuple(len(found[split]) for split in ("train", "validation", "test")) == pieces
    assert frames is None or sum(map(len, found["test"])) == frames

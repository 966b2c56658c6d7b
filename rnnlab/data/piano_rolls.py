"""Piano rolls: which of a piano's 88 keys sound in each frame, from `.mat` and JSON files.

Legend: `T` frames.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnlab.data.readers import read_text
from rnnlab.data.splits import SPLIT_NAMES, Split
from rnnlab.data.unpack import check_matlab

KEYS = 88
# The MIDI number of the lowest key, A0.
LOWEST = 21
# What files write for a rest where a pitch is expected.
RESTS = (-1, 0)

Pieces = dict[Split, list[Tensor]]

# What SciPy raises over a file that is damaged, or of another format.
_UNREADABLE = (ValueError, TypeError, OSError, EOFError, LookupError, NotImplementedError, zlib.error)


def read_rolls(path: Path) -> Pieces:
    """Read pieces as boolean rolls `[T, 88]`, by split; all are "train" where a file has no splits.

    A `.mat` file has `traindata`, `validdata` and `testdata` as Boulanger-Lewandowski's sets come: cells of
    `[T, 88]` of 0 and 1. A `.json` file holds `{"train": pieces, "valid": pieces, "test": pieces}`, or pieces
    alone; a piece is a list of frames, a frame a list of MIDI numbers from 21 to 108 (-1 or null is a rest).

    Raises:
        ValueError: the file cannot be read, or a piece is no piano roll; file, split, piece and frame are
            named.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; piano rolls are read from .mat and .json files")
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [".mat"]:
        pieces = _read_mat(path)
    elif ".json" in suffixes:
        pieces = _read_json(path)
    else:
        raise ValueError(f"{path}: the format is chosen by the name, which ends neither in .mat nor .json")
    if not any(pieces.values()):
        raise ValueError(f"{path}: there is no piece in it")
    return pieces


def _read_mat(path: Path) -> Pieces:
    try:
        import scipy.io
    except ImportError:
        raise ValueError(f"{path} needs the package scipy: pip install 'rnnlab[music]'") from None
    try:
        raw = path.read_bytes()
        check_matlab(raw)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    try:
        content = scipy.io.loadmat(io.BytesIO(raw))
    except (scipy.io.matlab.MatReadError, *_UNREADABLE) as error:
        raise ValueError(f"{path}: SciPy cannot read it ({error}); save it as a MATLAB 5 file") from None
    names = {key: SPLIT_NAMES[key.removesuffix("data")] for key in content if _is_split(key)}
    if not names:
        found = ", ".join(key for key in content if not key.startswith("__"))
        raise ValueError(f"{path}: there is none of traindata, validdata and testdata in it, but {found}")
    pieces: Pieces = {}
    for key, split in names.items():
        pieces[split] = []
        if not isinstance(content[key], np.ndarray):
            raise ValueError(f"{path}, {key}: expected cells of pieces, got {type(content[key]).__name__}")
        for number, cell in enumerate(content[key].ravel(), start=1):
            place = f"{path}, {key}, piece {number}"
            if getattr(cell, "ndim", 0) != 2 or cell.shape[1] != KEYS or not len(cell):
                raise ValueError(
                    f"{place}: expected frames of {KEYS} keys, got {getattr(cell, 'shape', cell)}"
                )
            roll = torch.from_numpy(cell.astype("float64"))
            if not ((roll == 0) | (roll == 1)).all():
                raise ValueError(f"{place}: expected 0 and 1 alone, got {roll[(roll != 0) & (roll != 1)][0]}")
            pieces[split].append(roll.bool())
    return pieces


def _is_split(key: str) -> bool:
    return key.endswith("data") and key.removesuffix("data") in SPLIT_NAMES


def _read_json(path: Path) -> Pieces:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deep for a list of pieces") from None
    if isinstance(content, Mapping):
        if unknown := [key for key in content if key not in SPLIT_NAMES]:
            raise ValueError(f"{path}: {unknown[0]!r} is no split; use train, valid and test")
        return {SPLIT_NAMES[key]: _json_pieces(f"{path}, {key}", found) for key, found in content.items()}
    return {"train": _json_pieces(str(path), content)}


def _json_pieces(place: str, content: Any) -> list[Tensor]:
    if not isinstance(content, list):
        raise ValueError(f"{place}: expected a list of pieces, got {type(content).__name__}")
    pieces = []
    for number, piece in enumerate(content, start=1):
        if not isinstance(piece, list) or not piece:
            raise ValueError(f"{place}, piece {number}: expected a list of frames, got {_short(piece)}")
        roll = torch.zeros(len(piece), KEYS, dtype=torch.bool)
        for frame, pitches in enumerate(piece):
            where = f"{place}, piece {number}, frame {frame + 1}"
            if not isinstance(pitches, list):
                raise ValueError(f"{where}: expected a list of MIDI numbers, got {_short(pitches)}")
            for pitch in pitches:
                if pitch is None or pitch in RESTS:
                    continue
                if isinstance(pitch, bool) or not isinstance(pitch, int | float) or pitch != int(pitch):
                    raise ValueError(f"{where}: {_short(pitch)} is no MIDI number")
                if not LOWEST <= pitch < LOWEST + KEYS:
                    raise ValueError(
                        f"{where}: MIDI number {pitch} is not on a piano ({LOWEST} to {LOWEST + KEYS - 1})"
                    )
                roll[frame, int(pitch) - LOWEST] = True
        pieces.append(roll)
    return pieces


def find_pieces(word: str) -> list[tuple[str, Tensor]]:
    """Pieces by name: `FILE`, `FILE:SPLIT`, `FILE:NUMBER` or `FILE:SPLIT:NUMBER`.

    Without a split, those of the test are meant, or of training where the file has no other.

    Returns:
        Names, by which each is found again, and rolls.

    Raises:
        ValueError: there is no such file, split or piece.
    """
    parts = word.split(":")
    number = parts.pop() if len(parts) > 1 and parts[-1].isdigit() else None
    asked = parts.pop() if len(parts) > 1 and parts[-1] in SPLIT_NAMES else None
    path = ":".join(parts)
    pieces = read_rolls(Path(path).expanduser())
    split: Split = SPLIT_NAMES[asked] if asked else ("test" if pieces.get("test") else "train")
    if split not in pieces:
        raise ValueError(f"{word}: {path} has no split {asked!r}, but {', '.join(pieces)}")
    named = [(f"{path}:{split}:{place + 1}", roll) for place, roll in enumerate(pieces[split])]
    if number is None:
        return named
    if not 1 <= int(number) <= len(named):
        raise ValueError(
            f"{word}: there is no piece number {number}; the {split} split has 1 to {len(named)}"
        )
    return [named[int(number) - 1]]


def write_midi(path: Path, roll: Tensor, *, bpm: float, frames_per_beat: float) -> None:
    """Write a roll `[T, 88]` as a MIDI file; a key that sounds in frames on end is one long note.

    Args:
        path: the file.
        roll: not zero where a key sounds.
        bpm: beats a minute.
        frames_per_beat: frames of the roll in a beat.

    Raises:
        ValueError: `mido` is not installed, or a speed is not above 0.
    """
    try:
        import mido
    except ImportError:
        raise ValueError("MIDI files need the package mido: pip install 'rnnlab[music]'") from None
    if bpm <= 0 or frames_per_beat <= 0:
        raise ValueError(f"bpm and frames_per_beat are above 0; got {bpm} and {frames_per_beat}")
    file = mido.MidiFile(ticks_per_beat=480)
    track = mido.MidiTrack()
    file.tracks.append(track)
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm)))
    track.append(mido.Message("program_change", program=0))
    silent = torch.zeros(1, KEYS, dtype=torch.int8)
    changes = torch.cat([silent, (roll != 0).to(torch.int8), silent]).diff(dim=0)
    ticks = 480 / frames_per_beat
    written = 0
    for frame in changes.any(1).nonzero().flatten().tolist():
        for kind, sign in (("note_off", -1), ("note_on", 1)):
            for key in (changes[frame] == sign).nonzero().flatten().tolist():
                now = round(frame * ticks)
                velocity = 72 if sign > 0 else 0
                track.append(mido.Message(kind, note=key + LOWEST, velocity=velocity, time=now - written))
                written = now
    file.save(str(path))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."

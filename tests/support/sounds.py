"""Small sound files, with a melody of its own for each character that is said."""

import math
from pathlib import Path

import soundfile
import torch

RATE = 8000
NOTES_HZ = (400, 1000, 2400)


def tones(text: str, *, rate: int = RATE, channels: int = 1) -> torch.Tensor:
    """Three notes of 40 ms for each character, `[N]` or `[N, channels]`; a space is silent."""
    steps = torch.arange(round(0.04 * rate)) / rate
    pieces = []
    for character in text:
        code = ord(character) % 32
        for note in (code % 3, code // 3 % 3, code // 9):
            pieces.append((character != " ") * 0.3 * torch.sin(2 * math.pi * NOTES_HZ[note % 3] * steps))
    sound = torch.cat(pieces)
    return sound if channels == 1 else sound.unsqueeze(1).expand(-1, channels)


def write_sound(path: Path, text: str, *, rate: int = RATE, channels: int = 1) -> Path:
    """Write `tones(text)` as 16-bit samples in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tones(text, rate=rate, channels=channels).numpy(), rate)
    return path

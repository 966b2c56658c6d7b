"""What `rnnlab sample` does with a model of music: MIDI files, and pictures of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Settings of `sample` that mean nothing to the other kind of model.
TEXT_ONLY = ("label", "top_k", "top_p", "greedy", "stop")
MUSIC_ONLY = ("output", "most_keys", "prompt_frames", "bpm")


def check_settings(own: Mapping[str, str], unfit: tuple[str, ...], kind: str) -> None:
    """Raise ValueError for a setting of the other kind of model."""
    for key in unfit:
        if key in own:
            raise ValueError(f"{key}={own[key]}: means nothing to a model of {kind}; leave it out")


def sample_music(
    task: Any,
    *,
    prompt: str,
    prompt_frames: int,
    output: str,
    length: int,
    count: int,
    temperature: float,
    most_keys: int | None,
    bpm: float,
    seed: int | None,
) -> None:
    """Write pieces as MIDI files, each with a picture of its piano roll beside it.

    Args:
        task: a `rnnlab.tasks.music.Music`.
        prompt: a piece to go on from, as `rnnlab.data.piano_rolls.find_pieces` names it; empty for a new one.
        prompt_frames: frames of it that are given to the model, and stand at the start of the file.
        output: the MIDI file; with several pieces a number is added to its name.
        length: frames that are made.
        count: pieces.
        temperature, most_keys: see `Music.sample`.
        bpm: beats a minute.
        seed: of the first piece, one more for each further one; None for other ones each time.

    Raises:
        ValueError: a setting out of range, or there is no such piece.
    """
    import torch

    from rnnlab.data.piano_rolls import KEYS, LOWEST, find_pieces, write_midi
    from rnnlab.tasks.pictures import piano_roll

    file = Path(output).expanduser()
    if file.suffix.lower() not in (".mid", ".midi"):
        raise ValueError(f"output={output}: a MIDI file ends in .mid")
    if not file.parent.is_dir():
        raise ValueError(f"output={output}: there is no folder {str(file.parent)!r}")
    if prompt_frames < 1 or not bpm > 0:
        raise ValueError(f"prompt_frames={prompt_frames}, bpm={bpm}: expected at least 1, and above 0")
    given = torch.zeros(0, KEYS, dtype=torch.bool)
    if prompt:
        found = find_pieces(prompt)
        if len(found) > 1:
            raise ValueError(f"prompt={prompt}: {len(found)} pieces; name one, such as prompt={found[0][0]}")
        given = found[0][1][:prompt_frames]
    for number in range(count):
        made = task.sample(
            length=length,
            prompt=given if prompt else None,
            temperature=temperature,
            most_keys=most_keys,
            seed=None if seed is None else seed + number,
        )
        roll = torch.cat([given, torch.stack(list(made))])
        path = file if count == 1 else file.with_stem(f"{file.stem}-{number + 1}")
        write_midi(path, roll, bpm=bpm, frames_per_beat=task.frames_per_beat)
        per_second = bpm / 60 * task.frames_per_beat
        picture = path.with_suffix(".png")
        piano_roll(picture, roll, lowest=LOWEST, frames_per_second=per_second, given=len(given))
        keys = roll.sum(1).float().mean().item()
        print(
            f"{path}: {len(roll)} frames, {len(roll) / per_second:.0f} seconds, {keys:.1f} keys at a time; "
            f"its piano roll: {picture}"
        )

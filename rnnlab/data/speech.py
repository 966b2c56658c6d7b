"""Recorded speech: utterances with a label or a transcript each, as log-mel features.

Legend: `T` steps, `B` batch, `N` samples, `S` symbols of all transcripts of a batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.audio import Augmentation, LogMel, SoundError, change_speed, draw, read_sound, resample
from rnnlab.data.base import DataModule, evenly
from rnnlab.data.batching import SequenceBatch, mixed_seed
from rnnlab.data.speech_files import Utterance, read_recordings
from rnnlab.data.splits import SPLITS, Split, check_fractions

# The symbol of connectionist temporal classification that stands for nothing; number 0 of every alphabet.
BLANK = "<blank>"


@dataclass(frozen=True)
class Transcripts:
    """What is said in the rows of a batch.

    Attributes:
        texts: the rows' transcripts.
        symbols: `[S]`, the numbers of their characters, one row after the other, without unknown ones.
        lengths: `[B]`, how many of them each row has; on the CPU.
    """

    texts: list[str]
    symbols: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Transcripts:
        """A copy on the device, with the lengths left on the CPU."""
        return Transcripts(self.texts, self.symbols.to(device, non_blocking=non_blocking), self.lengths)

    def pin_memory(self) -> Transcripts:
        """A copy in page-locked memory, which moves to a GPU without waiting."""
        return Transcripts(self.texts, self.symbols.pin_memory(), self.lengths)


@dataclass(frozen=True)
class Joining:
    """Strings of utterances, joined sample by sample with silence between them.

    Training strings are drawn anew in each epoch from the training utterances, the others once for all from
    those of their own split. A string is of one group: where groups are speakers, of one speaker.

    Args:
        least: fewest utterances of a string.
        most: most of them.
        strings: how many an epoch.
        eval_strings: how many for validation, and for the test.
        gap_ms: longest silence between two utterances; each is drawn from 0 to it.
        separator: between two transcripts.

    Raises:
        ValueError: a setting out of range.
    """

    least: int = 3
    most: int = 7
    strings: int = 1000
    eval_strings: int = 300
    gap_ms: float = 200.0
    separator: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"least is at least 1 and not above most; got {self.least} and {self.most}")
        if self.strings < 1 or self.eval_strings < 1 or self.gap_ms < 0:
            raise ValueError(
                "strings and eval_strings are at least 1, gap_ms at least 0; "
                f"got {self.strings}, {self.eval_strings} and {self.gap_ms}"
            )


class SpeechSet(Dataset[SequenceBatch]):
    """Utterances, or strings of them, as features; indexing by a list of rows gives their `SequenceBatch`.

    An index `(epoch, rows)` decides in which epoch the random numbers of training are drawn: those of a row
    depend on seed, epoch and row alone.

    Args:
        sounds: `[N]` each, at one sampling rate.
        utterances: theirs.
        features: turns sounds into features.
        sample_rate: of the sounds.
        seed: of what is drawn.
        labels: the classes, where targets are labels.
        alphabet: the characters, where targets are transcripts.
        augmentation: what is done to the sounds; None for nothing.
        joining: how strings are made; None for single utterances.
        strings: how many of them.
        fixed: draw the same in every epoch.
    """

    draws = True

    def __init__(
        self,
        sounds: Sequence[Tensor],
        utterances: Sequence[Utterance],
        features: LogMel,
        sample_rate: int,
        *,
        seed: int,
        labels: Sequence[str] | None = None,
        alphabet: Sequence[str] | None = None,
        augmentation: Augmentation | None = None,
        joining: Joining | None = None,
        strings: int = 0,
        fixed: bool = False,
    ) -> None:
        self.sounds, self.utterances = list(sounds), list(utterances)
        self.features, self.sample_rate, self.seed = features, sample_rate, seed
        self.classes = None if labels is None else {label: number for number, label in enumerate(labels)}
        self.symbols = {symbol: number for number, symbol in enumerate(alphabet or ())}
        self.augmentation, self.joining, self.fixed = augmentation, joining, fixed
        if joining is None:
            self.lengths = torch.tensor([features.steps(len(sound), sample_rate) for sound in self.sounds])
        else:
            groups: dict[str, list[int]] = {}
            for number, utterance in enumerate(self.utterances):
                groups.setdefault(utterance.group, []).append(number)
            self.group_of = [groups[utterance.group] for utterance in self.utterances]
            # What a string is made of is drawn later; how long it is about, decides with whom it is batched.
            generator = torch.Generator().manual_seed(mixed_seed(seed, strings))
            self.lengths = torch.randint(joining.least, joining.most + 1, (strings,), generator=generator)

    def __len__(self) -> int:
        return len(self.lengths)

    def parts(self, row: int, generator: torch.Generator) -> list[int]:
        """The utterances of a row."""
        if self.joining is None:
            return [row]
        # Each utterance is equally likely to begin a string, whatever the size of its group.
        first = draw(0, len(self.utterances) - 1, generator)
        group = self.group_of[first]
        rest = int(self.lengths[row]) - 1
        return [first, *(group[draw(0, len(group) - 1, generator)] for _ in range(rest))]

    def sound(self, parts: Sequence[int], generator: torch.Generator) -> Tensor:
        """The samples of a row, `[N]`, played at one of the speeds."""
        speed = self.augmentation.speed(generator) if self.augmentation else 1.0
        pieces = [self.sounds[parts[0]]]
        for part in parts[1:]:
            assert self.joining is not None
            most = round(self.joining.gap_ms * self.sample_rate / 1000)
            pieces += [torch.zeros(draw(0, most, generator)), self.sounds[part]]
        return change_speed(torch.cat(pieces), speed)

    def text(self, parts: Sequence[int]) -> str:
        """The label or transcript of a row."""
        separator = self.joining.separator if self.joining else ""
        return separator.join(self.utterances[part].text for part in parts)

    def generator(self, epoch: int, row: int) -> torch.Generator:
        """The random numbers of a row in an epoch."""
        return torch.Generator().manual_seed(mixed_seed(self.seed, 0 if self.fixed else epoch, row))

    def __getitem__(self, key: Sequence[int] | tuple[int, Sequence[int]]) -> SequenceBatch:
        epoch, rows = key if isinstance(key, tuple) else (0, key)
        generators = [self.generator(epoch, row) for row in rows]
        parts = [self.parts(row, generator) for row, generator in zip(rows, generators, strict=True)]
        sounds = [self.sound(part, generator) for part, generator in zip(parts, generators, strict=True)]
        frames, lengths = self.features.frames(sounds, self.sample_rate)
        if self.augmentation is not None:
            for column, generator in enumerate(generators):
                self.augmentation.mask(frames[: lengths[column], column], generator)
        inputs, lengths = self.features.stacked(frames, lengths)
        return SequenceBatch(inputs, lengths, self._targets([self.text(part) for part in parts]))

    def _targets(self, texts: list[str]) -> Tensor | Transcripts:
        if self.classes is not None:
            return torch.tensor([self.classes[text] for text in texts])
        numbers = [encode_characters(text, self.symbols) for text in texts]
        return Transcripts(
            texts,
            torch.tensor([number for row in numbers for number in row], dtype=torch.int64),
            torch.tensor([len(row) for row in numbers], dtype=torch.int64),
        )


def hear(word: str, sample_rate: int) -> Tensor:
    """The samples `[N]` of a sound file, or of several joined by `+`, at a sampling rate.

    Raises:
        SoundError: a file cannot be used.
    """
    files = [word] if Path(word).expanduser().is_file() else word.split("+")
    sounds = [read_sound(file) for file in files]
    return torch.cat([resample(sound.samples, Fraction(sample_rate, sound.sample_rate)) for sound in sounds])


def encode_characters(text: str, symbols: Mapping[str, int]) -> list[int]:
    """The numbers of a transcript's characters; those that the alphabet lacks are left out."""
    return [symbols[character] for character in text if character in symbols]


def steps_needed(symbols: Sequence[int]) -> int:
    """Fewest steps that can spell these symbols: one each, and a blank between two that are the same.

    Source: Graves et al. 2006, "Connectionist Temporal Classification", section 3.1.
    """
    return len(symbols) + sum(a == b for a, b in pairwise(symbols))


class SpeechData(DataModule):
    """Utterances with a label or a transcript each, from a folder of sound files.

    All sounds are held in memory (4 bytes a sample: 230 MB an hour at 16 kHz); features are made batch by
    batch. Several channels are averaged. Left out and counted in the summary are empty and truncated files,
    sounds longer than `max_s`, and training utterances with fewer steps than their transcript needs, from
    which nothing could be learned. Those of validation and test stay, and count as the errors they are.

    Args:
        source: a folder; see `rnnlab.data.speech_files.read_recordings`.
        target: what is learned: `"label"` of an utterance, or its `"characters"`.
        label_pattern, validation_pattern, test_pattern, group_pattern, encoding: see `read_recordings`.
        lowercase: fold transcripts to lower case.
        sample_rate: every sound is resampled to it; None for that of the files, which must then agree.
        max_s: longest utterance, in seconds.
        validation: fraction of the groups for validation, where the source has no such split.
        test: fraction of the groups for the test, where the source has no such split.
        features: see `LogMel`.
        augmentation: what training does to its sounds; None for nothing.
        joining: make strings of utterances; None for the utterances themselves.
        batch_size, eval_batch_size, num_workers, seed: see `DataModule`; the seed is also that of the
            augmentation and of the training strings.

    Raises:
        ValueError: a setting is out of range; on `setup`, the source cannot be read or learned from.
    """

    def __init__(
        self,
        source: str,
        *,
        target: Literal["label", "characters"] = "label",
        label_pattern: str | None = None,
        validation_pattern: str | None = None,
        test_pattern: str | None = None,
        group_pattern: str | None = None,
        encoding: str = "utf-8",
        lowercase: bool = False,
        sample_rate: int | None = None,
        max_s: float = 30.0,
        validation: float = 0.1,
        test: float = 0.1,
        features: LogMel | None = None,
        augmentation: Augmentation | None = None,
        joining: Joining | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        check_fractions(validation, test)
        if target not in ("label", "characters"):
            raise ValueError(f"target is 'label' or 'characters'; got {target!r}")
        if joining is not None and target == "label":
            raise ValueError(
                "joining makes strings, which have transcripts: it goes with target='characters'"
            )
        if sample_rate is not None and sample_rate < 1:
            raise ValueError(f"sample_rate is at least 1 Hz, or null; got {sample_rate}")
        if max_s <= 0:
            raise ValueError(f"max_s is a number of seconds above 0; got {max_s}")
        self.source, self.target, self.lowercase = source, target, lowercase
        self.reading: dict[str, Any] = {
            "label_pattern": label_pattern,
            "validation_pattern": validation_pattern,
            "test_pattern": test_pattern,
            "group_pattern": group_pattern,
            "encoding": encoding,
        }
        self.sample_rate, self.max_s = sample_rate, max_s
        self._rate_of: Path | None = None  # the file that chose the sampling rate, if none was given
        self.fractions = {"validation": validation, "test": test}
        self.features = features or LogMel()
        self.augmentation, self.joining = augmentation, joining

    def read(self) -> dict[Split, SpeechSet]:
        """Read, split and number the utterances."""
        if self.adopted:
            self.sample_rate = self.adopted["sample_rate"]
            self.features = LogMel(**self.adopted["features"])
            self.lowercase = self.adopted.get("lowercase", self.lowercase)
            self.target = "label" if "labels" in self.adopted else "characters"
            if self.joining is not None and self.target == "label":
                raise ValueError("the model tells labels, and joining makes strings: give data.joining=null")
        recordings = read_recordings(self.source, **self.reading)
        splits = recordings.split(**self.fractions)
        if self.lowercase:
            splits = {
                split: [Utterance(u.path, u.name, u.text.lower(), u.group) for u in part]
                for split, part in splits.items()
            }
        self._counts: Counter[str] = Counter()
        self._left_out = recordings.left_out
        heard = {split: self._hear(part) for split, part in splits.items()}
        assert self.sample_rate is not None
        self.features.check_rate(self.sample_rate)
        self.names = self._names(recordings.origin, {split: pair[1] for split, pair in heard.items()})
        if self.target == "characters":
            heard["train"] = self._long_enough(*heard["train"])
        for split, (sounds, _) in heard.items():
            if not sounds:
                raise ValueError(
                    f"{recordings.origin}: no utterance of the {split} split can be used; "
                    f"left out: {dict(self._left_out)}"
                )
        self._origin = recordings.origin
        self._seconds = {
            split: sum(map(len, sounds)) / self.sample_rate for split, (sounds, _) in heard.items()
        }
        return {split: self._dataset(split, *pair) for split, pair in heard.items()}

    def _dataset(self, split: Split, sounds: list[Tensor], utterances: list[Utterance]) -> SpeechSet:
        train = split == "train"
        assert self.sample_rate is not None
        return SpeechSet(
            sounds,
            utterances,
            self.features,
            self.sample_rate,
            # What is measured on does not depend on the run's seed.
            seed=self.seed if train else -1 - SPLITS.index(split),
            labels=self.names if self.target == "label" else None,
            alphabet=self.names if self.target == "characters" else None,
            augmentation=self.augmentation if train else None,
            joining=self.joining,
            strings=(self.joining.strings if train else self.joining.eval_strings) if self.joining else 0,
            fixed=not train,
        )

    def _hear(self, utterances: Sequence[Utterance]) -> tuple[list[Tensor], list[Utterance]]:
        """The sounds that can be used, at one sampling rate, and their utterances."""
        sounds: list[Tensor] = []
        kept: list[Utterance] = []
        for utterance in utterances:
            try:
                sound = read_sound(utterance.path)
            except SoundError as error:
                if error.fault == "unreadable":
                    raise
                self._leave_out(f"{error.fault} file", utterance)
                continue
            if len(sound.samples) > self.max_s * sound.sample_rate:
                self._leave_out(f"longer than {self.max_s:g} s", utterance)
                continue
            if self.sample_rate is None:
                self.sample_rate, self._rate_of = sound.sample_rate, utterance.path
            if sound.sample_rate != self.sample_rate:
                if self._rate_of is not None:
                    raise ValueError(
                        f"{utterance.path}: {sound.sample_rate} Hz, but {self._rate_of} has "
                        f"{self.sample_rate} Hz; data.sample_rate={min(sound.sample_rate, self.sample_rate)} "
                        "resamples all to one rate"
                    )
                self._counts["resampled"] += 1
            if sound.channels > 1:
                self._counts["mixed_to_one_channel"] += 1
            sounds.append(resample(sound.samples, Fraction(self.sample_rate, sound.sample_rate)))
            kept.append(utterance)
        return sounds, kept

    def _leave_out(self, reason: str, utterance: Utterance) -> None:
        """Count an utterance that is not used; the first one of a reason is named."""
        known = next((key for key in self._left_out if key.startswith(f"{reason}, as ")), None)
        self._left_out[known or f"{reason}, as {utterance.name}"] += 1

    def _long_enough(
        self, sounds: list[Tensor], utterances: list[Utterance]
    ) -> tuple[list[Tensor], list[Utterance]]:
        """Training utterances that can be spelt in their steps, at every speed and within every string."""
        assert self.sample_rate is not None
        symbols = {symbol: number for number, symbol in enumerate(self.names)}
        fastest = max(self.augmentation.speeds) if self.augmentation else 1.0
        kept: list[int] = []
        for number, (sound, utterance) in enumerate(zip(sounds, utterances, strict=True)):
            needed = steps_needed(encode_characters(utterance.text, symbols))
            steps = self.features.steps(int(len(sound) / fastest), self.sample_rate)
            if self.joining is not None:  # a step less for the border, one more for a repetition across it
                needed, steps = needed + 1 + len(self.joining.separator), steps - 1
            if needed > steps:
                self._leave_out("training utterance with fewer steps than its transcript needs", utterance)
            else:
                kept.append(number)
        return [sounds[number] for number in kept], [utterances[number] for number in kept]

    def _names(self, origin: str, splits: Mapping[Split, Sequence[Utterance]]) -> list[str]:
        """The labels, or the alphabet with the blank first; those of training, or of the model."""
        train = [utterance.text for utterance in splits["train"]]
        if self.target == "characters":
            characters = set("".join(train)) | set(self.joining.separator if self.joining else "")
            names = list(self.adopted["alphabet"]) if self.adopted else [BLANK, *sorted(characters)]
            unknown = [
                character
                for split in ("validation", "test")
                for utterance in splits[split]
                for character in utterance.text
                if character not in names
            ]
            if unknown:
                self._counts["characters_not_in_training"] = len(unknown)
            return names
        names = list(self.adopted["labels"]) if self.adopted else sorted(set(train))
        if len(names) < 2:
            raise ValueError(
                f"{origin}: at least two labels are needed; training has {', '.join(map(repr, names))}"
            )
        for split, part in splits.items():
            for utterance in part:
                if utterance.text not in names:
                    raise ValueError(
                        f"{utterance.path}: the {split} split has label {utterance.text!r}, which is not "
                        f"among {', '.join(map(repr, names[:12]))}{', ...' if len(names) > 12 else ''}"
                    )
        return names

    def facts(self) -> dict[str, Any]:
        """Labels or alphabet, sampling rate and features."""
        self.need_setup()
        heard = {"sample_rate": self.sample_rate, "features": self.features.facts()}
        if self.target == "label":
            return {"labels": list(self.names), **heard}
        return {"alphabet": list(self.names), "lowercase": self.lowercase, **heard}

    def summary(self) -> dict[str, Any]:
        """Utterances and seconds by split, what they are made of, and what was left out."""
        self.need_setup()
        return {
            "source": self._origin,
            "left_out": dict(self._left_out),
            **self._counts,
            "utterances": {split: len(self.dataset(split).utterances) for split in SPLITS},
            "seconds": {split: round(self._seconds[split]) for split in SPLITS},
            **({"strings": {split: len(self.dataset(split)) for split in SPLITS}} if self.joining else {}),
            "sample_rate": f"{self.sample_rate} Hz",
            "labels" if self.target == "label" else "characters": _listed(
                [name for name in self.names if name != BLANK]
            ),
        }

    def examples(self, split: Split, n: int) -> list[tuple[str, str]]:
        """Pairs of files and what is said in them; the files of a string are joined by `+`."""
        dataset = self.dataset(split)
        found = []
        for row in evenly(range(len(dataset)), n):
            parts = dataset.parts(row, dataset.generator(0, row))
            files = "+".join(str(dataset.utterances[part].path) for part in parts)
            found.append((files, dataset.text(parts)))
        return found


def _listed(names: Sequence[str]) -> str:
    """At most 40 names in one line; a space can be seen."""
    shown = " ".join("' '" if name == " " else name for name in names[:40])
    return shown + (f" and {len(names) - 40} more" if len(names) > 40 else "")

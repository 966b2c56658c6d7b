"""Sound files, and the log-mel features by which a recurrent network hears them.

Legend: `N` samples, `T` frames, `B` batch, `M` mel filters, `K` bins of the spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

SOUND_SUFFIXES = (".wav", ".flac", ".ogg")
_EXTRA = "pip install 'rnnlab[audio]'"


class SoundError(ValueError):
    """A sound file that cannot be used.

    Args:
        path: the file, with which the message begins.
        fault: what it is: `"unreadable"`, `"truncated"` or `"empty"`.
        message: the rest of the message.
    """

    def __init__(self, path: str | Path, fault: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.fault = fault


@dataclass(frozen=True)
class Sound:
    """A sound as one channel.

    Attributes:
        samples: `[N]`, float32, full scale is -1 to 1.
        sample_rate: samples a second.
        channels: how many the file had; they are averaged.
    """

    samples: Tensor
    sample_rate: int
    channels: int


def read_sound(path: str | Path) -> Sound:
    """Read a WAV, FLAC or Ogg file.

    Raises:
        SoundError: no sound file, one without samples, or a WAV that ends before its header says it does.
        ValueError: the package soundfile is not installed.
    """
    try:
        import soundfile
    except ImportError:
        raise ValueError(f"{path}: sound is read by the package `soundfile`: {_EXTRA}") from None
    file = Path(path).expanduser()
    if not file.is_file():
        raise SoundError(path, "unreadable", "there is no such file")
    missing = _missing_bytes(file)
    try:
        with soundfile.SoundFile(file) as opened:
            rate, samples = opened.samplerate, opened.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, MemoryError) as error:
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise SoundError(
            path, "unreadable", f"not a sound that can be read ({reason}); WAV, FLAC and Ogg can"
        ) from None
    if missing:
        raise SoundError(path, "truncated", f"truncated: its header promises {missing} more bytes")
    if not len(samples):
        raise SoundError(path, "empty", "empty: it holds no sample")
    return Sound(torch.from_numpy(samples.mean(axis=1)), rate, samples.shape[1])


def _missing_bytes(file: Path) -> int:
    """Bytes by which a WAV is shorter than its RIFF header says.

    A program that writes to a pipe cannot know the size, and puts 0 or 2^32 - 1 there: that is no fault.
    """
    with file.open("rb") as opened:
        head = opened.read(8)
    if head[:4] != b"RIFF" or len(head) < 8:
        return 0
    size = int.from_bytes(head[4:], "little")
    return 0 if size in (0, 2**32 - 1) else max(0, size + 8 - file.stat().st_size)


def resample(samples: Tensor, ratio: Fraction) -> Tensor:
    """Samples `[N]` at `ratio` times their rate, `[ceil(ratio N)]`, by a polyphase filter.

    Raises:
        ValueError: SciPy is not installed.
    """
    if ratio == 1:
        return samples
    try:
        from scipy.signal import resample_poly
    except ImportError:
        raise ValueError(f"resampling needs the package `scipy`: {_EXTRA}") from None
    made = resample_poly(samples.numpy(), ratio.numerator, ratio.denominator)
    return torch.from_numpy(made.astype("float32", copy=False))


def change_speed(samples: Tensor, speed: float) -> Tensor:
    """Samples `[N]` played `speed` times as fast, so that pitch and length change together.

    Source: Ko et al. 2015, "Audio Augmentation for Speech Recognition".
    """
    return resample(samples, Fraction(1 / speed).limit_denominator(100))


def hz_to_mel(hz: float) -> float:
    """Pitch in mel: 2595 log10(1 + f / 700). Source: O'Shaughnessy 1987, "Speech Communication"."""
    return 2595.0 * math.log10(1.0 + hz / 700.0)


def mel_to_hz(mel: float | Tensor) -> Any:
    """The frequency of a pitch, the inverse of `hz_to_mel`."""
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


def mel_filters(bins_hz: Tensor, count: int, lowest_hz: float, highest_hz: float) -> Tensor:
    """Triangular filters whose corners are equally far apart in mel, each with a peak of 1.

        w_m(f) = max(0, min((f - c_{m-1}) / (c_m - c_{m-1}), (c_{m+1} - f) / (c_{m+1} - c_m)))

    Args:
        bins_hz: `[K]`, frequencies of the spectrum's bins.
        count: M.
        lowest_hz: c_0, where the first filter begins.
        highest_hz: c_{M+1}, where the last one ends.

    Returns:
        `[K, M]`.

    Source: Davis and Mermelstein 1980, "Comparison of Parametric Representations for Monosyllabic Word
    Recognition", figure 1, with the mel scale of `hz_to_mel`.
    """
    corners = mel_to_hz(
        torch.linspace(hz_to_mel(lowest_hz), hz_to_mel(highest_hz), count + 2, dtype=torch.float64)
    )
    widths = corners.diff()
    rise = (bins_hz.double().unsqueeze(1) - corners[:-2]) / widths[:-1]
    fall = (corners[2:] - bins_hz.double().unsqueeze(1)) / widths[1:]
    return torch.minimum(rise, fall).clamp(min=0.0).float()


@dataclass(frozen=True)
class LogMel:
    """Log-mel features: `log(floor + mel filters of |short-time Fourier transform|^2)`.

    Each filter's output then has mean 0 and variance 1 over the utterance. A frame lies wholly within its
    utterance, which is filled up with zeros only where it is shorter than one window: features do not depend
    on what else is in the batch. Last, each `stack` frames become one step (Sak et al. 2015, "Fast and
    Accurate Recurrent Neural Network Acoustic Models for Speech Recognition"), the last one filled with 0.

    Args:
        mels: M, filters a frame.
        window_ms: length of a frame, under a Hann window.
        hop_ms: from one frame to the next.
        lowest_hz: where the first filter begins.
        highest_hz: where the last one ends; None for half the sampling rate.
        floor: energy added before the logarithm; quieter sounds are silence.
        stack: frames a step.

    Raises:
        ValueError: a setting out of range.
    """

    mels: int = 40
    window_ms: float = 25.0
    hop_ms: float = 10.0
    lowest_hz: float = 20.0
    highest_hz: float | None = None
    floor: float = 1e-6
    stack: int = 1

    def __post_init__(self) -> None:
        if self.mels < 1 or self.stack < 1:
            raise ValueError(f"mels and stack are at least 1; got {self.mels} and {self.stack}")
        if not (self.window_ms > 0 and self.hop_ms > 0 and self.floor > 0):
            raise ValueError(
                "window_ms, hop_ms and floor are positive; "
                f"got {self.window_ms}, {self.hop_ms} and {self.floor}"
            )
        if not 0 <= self.lowest_hz < (self.highest_hz or math.inf):
            raise ValueError(
                f"lowest_hz is at least 0 and below highest_hz; got {self.lowest_hz} and {self.highest_hz}"
            )

    @property
    def output_size(self) -> int:
        """Features of a step."""
        return self.mels * self.stack

    def facts(self) -> dict[str, Any]:
        """The settings in plain containers: `LogMel(**facts)` is the same again."""
        return asdict(self)

    def check_rate(self, sample_rate: int) -> None:
        """Raise ValueError unless the filters fit sound of this sampling rate."""
        top = self.highest_hz or sample_rate / 2
        if not self.lowest_hz < top <= sample_rate / 2:
            raise ValueError(
                f"lowest_hz={self.lowest_hz}, highest_hz={self.highest_hz}: the filters lie below half the "
                f"sampling rate, {sample_rate / 2:g} Hz"
            )
        if round(self.hop_ms * sample_rate / 1000) < 1 or round(self.window_ms * sample_rate / 1000) < 2:
            raise ValueError(
                f"window_ms={self.window_ms}, hop_ms={self.hop_ms}: shorter than a sample at {sample_rate} Hz"
            )
        if empty := int((_tables(self, sample_rate).filters.sum(0) == 0).sum()):
            raise ValueError(
                f"mels={self.mels}: {empty} filters are narrower than the spectrum is fine; use fewer, or a "
                "longer window_ms"
            )

    def steps(self, samples: int, sample_rate: int) -> int:
        """Steps that so many samples become."""
        tables = _tables(self, sample_rate)
        frames = 1 + max(0, samples - tables.window) // tables.hop
        return -(-frames // self.stack)

    def frames(self, rows: Sequence[Tensor], sample_rate: int) -> tuple[Tensor, Tensor]:
        """Normalised log-mel frames, before they are stacked.

        Args:
            rows: B sounds, `[N]` each.
            sample_rate: of all of them.

        Returns:
            `[T, B, M]`, zero past a row's end, and the rows' frames `[B]`.
        """
        tables = _tables(self, sample_rate)
        samples = torch.tensor([len(row) for row in rows])
        lengths = 1 + (samples - tables.window).clamp(min=0) // tables.hop
        padded = pad_sequence(list(rows), batch_first=True)
        # The transform is longer than the window, which stands in its middle.
        around = tables.transform - tables.window
        whole = tables.window + (int(lengths.max()) - 1) * tables.hop
        padded = torch.nn.functional.pad(
            padded, (around // 2, whole - padded.shape[1] + around - around // 2)
        )
        spectrum = torch.stft(
            padded,
            tables.transform,
            hop_length=tables.hop,
            win_length=tables.window,
            window=tables.hann,
            center=False,
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        features = torch.log(power.transpose(1, 2) @ tables.filters + self.floor).transpose(0, 1)
        inside = (torch.arange(len(features)).unsqueeze(1) < lengths).unsqueeze(2)
        count = lengths.view(1, -1, 1)
        mean = (features * inside).sum(0, keepdim=True) / count
        centred = (features - mean) * inside
        deviation = (centred.square().sum(0, keepdim=True) / count).sqrt()
        return centred / deviation.clamp(min=1e-3), lengths

    def stacked(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames `[T, B, M]` as steps `[ceil(T / stack), B, stack * M]`, and the rows' steps `[B]`."""
        if self.stack == 1:
            return frames, lengths
        missing = -len(frames) % self.stack
        filled = torch.nn.functional.pad(frames, (0, 0, 0, 0, 0, missing))
        groups = filled.unflatten(0, (-1, self.stack)).transpose(1, 2)
        return groups.flatten(2), -(-lengths // self.stack)

    def __call__(self, rows: Sequence[Tensor], sample_rate: int) -> tuple[Tensor, Tensor]:
        """Features of B sounds: `[T, B, stack * M]`, zero past a row's end, and the rows' steps `[B]`."""
        return self.stacked(*self.frames(rows, sample_rate))


@dataclass(frozen=True)
class _Tables:
    """What the transform needs at one sampling rate: sizes in samples, and tensors."""

    window: int
    hop: int
    transform: int
    hann: Tensor
    filters: Tensor


@lru_cache(maxsize=16)
def _tables(features: LogMel, sample_rate: int) -> _Tables:
    window = max(2, round(features.window_ms * sample_rate / 1000))
    hop = max(1, round(features.hop_ms * sample_rate / 1000))
    transform = 2 ** math.ceil(math.log2(window))
    bins = torch.linspace(0.0, sample_rate / 2, transform // 2 + 1, dtype=torch.float64)
    filters = mel_filters(bins, features.mels, features.lowest_hz, features.highest_hz or sample_rate / 2)
    return _Tables(window, hop, transform, torch.hann_window(window), filters)


@dataclass(frozen=True)
class Augmentation:
    """What training does to its sounds so that no epoch hears the same one twice.

    Masks lie on the normalised frames, where 0 is the mean. Source: Park et al. 2019, "SpecAugment", section
    2, without time warping; `time_share` is its upper bound p.

    Args:
        speeds: each utterance is played at one of them; see `change_speed`.
        frequency_masks: how many bands of filters are blanked.
        frequency_width: most filters a band.
        time_masks: how many stretches of frames are blanked.
        time_width: most frames a stretch.
        time_share: largest part of the utterance that one stretch may take.

    Raises:
        ValueError: a setting out of range.
    """

    speeds: Sequence[float] = (1.0,)
    frequency_masks: int = 0
    frequency_width: int = 8
    time_masks: int = 0
    time_width: int = 10
    time_share: float = 0.2

    def __post_init__(self) -> None:
        if not self.speeds or not all(0.1 <= speed <= 10 for speed in self.speeds):
            raise ValueError(f"speeds are one or more numbers from 0.1 to 10; got {list(self.speeds)}")
        counts = (self.frequency_masks, self.frequency_width, self.time_masks, self.time_width)
        if min(counts) < 0:
            raise ValueError(
                "frequency_masks, frequency_width, time_masks and time_width are at least 0; "
                f"got {', '.join(map(str, counts))}"
            )
        if not 0 <= self.time_share <= 1:
            raise ValueError(f"time_share lies in [0, 1]; got {self.time_share}")

    def speed(self, generator: torch.Generator) -> float:
        """One of the speeds, all equally likely."""
        if len(self.speeds) == 1:
            return self.speeds[0]
        return self.speeds[draw(0, len(self.speeds) - 1, generator)]

    def mask(self, frames: Tensor, generator: torch.Generator) -> None:
        """Blank bands and stretches of the frames of one utterance, `[T, M]`, in place."""
        steps, filters = frames.shape
        for _ in range(self.frequency_masks):
            width = draw(0, min(self.frequency_width, filters), generator)
            start = draw(0, filters - width, generator)
            frames[:, start : start + width] = 0.0
        for _ in range(self.time_masks):
            width = draw(0, min(self.time_width, int(self.time_share * steps)), generator)
            start = draw(0, steps - width, generator)
            frames[start : start + width] = 0.0


def draw(least: int, most: int, generator: torch.Generator) -> int:
    """A whole number from `least` to `most`, both included, all equally likely."""
    return int(torch.randint(least, most + 1, (), generator=generator))

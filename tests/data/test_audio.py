"""Sound files as they are found, and features against their equations and another library's values."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data.audio import (
    Augmentation,
    LogMel,
    SoundError,
    change_speed,
    hz_to_mel,
    mel_filters,
    mel_to_hz,
    read_sound,
)

RATE = 8000


def tone(hz: float, seconds: float = 0.1, rate: int = RATE) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * hz * torch.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize(
    ("suffix", "subtype", "bound"),
    [
        (".wav", "PCM_16", 1e-4),
        (".wav", "PCM_24", 1e-6),
        (".wav", "PCM_U8", 1e-2),
        (".wav", "FLOAT", 0.0),
        (".wav", "ULAW", 3e-2),
        (".flac", "PCM_16", 1e-4),
        (".ogg", "VORBIS", 5e-2),
    ],
)
def test_formats_in_the_wild(suffix: str, subtype: str, bound: float, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, tone(440).numpy(), RATE, subtype=subtype)
    sound = read_sound(path)
    assert (sound.sample_rate, sound.channels, sound.samples.dtype) == (RATE, 1, torch.float32)
    assert (sound.samples - tone(440)).abs().max() <= bound


def test_channels_are_averaged(tmp_path: Path) -> None:
    both = torch.stack([tone(440), tone(1000)], dim=1)
    soundfile.write(tmp_path / "a.wav", both.numpy(), RATE, subtype="FLOAT")
    sound = read_sound(tmp_path / "a.wav")
    assert sound.channels == 2
    torch.testing.assert_close(sound.samples, both.mean(1))


def test_faults_name_the_file(tmp_path: Path) -> None:
    whole = tmp_path / "whole.wav"
    soundfile.write(whole, tone(440).numpy(), RATE)
    raw = whole.read_bytes()
    for name, content, message, fault in [
        ("cut.wav", raw[:-300], "truncated: its header promises 300 more bytes", "truncated"),
        ("none.wav", b"", "not a sound that can be read", "unreadable"),
        ("text.wav", b"no sound at all", "not a sound that can be read", "unreadable"),
        ("head.wav", raw[:20], "not a sound that can be read", "unreadable"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(SoundError, match=message) as caught:
            read_sound(path)
        assert str(caught.value).startswith(str(path))
        assert caught.value.fault == fault
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, dtype="float32"), RATE)
    with pytest.raises(SoundError, match="empty: it holds no sample"):
        read_sound(tmp_path / "empty.wav")
    with pytest.raises(SoundError, match="there is no such file"):
        read_sound(tmp_path / "absent.wav")


@pytest.mark.parametrize("size", [0, 2**32 - 1])
def test_a_wav_that_was_written_to_a_pipe_is_whole(size: int, tmp_path: Path) -> None:
    """Its writer could not go back to put the sizes in."""
    soundfile.write(tmp_path / "a.wav", tone(440).numpy(), RATE)
    raw = bytearray((tmp_path / "a.wav").read_bytes())
    raw[4:8] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(raw)
    assert len(read_sound(tmp_path / "a.wav").samples) == 800


@given(st.floats(0.1, 20000))
def test_mel_and_back(hz: float) -> None:
    assert mel_to_hz(hz_to_mel(hz)) == pytest.approx(hz)
    assert hz_to_mel(2 * hz) < 2 * hz_to_mel(hz)


def test_filters_are_those_of_another_library() -> None:
    """librosa 0.11.0: filters.mel(sr=8000, n_fft=64, n_mels=6, fmin=100, htk=True, norm=None)."""
    found = mel_filters(torch.linspace(0, 4000, 33), 6, 100.0, 4000.0)
    assert found.shape == (33, 6)
    for filter_, first, values in [
        (0, 1, [0.108571, 0.651428, 0.849138, 0.427609, 0.006081, 0.0]),
        (2, 6, [0.322595, 0.649912, 0.977229, 0.76352, 0.509358, 0.255196, 0.001034, 0.0]),
        (5, 18, [0.142362, 0.29561, 0.448857, 0.602105, 0.755353, 0.9086, 0.951975, 0.832978]),
    ]:
        place = slice(first, first + len(values))
        torch.testing.assert_close(found[place, filter_], torch.tensor(values), atol=2e-6, rtol=0)
        assert found[:first, filter_].abs().max() == 0


def test_filters_share_out_every_frequency_between_the_outer_peaks() -> None:
    bins = torch.linspace(0, 8000, 1025)
    filters = mel_filters(bins, 20, 50.0, 8000.0)
    corners = [mel_to_hz(m) for m in np.linspace(hz_to_mel(50), hz_to_mel(8000), 22)]
    between = (bins >= corners[1]) & (bins <= corners[-2])
    torch.testing.assert_close(filters[between].sum(1), torch.ones(int(between.sum())))
    assert filters.min() == 0
    assert filters.max() <= 1
    assert ((filters > 0).sum(1) <= 2).all()


def test_features_are_those_of_another_library_but_for_the_mean() -> None:
    """librosa 0.11.0: log(1e-6 + feature.melspectrogram(0.5 sin(2 pi 440 t), sr=8000, n_fft=256,
    win_length=200, hop_length=80, center=False, n_mels=6, fmin=20, htk=True, norm=None))."""
    features = LogMel(mels=6)
    frames, lengths = features.frames([tone(440)], RATE)
    # Ours begin where the window does, theirs where the transform does: the last frame is theirs no more.
    assert lengths.tolist() == [8]
    expected = torch.tensor([5.929198, 6.714343, -5.382611, -11.776764, -13.634246, -13.801814])
    wave = torch.nn.functional.pad(tone(440), (28, 28)).unfold(0, 256, 80)
    window = torch.nn.functional.pad(torch.hann_window(200), (28, 28))
    power = torch.fft.rfft(wave * window).abs().square()
    plain = torch.log(power @ mel_filters(torch.linspace(0, 4000, 129), 6, 20.0, 4000.0) + 1e-6)
    torch.testing.assert_close(plain[0, :2], expected[:2], atol=0.02, rtol=0)
    torch.testing.assert_close(plain[0, 2:], expected[2:], atol=0.6, rtol=0)
    normalised = (plain - plain.mean(0)) / plain.std(0, correction=0).clamp(min=1e-3)
    torch.testing.assert_close(frames[:, 0], normalised, atol=2e-2, rtol=1e-3)


@given(
    samples=st.lists(st.integers(1, 3000), min_size=1, max_size=4),
    stack=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_a_rows_features_do_not_depend_on_the_other_rows(samples: list[int], stack: int, seed: int) -> None:
    torch.manual_seed(seed)
    features = LogMel(mels=8, stack=stack)
    rows = [torch.randn(count) for count in samples]
    together, lengths = features(rows, RATE)
    assert together.shape == (int(lengths.max()), len(rows), features.output_size)
    for column, row in enumerate(rows):
        alone, (length,) = features([row], RATE)
        assert length == lengths[column] == features.steps(len(row), RATE) == len(alone)
        torch.testing.assert_close(together[:length, column], alone[:, 0], atol=1e-3, rtol=1e-3)
        assert together[length:, column].abs().sum() == 0


def test_each_filter_has_mean_0_and_variance_1() -> None:
    frames, _ = LogMel(mels=8).frames([torch.randn(4000), torch.randn(2500)], RATE)
    assert frames[:, 0].mean(0).abs().max() < 1e-5
    torch.testing.assert_close(frames[:, 0].var(0, correction=0), torch.ones(8))
    silence, _ = LogMel().frames([torch.zeros(1000)], RATE)
    assert silence.abs().max() < 0.01  # rounding, far below the 1 of what is heard


def test_stacked_frames_stand_side_by_side() -> None:
    frames = torch.arange(10.0).view(5, 1, 2)
    stacked, lengths = LogMel(mels=2, stack=3).stacked(frames, torch.tensor([5]))
    assert lengths.tolist() == [2]
    assert stacked[:, 0].tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 0, 0]]


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_speed_changes_length_and_pitch(speed: float) -> None:
    fast = change_speed(tone(400, 0.5), speed)
    assert len(fast) == pytest.approx(4000 / speed, abs=1)
    peak = torch.fft.rfft(fast).abs().argmax() * RATE / len(fast)
    assert float(peak) == pytest.approx(400 * speed, abs=4)


@given(steps=st.integers(1, 60), seed=st.integers(0, 999))
def test_masks_are_within_their_bounds(steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.ones(steps, 20)
    Augmentation(frequency_masks=1, frequency_width=5, time_masks=1, time_width=30, time_share=0.25).mask(
        frames, generator
    )
    blank = frames == 0
    assert blank.all(0).sum() <= 5 or blank.all()
    assert blank.all(1).sum() <= steps // 4 + (steps if blank.all() else 0)
    again = torch.ones(steps, 20)
    Augmentation(frequency_masks=1, frequency_width=5, time_masks=1, time_width=30, time_share=0.25).mask(
        again, torch.Generator().manual_seed(seed)
    )
    assert torch.equal(frames, again)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogMel(mels=0), "mels and stack are at least 1; got 0"),
        (lambda: LogMel(hop_ms=0.0), "are positive"),
        (lambda: LogMel(lowest_hz=5000.0, highest_hz=4000.0), "below highest_hz; got 5000"),
        (lambda: LogMel(highest_hz=6000.0).check_rate(RATE), "below half the sampling rate, 4000 Hz"),
        (lambda: LogMel(mels=200).check_rate(RATE), "narrower than the spectrum is fine"),
        (lambda: LogMel(hop_ms=0.05).check_rate(RATE), "shorter than a sample"),
        (lambda: Augmentation(speeds=[0.0]), "speeds are one or more numbers from 0.1 to 10; got"),
        (lambda: Augmentation(speeds=[]), "one or more"),
        (lambda: Augmentation(time_masks=-1), "at least 0"),
        (lambda: Augmentation(time_share=2.0), r"time_share lies in \[0, 1\]; got 2.0"),
    ],
)
def test_bad_settings_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""Data files from strangers: arrays of pickles, bombs, and headers that promise too much."""

import gzip
import lzma
import os
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import World


class Payload:
    """What a pickle does when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.canary}'",)


@pytest.mark.parametrize(("pack", "suffix"), [(gzip.compress, "gz"), (lzma.compress, "xz")])
def test_a_table_that_would_fill_the_memory(world: World, pack: Any, suffix: str) -> None:
    file = world.folder / f"films.tsv.{suffix}"
    file.write_bytes(pack(b"text\tlabel\n" + b"a film\tgood\n" * 20_000_000))
    assert file.stat().st_size < 2_000_000
    world.refuses("train", "data=texts", f"data.source={file.name}", told="unpacks to more than")


@pytest.mark.parametrize("order", ["little", "big"])
def test_a_matlab_file_that_would_fill_the_memory(order: Any, tmp_path: Path) -> None:
    from rnnlab.data.piano_rolls import read_rolls

    pytest.importorskip("scipy")
    packed = zlib.compress(bytes(30 * 2**20), 9)
    variable = (15).to_bytes(4, order) + len(packed).to_bytes(4, order) + packed
    file = tmp_path / "bomb.mat"
    version = b"\x00\x01IM" if order == "little" else b"\x01\x00MI"
    file.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + version + 3 * variable)
    assert file.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"bomb\.mat: unpacks to more than 64 MiB"):
        read_rolls(file)
    file.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + version + variable)
    with pytest.raises(ValueError, match=r"SciPy cannot read it|none of traindata"):
        read_rolls(file)


def test_a_sparse_matrix_is_no_set_of_pieces(tmp_path: Path) -> None:
    from rnnlab.data.piano_rolls import read_rolls

    scipy_io, sparse = pytest.importorskip("scipy.io"), pytest.importorskip("scipy.sparse")
    scipy_io.savemat(tmp_path / "set.mat", {"traindata": sparse.csc_array((2**20, 2**11))})
    with pytest.raises(ValueError, match="traindata: expected cells of pieces, got "):
        read_rolls(tmp_path / "set.mat")


def npy(header: bytes, content: bytes) -> bytes:
    padded = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + content


def clips(world: World) -> dict[str, bytes]:
    pickled = pickle.dumps(np.array([Payload(world.canary)], dtype=object))
    return {
        "pickles": npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickled),
        "a pickle alone": pickle.dumps(Payload(world.canary)),
        "2^40 numbers": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1048576, 1048576), }", b"x"),
        "an expression": npy(b"{'descr': __import__('os').system('touch canary'), 'shape': (1,), }", b"x"),
    }


@pytest.mark.parametrize("kind", ["pickles", "a pickle alone", "2^40 numbers", "an expression"])
def test_an_array_is_numbers(world: World, kind: str) -> None:
    from rnnlab.data.video import read_clip

    file = world.folder / "clip.npy"
    file.write_bytes(clips(world)[kind])
    with pytest.raises(ValueError, match=r"clip\.npy: "):
        read_clip(file)
    assert not world.canary.exists() and sorted(path.name for path in world.folder.iterdir()) == ["clip.npy"]


def test_a_sound_that_promises_more_than_it_holds(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    from rnnlab.data.audio import read_sound

    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    body = form + struct.pack("<4sI", b"data", 2**32 - 2**16) + bytes(100)
    file = tmp_path / "x.wav"
    file.write_bytes(struct.pack("<4sI4s", b"RIFF", 2**32 - 1, b"WAVE") + body)
    # A size of nearly 2^32 stands for "until the end" in streamed files; either way nothing is made up.
    assert len(read_sound(file).samples) <= 50


def test_a_data_set_of_the_hub_is_kept_where_the_user_keeps_them(world: World) -> None:
    world.refuses("train", "data=imdb", "data.hub_options={cache_dir: ../outside}", told="cache_dir")

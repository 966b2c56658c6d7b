"""Compressed files as they are, in parts, cut short, and made to fill the memory."""

import gzip
import lzma
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnlab.data.unpack import SMALL_BYTES, unpack

PACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACK)
@settings(max_examples=20)
@given(parts=st.lists(st.binary(max_size=2000), max_size=3), times=st.integers(1, 300))
def test_what_was_packed_comes_back(suffix: str, parts: list[bytes], times: int) -> None:
    data = [part * times for part in parts]
    assert unpack(b"".join(PACK[suffix](part) for part in data), suffix) == b"".join(data)


def test_other_files_are_left_alone() -> None:
    assert unpack(b"text", ".txt") == b"text"


@pytest.mark.parametrize("suffix", PACK)
def test_damage_is_told(suffix: str) -> None:
    packed = PACK[suffix](b"some text, and more of it" * 50)
    for broken in (packed[:-9], packed[:12], b"no archive at all", packed[:20] + b"x" + packed[21:]):
        with pytest.raises((EOFError, zlib.error, lzma.LZMAError)):
            unpack(broken, suffix)


@pytest.mark.parametrize("suffix", PACK)
def test_a_bomb_is_refused(suffix: str) -> None:
    bomb = PACK[suffix](bytes(SMALL_BYTES + 1))
    with pytest.raises(ValueError, match="unpacks to more than 64 MiB"):
        unpack(bomb, suffix)
    assert len(unpack(PACK[suffix](bytes(SMALL_BYTES // 8)), suffix)) == SMALL_BYTES // 8

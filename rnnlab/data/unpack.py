"""Compressed files, unpacked as far as a file of their size can honestly be."""

import contextlib
import lzma
import zlib
from typing import Literal

# What text is packed to at best, with room: more than that is made to fill the memory.
HIGHEST_RATIO = 100
SMALL_BYTES = 64 * 2**20


def unpack(raw: bytes, suffix: str) -> bytes:
    """The contents of a `.gz` or `.xz` file.

    Args:
        raw: the packed bytes.
        suffix: ".gz" or ".xz"; with any other the bytes are returned as they are.

    Raises:
        EOFError, zlib.error, lzma.LZMAError: it is damaged.
        ValueError: it unpacks to more than 100 times its size, and more than 64 MiB.
    """
    if suffix not in (".gz", ".xz"):
        return raw
    largest = _largest(raw)
    made, left = bytearray(), raw
    while left:  # files of several parts are read one after another
        stream = zlib.decompressobj(31) if suffix == ".gz" else lzma.LZMADecompressor()
        fed = left
        while not stream.eof:
            piece = stream.decompress(fed, largest + 1 - len(made))
            made += piece
            if len(made) > largest:
                raise _too_much(largest)
            fed = stream.unconsumed_tail if isinstance(stream, _GZIP) else b""
            if not piece and not fed and not stream.eof:
                raise EOFError("the file ends too early")
        left = stream.unused_data.lstrip(b"\0")
    return bytes(made)


def check_matlab(raw: bytes) -> None:
    """Look at how much the packed variables of a MATLAB 5 file come to, before anybody unpacks them.

    Raises:
        ValueError: together more than 100 times the file's size, and more than 64 MiB.
    """
    largest, made = _largest(raw), 0
    order: Literal["little", "big"] = "little" if raw[126:128] == b"IM" else "big"
    at = _MATLAB_HEADER
    while at + 8 <= len(raw):
        kind, size = (int.from_bytes(raw[place : place + 4], order) for place in (at, at + 4))
        at += 8
        if kind == _MATLAB_PACKED:
            stream, fed = zlib.decompressobj(), raw[at : at + size]
            with contextlib.suppress(zlib.error):  # damaged: whoever reads it will say so
                while fed and not stream.eof:
                    made += len(stream.decompress(fed, 2**20))
                    if made > largest:
                        raise _too_much(largest)
                    fed = stream.unconsumed_tail
        at += size


def _largest(raw: bytes) -> int:
    return max(SMALL_BYTES, HIGHEST_RATIO * len(raw))


def _too_much(largest: int) -> ValueError:
    return ValueError(
        f"unpacks to more than {largest / 2**20:,.0f} MiB, {HIGHEST_RATIO} times its size; "
        "unpack it yourself if you trust it"
    )


_GZIP = type(zlib.decompressobj(31))
_MATLAB_HEADER, _MATLAB_PACKED = 128, 15

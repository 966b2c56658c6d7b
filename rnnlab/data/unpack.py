"""Compressed files, unpacked as far as a file of their size can honestly be."""

import lzma
import zlib

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
    largest = max(SMALL_BYTES, HIGHEST_RATIO * len(raw))
    made, left = bytearray(), raw
    while left:  # files of several parts are read one after another
        stream = zlib.decompressobj(31) if suffix == ".gz" else lzma.LZMADecompressor()
        fed = left
        while not stream.eof:
            piece = stream.decompress(fed, largest + 1 - len(made))
            made += piece
            if len(made) > largest:
                raise ValueError(
                    f"unpacks to more than {largest / 2**20:,.0f} MiB, {HIGHEST_RATIO} times its "
                    "size; unpack it yourself if you trust it"
                )
            fed = stream.unconsumed_tail if isinstance(stream, _GZIP) else b""
            if not piece and not fed and not stream.eof:
                raise EOFError("the file ends too early")
        left = stream.unused_data.lstrip(b"\0")
    return bytes(made)


_GZIP = type(zlib.decompressobj(31))

"""Shared objects by what they were made of: found in a folder, or compiled and put there.

A file is the shared object (or a note of what the compiler said) followed by its own digest, so that one that
was cut short or changed is noticed and made again. It appears by an atomic rename, so that processes may
race. Code is loaded from here, so the folder is its user's alone, and so is each file.
"""

import ctypes
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

DIGEST_BYTES = 32


def folder() -> Path:
    """The cache folder: `RNNLAB_CACHE_DIR`, or rnnlab under `XDG_CACHE_HOME` or ~/.cache.

    One that cannot be written, or that belongs to somebody else, is replaced by a temporary folder for the
    life of this process, with one line in the log.
    """
    return _usable(os.environ.get("RNNLAB_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME"))


def wanted() -> Path:
    """Where the cache folder is looked for, whether or not it can be used."""
    return _wanted(os.environ.get("RNNLAB_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME"))


def _wanted(chosen: str | None, xdg: str | None) -> Path:
    if chosen:
        return Path(chosen).expanduser() / "cpu"
    return (Path(xdg) if xdg else Path("~/.cache").expanduser()) / "rnnlab" / "cpu"


@cache
def _usable(chosen: str | None, xdg: str | None) -> Path:
    path = _wanted(chosen, xdg)
    reason = unfit(path)
    if reason is None:
        return path
    log.warning(
        "rnnlab's kernel cache %s cannot be used (%s); kernels are kept for this process only", path, reason
    )
    return _temporary()


@cache
def _temporary() -> Path:
    holder = tempfile.TemporaryDirectory(prefix="rnnlab-")
    _holders.append(holder)
    return Path(holder.name)


_holders: list[tempfile.TemporaryDirectory[str]] = []


def unfit(path: Path) -> str | None:
    """Why a folder cannot hold the cache; None if it can. It is made where it does not exist."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return "it is a link"
        if status.st_uid != os.getuid():
            return "it belongs to another user"
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return "others may write to it"
        if (above := _open_to_all(path)) is not None:
            return f"anybody may replace what is in {above}"
        if status.st_mode & 0o077:
            path.chmod(0o700)
        with tempfile.NamedTemporaryFile(dir=path) as probe:
            probe.write(b"\0" * 4096)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _open_to_all(path: Path) -> Path | None:
    """The folder above `path` whose entries anybody may rename; None where there is none."""
    for above in path.resolve().parents:
        mode = above.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return above
    return None


def load(key: str, make: Callable[[Path], None]) -> ctypes.CDLL:
    """The shared object with this key, made by `make(path)` where the cache lacks a sound one."""
    path = folder() / f"{key}.so"
    if not _sound(path):
        path = _build(path, make)
    return ctypes.CDLL(str(path))


def recall(name: str) -> bytes | None:
    """What was kept under a name; None where there is no sound file."""
    return _content(folder() / name)


def keep(name: str, content: bytes) -> None:
    """Keep what a later process may `recall`; nothing is kept where the folder cannot be written."""

    def make(path: Path) -> None:
        path.write_bytes(content)

    path = folder() / name
    try:
        _put(path, make)
    except OSError as error:
        log.debug("rnnlab could not write %s (%s)", path, error.strerror)


def _build(path: Path, make: Callable[[Path], None]) -> Path:
    try:
        return _put(path, make)
    except OSError as error:
        log.warning(
            "rnnlab could not write %s (%s); the kernel is kept for this process only", path, error.strerror
        )
        return _put(_temporary() / path.name, make)


def _put(path: Path, make: Callable[[Path], None]) -> Path:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as work:
        made = Path(work) / path.name
        make(made)
        with made.open("ab") as file:
            file.write(hashlib.sha256(made.read_bytes()).digest())
            file.flush()
        made.chmod(0o600)
        made.replace(path)
    return path


def _sound(path: Path) -> bool:
    """Whether a file is the user's own, no link, and holds what was put there."""
    return _content(path) is not None


def _content(path: Path) -> bytes | None:
    """What was put into a file; None where it is not sound."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
                return None
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
            content = file.read()
    except OSError:
        return None
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    return body if body and hashlib.sha256(body).digest() == digest else None

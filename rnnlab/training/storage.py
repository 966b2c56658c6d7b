"""Files that are whole or absent, and the manifest by which a damaged one is told.

A file is written under a temporary name in its own folder, flushed to the disk and renamed, and the folder
is flushed; whatever `$TMPDIR` is, no data cross a file system. The manifest names a file's digest before the
file gets its name, so that at every moment each file in place has its digest in the manifest.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from rnnlab.training.archive import UnsafeFile, load_archive

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
# How many digests of a name the manifest remembers: the file, the one before, and one that is being written.
REMEMBERED = 3
SUFFIX = ".tmp"
# What only continued training needs, by the names that Lightning gives it.
OF_TRAINING = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "resume", "current_model_state")


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint does not hold what was written; another one takes its place."""


@contextlib.contextmanager
def whole_file(path: Path, announce: Callable[[str, int], None] | None = None) -> Iterator[IO[bytes]]:
    """A binary file to write to, which appears at `path` when the block has ended well.

    Args:
        path: replaced if it is there.
        announce: called with SHA-256 and size when all is on the disk, before the file gets its name.

    Raises:
        OSError: the disk is full, the folder cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        with temporary.open("xb") as raw:
            stream = _Digesting(raw)
            yield stream  # type: ignore[misc]
            stream.finish()
            os.fsync(raw.fileno())
        if announce is not None:
            announce(stream.digest, stream.size_bytes)
        os.replace(temporary, path)
        flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


class _Digesting:
    """Passes bytes on, and digests them.

    A failed write is kept for `finish`: raised within `torch.save` it would come out as an error of its zip
    writer, without the reason.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._sha256 = hashlib.sha256()
        self._error: OSError | None = None
        self.size_bytes = 0

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if self._error is None:
            try:
                self._raw.write(view)
            except OSError as error:
                self._error = error
            self._sha256.update(view)
            self.size_bytes += view.nbytes
        return view.nbytes

    def flush(self) -> None:
        if self._error is None:
            try:
                self._raw.flush()
            except OSError as error:
                self._error = error

    def finish(self) -> None:
        """Hand everything to the system, and raise what went wrong."""
        self.flush()
        if self._error is not None:
            raise self._error

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file that is whole or as it was before."""
    with whole_file(path) as stream:
        stream.write(text.encode())


def flush_folder(folder: Path) -> None:
    """Let the names in a folder be on the disk; where folders cannot be flushed, nothing is done."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def clean_leftovers(folder: Path) -> list[Path]:
    """Take away the temporary files of writers that were killed, and their entries of the manifest.

    Only for a folder in which nobody writes now.

    Returns:
        The files that were taken away.
    """
    found = [path for path in folder.glob(f".*{SUFFIX}") if path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    entries = read_manifest(folder)
    kept = _of_present_files(folder, entries)
    if kept and kept != entries:
        _write_manifest(folder, kept)
    return found


def _of_present_files(folder: Path, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries without those of files that never got their name, which would push out the others.

    Of a file that is damaged all entries stay, so that it is known to be.
    """
    names = {name for entry in entries for name in entry.get("names", ())}
    digests = {name: _digest(folder / name) for name in names if (folder / name).is_file()}
    known = {entry["sha256"] for entry in entries}
    damaged = {name for name, digest in digests.items() if digest not in known}
    present = set(digests.values())
    return [entry for entry in entries if entry["sha256"] in present or damaged & set(entry["names"])]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """The entries of a folder's manifest, oldest first; none where it is missing or cannot be read."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        entries = list(content["files"]) if content["format"] == MANIFEST_FORMAT else []
        return [entry for entry in entries if _is_entry(entry)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _is_entry(entry: Any) -> bool:
    """Whether an entry is of our form; names lead to no other folder, whoever wrote them."""
    if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
        return False
    names = entry.get("names")
    return isinstance(names, list) and bool(names) and all(map(_is_file_name, names))


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name and "\0" not in name


def is_whole(file: Path) -> bool:
    """Whether a file holds what the manifest beside it says; true where no manifest speaks of it."""
    entries = [entry for entry in read_manifest(file.parent) if file.name in entry.get("names", ())]
    if not entries:
        return True
    size = file.stat().st_size
    if all(entry.get("size_bytes") != size for entry in entries):
        return False
    digest = _digest(file)
    return any(entry["sha256"] == digest for entry in entries)


def first_whole(candidates: list[Path]) -> Path | None:
    """The first of the files that is there and whole; of each damaged one before it a warning is given."""
    for file in candidates:
        if not file.is_file():
            continue
        if is_whole(file):
            return file
        warnings.warn(
            f"{file}: damaged, its content is not what was written; the checkpoint before it is used",
            DamagedCheckpointWarning,
            stacklevel=3,
        )
    return None


class WholeCheckpointIO(CheckpointIO):
    """Lightning's checkpoints as files that are whole or absent, with their digests in `manifest.json`.

    `storage_options` may hold `keep`, the name under which the file that is replaced stays, and
    `weights_only`, to leave out what only continued training needs.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Mapping[str, Any] | None = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: it cannot be written; the one before is still there.
        """
        options = dict(storage_options or {})
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        if options.get("weights_only", False):
            checkpoint = {key: value for key, value in checkpoint.items() if key not in OF_TRAINING}
        keep = options.get("keep")

        def announce(digest: str, size_bytes: int) -> None:
            entry = {
                "names": [file.name, keep] if keep else [file.name],
                "sha256": digest,
                "size_bytes": size_bytes,
                "step": checkpoint.get("global_step"),
                "epoch": checkpoint.get("epoch"),
                "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
            _write_manifest(file.parent, [*read_manifest(file.parent), entry])
            if keep and file.exists():
                _keep(file, file.with_name(keep))

        with whole_file(file, announce) as stream:
            torch.save(checkpoint, stream)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; tensors and plain containers alone, whatever is asked for.

        Raises:
            ValueError: it is anything else; see `load_archive`.
        """
        try:
            content: dict[str, Any] = load_archive(Path(path), map_location or "cpu")
        except UnsafeFile as error:
            raise ValueError(f"{path}: cannot be read ({error}); expected a checkpoint of rnnlab") from error
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Take a checkpoint away."""
        Path(path).unlink(missing_ok=True)


def _keep(file: Path, other: Path) -> None:
    """Let the content of `file` stand under another name too, which it replaces."""
    if other.exists() and other.samefile(file):
        return  # a writer was killed just after this; renaming one name of a file to another does nothing
    temporary = other.with_name(f".{other.name}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        os.link(file, temporary)
    except OSError:  # a file system without hard links: for a moment only the other name is there
        os.replace(file, other)
        return
    os.replace(temporary, other)


def _write_manifest(folder: Path, entries: list[dict[str, Any]]) -> None:
    """Write the newest entries of each name."""
    kept: list[dict[str, Any]] = []
    for entry in reversed(entries):
        first = entry["names"][0]
        if sum(other["names"][0] == first for other in kept) < REMEMBERED:
            kept.insert(0, entry)
    text = json.dumps({"format": MANIFEST_FORMAT, "files": kept}, indent=1)
    write_text_whole(folder / MANIFEST, text + "\n")

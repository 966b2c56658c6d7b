"""Files are whole or absent, and damaged ones are told from whole ones."""

import errno
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from rnnlab.training import storage
from rnnlab.training.continuation import open_run
from rnnlab.training.run import RunResult, train
from rnnlab.training.storage import (
    DamagedCheckpointWarning,
    WholeCheckpointIO,
    clean_leftovers,
    is_whole,
    read_manifest,
    whole_file,
)


def save(folder: Path, step: int, keep: str | None = "previous.ckpt") -> Path:
    content: dict[str, Any] = {"global_step": step, "epoch": 0, "weights": torch.full((1000,), float(step))}
    WholeCheckpointIO().save_checkpoint(content, folder / "last.ckpt", {"keep": keep})
    return folder / "last.ckpt"


def test_every_file_in_place_has_its_digest_in_the_manifest(tmp_path: Path) -> None:
    for step in range(1, 6):
        last = save(tmp_path, step)
        files = [last, tmp_path / "previous.ckpt"][: min(step, 2)]
        assert all(is_whole(file) for file in files)
        assert [torch.load(file)["global_step"] for file in files] == [step, step - 1][: min(step, 2)]
    assert [entry["step"] for entry in read_manifest(tmp_path)] == [3, 4, 5]
    assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "manifest.json", "previous.ckpt"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damage_is_told(damage: str, tmp_path: Path) -> None:
    last = save(tmp_path, 1)
    raw = bytearray(last.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 1
    last.write_bytes({"cut": raw[:-10], "flip": raw, "empty": b""}[damage])
    assert not is_whole(last)


def test_a_manifest_of_another_form_names_nothing(tmp_path: Path) -> None:
    file = save(tmp_path, 1)
    whole = read_manifest(tmp_path)
    strange: list[Any] = [5, {"sha256": 1, "names": ["x"]}, {"sha256": "x"}, {"sha256": "x", "names": []}]
    strange += [
        {"sha256": "x", "names": [name]} for name in ("../last.ckpt", "/dev/zero", 7, "", "..", "a\0b")
    ]
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"format": 1, "files": [*strange, *whole]}), encoding="utf-8")
    assert read_manifest(tmp_path) == whole
    assert clean_leftovers(tmp_path) == [] and is_whole(file)
    save(tmp_path, 2)
    assert len(read_manifest(tmp_path)) == 2
    manifest.write_text(json.dumps({"format": 1, "files": 3}), encoding="utf-8")
    assert read_manifest(tmp_path) == []


def test_what_no_manifest_speaks_of_is_left_to_the_reader(tmp_path: Path) -> None:
    last = save(tmp_path, 1)
    other = tmp_path / "mine.ckpt"
    other.write_bytes(last.read_bytes())
    assert is_whole(other)
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    assert is_whole(last)
    assert json.loads(save(tmp_path, 2).with_name("manifest.json").read_text(encoding="utf-8"))["format"] == 1


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"before")

    def fail() -> None:
        with whole_file(file) as stream:
            stream.write(b"after")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert file.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["x"]


def test_leftovers_of_killed_writers_are_taken_away(tmp_path: Path) -> None:
    last = save(tmp_path, 1)
    (tmp_path / ".last.ckpt.0123abcd.tmp").write_bytes(b"half")
    assert [path.name for path in clean_leftovers(tmp_path)] == [".last.ckpt.0123abcd.tmp"]
    assert is_whole(last)


def test_writers_that_are_killed_before_the_rename_push_no_digest_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, previous = save(tmp_path, 1), save(tmp_path, 2).with_name("previous.ckpt")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_keep", _killed)
        for step in range(3, 9):
            with pytest.raises(InterruptedError):
                save(tmp_path, step)
            clean_leftovers(tmp_path)
            assert is_whole(last) and is_whole(previous)
    previous.write_bytes(b"damaged")
    clean_leftovers(tmp_path)
    assert not is_whole(previous)


def _killed(*files: Path) -> None:
    raise InterruptedError


class FullDisk:
    """A file on a disk with a little room."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, data: memoryview) -> int:
        self.room -= data.nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return data.nbytes


def test_a_full_disk_is_told_by_its_name_and_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = save(tmp_path, 1)
    before = last.read_bytes()
    full = FullDisk(room=3000)
    monkeypatch.setattr(storage._Digesting, "write", _limited(storage._Digesting.write, full))
    with pytest.raises(OSError, match="No space left on device") as caught:
        save(tmp_path, 2)
    assert caught.value.errno == errno.ENOSPC and str(caught.value.filename).endswith("last.ckpt")
    assert last.read_bytes() == before and is_whole(last)
    assert clean_leftovers(tmp_path) == []


def _limited(write: Any, full: FullDisk) -> Any:
    def limited(self: Any, data: Any) -> int:
        if self._error is None:
            try:
                full.write(memoryview(data))
            except OSError as error:
                self._error = error
        return write(self, data)

    return limited


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 7}, "state of training in format 7, this rnnlab reads 1"),
        ({"loggers": [{"rows": 1}]}, r"metrics\.csv has another form \(rows; expected rows, columns, last\)"),
    ],
)
def test_the_state_of_another_version_is_refused_by_name(
    run: RunResult, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    (folder / "checkpoints" / "manifest.json").unlink()
    file = folder / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    content["resume"].update(change)
    torch.save(content, file)
    before = (folder / "metrics.csv").read_bytes()
    with pytest.raises(ValueError, match=told):
        train(resume=folder)
    assert (folder / "metrics.csv").read_bytes() == before


def test_a_checkpoint_is_read_as_strictly_as_a_stranger_s(tmp_path: Path) -> None:
    file = save(tmp_path, 3)
    assert WholeCheckpointIO().load_checkpoint(file)["global_step"] == 3
    packed = tmp_path / "packed.ckpt"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(ValueError, match=r"packed\.ckpt: cannot be read \(its entries are compressed"):
        WholeCheckpointIO().load_checkpoint(packed)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(run: RunResult, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    newest = open_run(folder)
    assert newest.file is not None and newest.file.name == "last.ckpt"
    newest.file.write_bytes(newest.file.read_bytes()[:-100])
    with pytest.warns(DamagedCheckpointWarning, match=r"last\.ckpt: damaged"):
        second = open_run(folder)
    assert second.file is not None and second.file.name == "previous.ckpt"
    (folder / "checkpoints" / "last.ckpt").unlink()
    assert open_run(folder).file == second.file
    for file in (folder / "checkpoints").glob("*.ckpt"):
        file.write_bytes(b"")
    with (
        pytest.warns(DamagedCheckpointWarning),
        pytest.raises(FileNotFoundError, match=r"no checkpoint .* whole"),
    ):
        open_run(folder)


def test_a_kill_between_keeping_and_renaming_leaves_nothing_at_the_next_save(tmp_path: Path) -> None:
    """Then both names are one file, and a rename between names of one file does nothing."""
    save(tmp_path, 1)
    os.link(tmp_path / "last.ckpt", tmp_path / "previous.ckpt")
    save(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "manifest.json", "previous.ckpt"]
    steps = [torch.load(tmp_path / name)["global_step"] for name in ("previous.ckpt", "last.ckpt")]
    assert steps == [1, 2]

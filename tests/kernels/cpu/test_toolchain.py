"""What the compiler says of itself: asked for once a machine, and again whenever it may have changed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rnnlab_kernels.cpu import toolchain

pytestmark = pytest.mark.skipif(
    toolchain.missing() is not None or sys.platform != "linux", reason="needs a compiler, on Linux"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RNNLAB_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels" / "cpu"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of g++ that may be replaced."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("needs g++")
    copy = tmp_path / "g++"
    shutil.copy(os.path.realpath(found), copy)
    monkeypatch.setenv("CXX", str(copy))
    compiler = subprocess.run([found, "-print-prog-name=cc1plus"], capture_output=True, text=True, check=True)
    monkeypatch.setenv("COMPILER_PATH", str(Path(compiler.stdout).parent))
    return copy


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that the compiler was asked by."""
    asked: list[list[str]] = []
    output = toolchain._output

    def counted(command: list[str]) -> str:
        asked.append(command)
        return output(command)

    monkeypatch.setattr(toolchain, "_output", counted)
    return asked


def as_a_new_process() -> toolchain.Compiler:
    return toolchain._compiler.__wrapped__(*map(os.environ.get, ("CXX", "CC", "PATH")))


def test_asks_once_a_machine(folder, driver, runs):
    first = as_a_new_process()
    assert len(runs) == 2 and [path.name.split("-")[0] for path in folder.iterdir()] == ["compiler"]
    assert as_a_new_process() == first
    assert len(runs) == 2
    assert "(GCC)" in first.version or "g++" in first.version


@pytest.mark.parametrize("change", ["replaced", "touched", "moved", "environment", "arguments"])
def test_asks_again_where_the_compiler_may_have_changed(folder, driver, runs, change, monkeypatch):
    as_a_new_process()
    if change == "replaced":
        before = driver.stat()
        other = driver.with_name("other")
        shutil.copy(driver, other)
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(driver)
    elif change == "touched":
        os.utime(driver, ns=(1, 1))
    elif change == "moved":
        monkeypatch.setenv("CXX", str(driver.rename(driver.with_name("x86-g++-12"))))
    elif change == "environment":
        monkeypatch.setenv("CPATH", str(folder))
    else:
        monkeypatch.setenv("CXX", f"{driver} -mno-avx512f")
    as_a_new_process()
    assert len(runs) == 4


@pytest.mark.parametrize("kind", ["a script", "named otherwise", "reads a file"])
def test_what_may_change_unseen_is_asked_each_time(folder, driver, runs, kind, monkeypatch):
    if kind == "a script":
        real = driver.rename(driver.with_name("real"))
        driver.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
        driver.chmod(0o755)
    elif kind == "named otherwise":
        monkeypatch.setenv("CXX", str(driver.rename(driver.with_name("ccache"))))
    else:
        (driver.parent / "arguments").write_text("-pipe")
        monkeypatch.setenv("CXX", f"{driver} @{driver.parent}/arguments")
    assert as_a_new_process() == as_a_new_process()
    assert len(runs) == 4 and not folder.exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "a folder", "a pipe", "a link"])
def test_a_damaged_note_is_written_again(folder, driver, runs, damage):
    first = as_a_new_process()
    (note,) = folder.iterdir()
    content = note.read_bytes()
    note.unlink()
    if damage == "a folder":
        note.mkdir()
        (note / "file").touch()
    elif damage == "a pipe":
        os.mkfifo(note)
    elif damage == "a link":
        note.symlink_to(driver)
    else:
        changed = content[:3] + bytes([content[3] ^ 1]) + content[4:]
        note.write_bytes({"cut": content[:-1], "changed": changed, "empty": b""}[damage])
    assert as_a_new_process() == first
    assert len(runs) == 4
    if damage != "a folder":  # which is in the way
        assert not note.is_symlink() and note.read_bytes() == content


def test_a_full_cache_folder_is_no_error(folder, driver, runs, monkeypatch):
    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(toolchain.files, "_put", full)
    assert as_a_new_process() == as_a_new_process()
    assert len(runs) == 4

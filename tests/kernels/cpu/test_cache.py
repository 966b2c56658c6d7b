"""The cache of shared objects and the compiler: damage, races, folders that cannot be used, no compiler."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import step_programs
import torch
from rnnlab_kernels import cpu
from rnnlab_kernels.cpu import cache, toolchain

pytestmark = pytest.mark.skipif(toolchain.missing() is not None, reason=str(toolchain.missing()))

SOURCE = 'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }\n'


def load(key: str) -> int:
    library = cache.load(key, lambda path: toolchain.compile_object(SOURCE, path, openmp=False))
    return library.answer()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RNNLAB_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels" / "cpu"


def test_compiles_once(folder):
    assert load("one") == 42
    made = (folder / "one.so").stat().st_mtime_ns
    assert load("one") == 42
    assert (folder / "one.so").stat().st_mtime_ns == made
    assert folder.stat().st_mode & 0o077 == 0
    assert [path.name for path in folder.iterdir()] == ["one.so"]


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_built_again(folder, damage):
    assert load("original") == 42
    content = (folder / "original.so").read_bytes()
    changed = content[:2000] + bytes([content[2000] ^ 1]) + content[2001:]
    # Under another name, since a library that is loaded must not be written to.
    path = folder / f"{damage}.so"
    path.write_bytes({"cut": content[:-100], "changed": changed, "empty": b""}[damage])
    assert load(damage) == 42
    assert path.stat().st_size == len(content)


def test_a_folder_that_others_may_read_is_closed(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    assert load("closed") == 42
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["a link", "others may write", "not a file"])
def test_a_file_that_somebody_else_could_have_put_there_is_built_again(folder, kind):
    assert load("trusted") == 42
    trusted, file = folder / "trusted.so", folder / "planted.so"
    if kind == "a link":
        file.symlink_to(trusted)
    elif kind == "others may write":
        file.write_bytes(trusted.read_bytes())
        file.chmod(0o666)
    else:
        os.mkfifo(file)
    assert load("planted") == 42
    assert not file.is_symlink() and file.is_file() and file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["file in the way", "others may write", "a link", "open above", "another's"])
def test_a_folder_that_cannot_be_used_is_replaced(folder, caplog, kind, tmp_path, monkeypatch):
    if kind == "file in the way":
        folder.parent.write_text("")
    elif kind == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.parent.mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "open above":
        folder.mkdir(parents=True, mode=0o700)
        folder.parent.chmod(0o777)
    elif kind == "another's":
        folder.mkdir(parents=True, mode=0o700)
        if os.getuid() == 0:
            os.chown(folder, 12345, 12345)
        else:  # nobody but root can give a folder away
            monkeypatch.setattr(os, "getuid", lambda: 12345)
    else:
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        assert load("elsewhere") == 42
        assert load("elsewhere") == 42
    assert len(caplog.records) == 1
    assert "this process only" in caplog.text


def test_two_processes_may_race(folder):
    code = (
        "import torch, step_programs\n"
        "from rnnlab_kernels import cpu\n"
        "program = step_programs.lstm(3, 5)\n"
        "inputs, states = step_programs.tensors(program, 4, 2)\n"
        "print(float(cpu.run(program, inputs, states)[0][0].sum()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(step_programs.__file__).parent)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = {process.communicate(timeout=120)[0] for process in processes}
    assert len(answers) == 1 and all(process.returncode == 0 for process in processes)
    assert len(list(folder.glob("*.so"))) == 2


def test_the_compiler_that_is_named_is_used(monkeypatch):
    monkeypatch.setenv("CXX", "g++ -pipe")
    assert toolchain.compiler().command == ("g++", "-pipe")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in str(cpu.refusal(step_programs.lstm(3, 5), torch.float32))


def test_without_a_compiler_the_reason_says_what_to_install(monkeypatch):
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    reason = str(cpu.refusal(step_programs.lstm(3, 5), torch.float32))
    assert "no C++ compiler" in reason and "install" in reason


def test_a_compiler_that_fails_says_why(tmp_path):
    with pytest.raises(toolchain.ToolchainError, match="failed"):
        toolchain.compile_object("this is no C++", tmp_path / "x.so", openmp=False)

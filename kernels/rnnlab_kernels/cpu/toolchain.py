"""The machine's C++ compiler: which one, with which flags, and a shared object from source text."""

import hashlib
import json
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rnnlab_kernels.cpu import cache as files

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
HEADERS = ("simd.hpp", "program.hpp", "team.hpp", "pack.hpp", "loop.hpp", "contract.hpp")
TIMEOUT_S = 300.0

# A driver of this name does itself what it is asked for; ccache, a script or Apple's shim pass it on.
DRIVERS = re.compile(r"(.+-)?(g\+\+|gcc|c\+\+|clang\+\+|clang)(-[\d.]+)?")
ENVIRONMENT = ("GCC_EXEC_PREFIX", "COMPILER_PATH", "CPATH", "CPLUS_INCLUDE_PATH", "CCC_OVERRIDE_OPTIONS")
"""What else decides a driver's answers."""


class ToolchainError(RuntimeError):
    """No compiler, or one that failed."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler and what decides its output."""

    command: tuple[str, ...]
    version: str
    target: str
    flags: tuple[str, ...]
    openmp: tuple[str, ...]


def missing() -> str | None:
    """Why nothing can be compiled here, and what would help; None where a compiler works."""
    try:
        compiler()
    except ToolchainError as error:
        return str(error)
    return None


def compiler() -> Compiler:
    """The compiler that `CXX` or `CC` names, or else the first of c++, g++ and clang++.

    Raises:
        ToolchainError: there is none, or it does not run.
    """
    return _compiler(os.environ.get("CXX"), os.environ.get("CC"), os.environ.get("PATH"))


@cache
def _compiler(cxx: str | None, cc: str | None, path: str | None) -> Compiler:
    if sys.platform == "win32":
        raise ToolchainError("the CPU backend compiles with GCC or Clang, which Windows lacks; WSL has them")
    named = next(((name, shlex.split(value)) for name, value in (("CXX", cxx), ("CC", cc)) if value), None)
    if named is not None:
        variable, command = named
        if shutil.which(command[0], path=path) is None:
            raise ToolchainError(f"{variable} names the C++ compiler {command[0]!r}, which is not installed")
        if variable == "CC":
            command += ["-x", "c++"]
        return _inspect(tuple(command))
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name, path=path) is not None:
            return _inspect((name,))
    advice = (
        "xcode-select --install" if sys.platform == "darwin" else "apt install g++, or dnf install gcc-c++"
    )
    raise ToolchainError(f"no C++ compiler was found (c++, g++, clang++); install one ({advice}) or set CXX")


def _inspect(command: tuple[str, ...]) -> Compiler:
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    version, target = _answers(command, native)
    flags: tuple[str, ...] = (
        "-std=c++17",
        "-O2",
        native,
        "-ffp-contract=fast",
        "-fno-math-errno",
        "-fno-trapping-math",
    )
    quiet = ("-Wno-psabi", "-Wno-unused-function")
    flags = (*flags, "-fPIC", "-shared", "-fvisibility=hidden", *quiet)
    # Apple's compiler has no OpenMP library of its own; the kernels then run on one thread.
    openmp = () if sys.platform == "darwin" else ("-fopenmp",)
    return Compiler(command, version, target, flags, openmp)


def _answers(command: tuple[str, ...], native: str) -> tuple[str, str]:
    """A compiler's version and the machine that it compiles for: as kept by an earlier process, or asked."""
    decides = _decides(command)
    note = decides and f"compiler-{hashlib.sha256(decides.encode()).hexdigest()[:32]}"
    kept = files.recall(note) if note else None
    if kept is not None:
        version, target = json.loads(kept)
        return version, target
    try:
        version = _output([command[0], "--version"]).splitlines()[0]
        macros = _output([*command, native, "-dM", "-E", "-x", "c++", os.devnull])
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise ToolchainError(f"the C++ compiler {command[0]!r} does not run ({error}); set CXX") from error
    instructions = sorted(line.split()[1] for line in macros.splitlines() if _names_instructions(line))
    target = f"{platform.machine()} {' '.join(instructions)}"
    if note:
        files.keep(note, json.dumps([version, target]).encode())
    return version, target


def _decides(command: tuple[str, ...]) -> str | None:
    """All that decides a compiler's answers; None where they may change unseen."""
    path = os.path.realpath(shutil.which(command[0]) or command[0])
    names_files = any(set("/=@") & set(argument) for argument in command[1:])
    if sys.platform != "linux" or names_files or DRIVERS.fullmatch(os.path.basename(path)) is None:
        return None
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"\x7fELF":
                return None
            status = os.fstat(file.fileno())
        processor = _processor()
        code = Path(__file__).read_text()
    except OSError:
        return None
    identity = (path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    environment = [os.environ.get(name) for name in ENVIRONMENT]
    return json.dumps([command, identity, environment, processor, code])


def _processor() -> list[str]:
    """What the system says of the first processor, without what changes from moment to moment."""
    names = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")
    with open("/proc/cpuinfo") as file:
        lines = iter(file.readline, "")
        return [line for line in iter(lambda: next(lines, "\n"), "\n") if line.startswith(names)]


def _names_instructions(line: str) -> bool:
    name = line.split()[1] if len(line.split()) > 1 else ""
    return name.startswith(("__AVX", "__SSE", "__FMA", "__BMI", "__ARM_", "__F16C", "__tune_"))


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def compile_object(source: str, to: Path, *, openmp: bool, optimised: bool = True) -> None:
    """Compile source text to a shared object at `to`; not `optimised`, in a third of the time.

    Raises:
        ToolchainError: the compiler failed; the message holds its first lines.
    """
    found = compiler()
    with tempfile.TemporaryDirectory(dir=to.parent) as folder:
        path = Path(folder) / "source.cpp"
        path.write_text(source)
        command = [
            *found.command,
            *found.flags,
            *(() if optimised else ("-O0",)),
            *(found.openmp if openmp else ()),
            f"-I{HERE}",
            f"-I{folder}",
        ]
        command += [str(path), "-o", str(to)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as error:
            raise ToolchainError(f"the C++ compiler {found.command[0]!r} did not finish: {error}") from error
    if result.returncode:
        lines = "\n".join(result.stderr.splitlines()[:20])
        raise ToolchainError(f"the C++ compiler {found.command[0]!r} failed:\n{lines}")

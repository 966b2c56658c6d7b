"""The machine's C++ compiler: which one, with which flags, and a shared object from source text."""

import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
HEADERS = ("simd.hpp", "program.hpp", "team.hpp", "pack.hpp", "loop.hpp", "contract.hpp")
TIMEOUT_S = 300.0


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
    try:
        version = _output([command[0], "--version"]).splitlines()[0]
        native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
        macros = _output([*command, native, "-dM", "-E", "-x", "c++", os.devnull])
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise ToolchainError(f"the C++ compiler {command[0]!r} does not run ({error}); set CXX") from error
    instructions = sorted(line.split()[1] for line in macros.splitlines() if _names_instructions(line))
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
    return Compiler(command, version, f"{platform.machine()} {' '.join(instructions)}", flags, openmp)


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

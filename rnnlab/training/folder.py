"""The folder of a run: made so that no other run can share it, and gone again if the run never starts."""

import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from rnnlab.training.settings import Settings

# Where the first process of a distributed run tells the others which folder it made.
SHARED = "RNNLAB_RUN_DIR"

PACKAGES = ("rnnlab", "torch", "lightning", "hydra-core", "torchmetrics", "triton", "numpy")


def make_folder(settings: Settings) -> Path:
    """A new empty folder: `run_dir`, or `output_dir/name/time-id`.

    `mkdir` is atomic, so that of two runs that start in the same instant one takes another id.

    Raises:
        ValueError: `run_dir` exists and is not an empty folder.
    """
    if settings.run_dir != "auto":
        folder = Path(settings.run_dir).expanduser()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"run_dir={settings.run_dir}: exists already; name one that does not, or auto")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    name = re.sub(r"[^\w.-]+", "_", settings.name or "").strip(".") or "run"
    parent = Path(settings.output_dir).expanduser() / name
    parent.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    while True:
        folder = parent / f"{stamp}-{secrets.token_hex(2)}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def remove_folder(folder: Path) -> None:
    """Take away the folder of a run that never started, and its parents as far as they are empty."""
    shutil.rmtree(folder)
    for path in list(folder.parents)[:2]:
        try:
            path.rmdir()
        except OSError:  # other runs live there
            return


def write_records(folder: Path, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """What the run is: `config.yaml` (resolved), `overrides.yaml`, `environment.yaml`."""
    for name, content in (
        ("config", dict(config)),
        ("overrides", list(overrides)),
        ("environment", environment()),
    ):
        (folder / f"{name}.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(content)), encoding="utf-8")


def environment() -> dict[str, Any]:
    """Versions, machine, threads, command line and the git revision of the current folder."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "folder": os.getcwd(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "git": git_revision(),
    }


def git_revision(folder: str | Path = ".") -> dict[str, Any] | None:
    """Revision and whether files differ from it; None outside a repository or without git."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

"""What `rnnlab tune` measured, kept in the user's cache folder: which kernel is fastest where.

Legend: B batch.
"""

import contextlib
import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from rnnlab_kernels.triton.backend import Config, default_precision

logger = logging.getLogger("rnnlab")


@dataclass(frozen=True)
class Winner:
    """The fastest of what was measured: one of our configurations, or PyTorch's own kernels (None)."""

    config: Config | None
    time_us: float


def path() -> Path:
    """Where the table is kept: `$RNNLAB_CACHE_DIR`, else `rnnlab` in the user's cache folder."""
    base = os.environ.get("RNNLAB_CACHE_DIR")
    if base:
        return Path(base) / "tune.json"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "rnnlab" / "tune.json"


@dataclass
class Table:
    """Winners by device, dtype, Program and batch."""

    winners: dict[tuple[str, str, str, int], Winner] = field(default_factory=dict)

    def find(self, device: str, dtype: torch.dtype, program: str, batch: int) -> Winner | None:
        """The winner for a batch, or for the nearest that was measured within a factor of two."""
        near = [
            (max(measured, batch) / min(measured, batch), winner)
            for (name, kind, key, measured), winner in self.winners.items()
            if (name, kind, key) == (device, _name(dtype), program)
        ]
        best = min(near, key=lambda pair: pair[0], default=None)
        return best[1] if best is not None and best[0] <= 2 else None

    def all(self, device: str, dtype: torch.dtype, program: str) -> list[Winner]:
        """The winners for all batches."""
        asked = (device, _name(dtype), program)
        return [winner for (*key, _), winner in self.winners.items() if tuple(key) == asked]

    def add(self, device: str, dtype: torch.dtype, program: str, batch: int, winner: Winner) -> None:
        self.winners[device, _name(dtype), program, batch] = winner

    @classmethod
    def load(cls, file: Path | None = None) -> "Table":
        """The stored table; an empty one where there is none, or, with a warning, where it cannot be read."""
        file = file or path()
        try:
            rows = json.loads(file.read_text())
            return cls({_key(row): _winner(row) for row in rows})
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("the tuning table %s cannot be read (%s) and is left out of account", file, error)
            return cls()

    def store(self, file: Path | None = None) -> Path:
        """Write the table, whole or not at all; returns where. Raises OSError if the folder is read-only."""
        file = file or path()
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {
                "device": device,
                "dtype": dtype,
                "program": program,
                "batch": batch,
                "config": None if winner.config is None else asdict(winner.config),
                "time_us": winner.time_us,
            }
            for (device, dtype, program, batch), winner in sorted(self.winners.items())
        ]
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        try:
            with os.fdopen(handle, "w") as stream:
                json.dump(rows, stream, indent=1)
            os.replace(name, file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        return file


def _name(dtype: torch.dtype) -> str:
    """The dtype, and for float32 how its matmuls are computed now: TF32 has winners of its own."""
    name = str(dtype).removeprefix("torch.")
    precision = default_precision()
    return f"{name} {precision}" if dtype == torch.float32 and precision != "ieee" else name


def _key(row: dict[str, Any]) -> tuple[str, str, str, int]:
    return row["device"], row["dtype"], row["program"], int(row["batch"])


def _winner(row: dict[str, Any]) -> Winner:
    return Winner(None if row["config"] is None else Config(**row["config"]), float(row["time_us"]))

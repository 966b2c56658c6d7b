"""The settings of a run that belong to no node of its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What `train.yaml` holds outside the groups.

    Attributes:
        name: the folder under `output_dir`; the experiment's or the task's name.
        output_dir: where runs are kept.
        run_dir: `auto` for a new folder `output_dir/name/time-id`, or a folder that does not exist yet.
        seed: initial weights, order of the examples, dropout.
        threads: CPU threads; None leaves the choice to PyTorch.
        test: test the best checkpoint after training.
        examples: held-out examples shown at the end.
        vars: values of the user's own that other keys refer to.
    """

    name: str | None = None
    output_dir: str = "runs"
    run_dir: str = "auto"
    seed: int = 1
    threads: int | None = None
    test: bool = True
    examples: int = 4
    vars: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Settings":
        """The settings of a resolved configuration."""
        return cls(**{item.name: config[item.name] for item in fields(cls) if item.name in config})

    def faults(self) -> list[str]:
        """Values out of range, each a line that a user can act on."""
        found = []
        if not 0 <= self.seed < 2**32:
            found.append(f"seed={self.seed}: expected 0 to {2**32 - 1}")
        if self.threads is not None and self.threads < 1:
            found.append(f"threads={self.threads}: expected at least 1, or null")
        if self.examples < 0:
            found.append(f"examples={self.examples}: expected at least 0")
        return found

"""Numbers gone bad: a loss or a gradient that is NaN or infinite, found before the optimiser's step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from rnnlab.training.resume import random_state, set_random_state
from rnnlab.training.storage import whole_file


class BadNumbers(FloatingPointError):
    """Training has met NaN or infinity."""


class NumberWatch(Callback):
    """Looks at the loss and the norm of all gradients before each step of the optimiser.

        bad = not isfinite(sum of losses + ||g||)

    When they are bad, the batch is run once more, with the random numbers that it had, to find the first
    layer whose output is bad (or, if none is, the first one in backward order whose gradient is). The batch,
    the weights and what was found are kept in `folder`, a file a step. With 16-bit mixed precision, whose
    scaler meets infinite gradients and skips them by itself, only the loss is watched.

    Args:
        folder: where the batch and the weights are kept.
        action: `stop` the run, or `skip` the step: weights and optimiser stay as they are, and a carried
            state goes back to what it was before the batch.
        patience: steps in a row that may be skipped; one more stops the run.

    Raises:
        ValueError: an unknown action, or a patience below 1.
    """

    def __init__(
        self, folder: str | Path, action: Literal["stop", "skip"] = "stop", patience: int = 10
    ) -> None:
        if action not in ("stop", "skip"):
            raise ValueError(f"action={action!r}: expected 'stop' or 'skip'")
        if patience < 1:
            raise ValueError(f"patience={patience}: expected at least 1 step")
        self.folder = Path(folder)
        self.action = action
        self.patience = patience
        self.skipped = 0  # steps of this run
        self._in_a_row = 0
        self._loss: Tensor | None = None
        self._batch: Any = None
        self._batch_idx = 0
        self._random: Mapping[str, Any] = {}
        self._before: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """How many steps were skipped, so that a run that goes on has no more patience than another."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember what is needed to run the batch again: references, and the generators' states."""
        self._batch, self._batch_idx = batch, batch_idx
        self._before = dict(vars(pl_module))
        self._torch_random = torch.get_rng_state()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Add the loss to those of the batches whose gradients accumulate."""
        value = loss.detach()
        self._loss = value if self._loss is None else self._loss + value

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        """Look at both with one reduction.

        Raises:
            BadNumbers: they are bad, and the run is to stop.
        """
        loss, self._loss = self._loss, None
        total = loss if loss is not None else torch.zeros(())
        if trainer.precision != "16-mixed":
            total = total + torch.nn.utils.get_total_norm(
                [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            ).to(total)
        if torch.isfinite(total):
            self._in_a_row = 0
            return
        where, what = self._examine(pl_module)
        file = self._keep(trainer, pl_module, loss, where, what)
        told = (
            f"step {trainer.global_step + 1} (epoch {trainer.current_epoch + 1}, "
            f"batch {self._batch_idx + 1}): {what}; first in {where}; batch and weights are in {file}"
        )
        self._in_a_row += 1
        if self.action == "stop":
            raise BadNumbers(f"{told}. Lower the learning rate or clip, or set callbacks.numbers.action=skip")
        if self._in_a_row > self.patience:
            raise BadNumbers(f"{told}. {self.patience} steps before it were skipped already")
        self.skipped += 1
        print(f"\nrnnlab: warning: skipped {told}", flush=True)
        for parameter in pl_module.parameters():
            parameter.grad = None
        for name, value in self._before.items():
            now = vars(pl_module).get(name)
            if now is not value and any(not _finite(tensor) for tensor in _tensors(now)):
                setattr(pl_module, name, value)

    def _examine(self, pl_module: pl.LightningModule) -> tuple[str, str]:
        """The first layer that is bad, and what is bad, in words."""
        if any(not _finite(tensor) for tensor in _tensors(self._batch)):
            return "the batch itself", "the batch holds NaN or infinity"
        for name, parameter in pl_module.named_parameters():
            if not _finite(parameter):
                return name, "a weight is NaN or infinite"
        found = self._first_bad_output(pl_module)
        if found is not None:
            return found, "its output is NaN or infinite"
        bad = [name for name, p in pl_module.named_parameters() if p.grad is not None and not _finite(p.grad)]
        if bad:
            return bad[-1], "its gradient is NaN or infinite, all outputs are finite"
        return "the loss", "the loss is NaN or infinite, all outputs and gradients are finite"

    def _first_bad_output(self, pl_module: pl.LightningModule) -> str | None:
        """Run the batch again without gradients, and look at each module's output as it comes."""
        found: list[str] = []
        names = {module: name for name, module in pl_module.named_modules() if module is not pl_module}

        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and any(not _finite(tensor) for tensor in _tensors(output)):
                found.append(f"{names[module]} ({type(module).__name__})")

        hooks = [module.register_forward_hook(look) for module in names]
        now, generators = dict(vars(pl_module)), random_state()
        try:
            vars(pl_module).update(self._before)
            # What is logged now would count twice.
            vars(pl_module).update({"log": _nothing, "log_dict": _nothing})
            set_random_state({**generators, "torch": self._torch_random})
            with torch.no_grad():
                pl_module.training_step(self._batch, self._batch_idx)
        except Exception as error:  # the search must not hide what it is about
            found.append(f"an unknown layer (running the batch again failed: {error})")
        finally:
            for hook in hooks:
                hook.remove()
            for name in ("log", "log_dict"):
                vars(pl_module).pop(name, None)
            vars(pl_module).update(now)
            set_random_state(generators)
        return found[0] if found else None

    def _keep(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        loss: Tensor | None,
        where: str,
        what: str,
    ) -> Path:
        """Write batch, weights and findings as plain containers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"step_{trainer.global_step + 1}.pt"
        gradients = {
            name: float(torch.linalg.vector_norm(p.grad))
            for name, p in pl_module.named_parameters()
            if p.grad is not None
        }
        with whole_file(file) as stream:
            torch.save(
                {
                    "where": where,
                    "what": what,
                    "loss": None if loss is None else float(loss),
                    "gradient_norms": gradients,
                    "batch": _plain(self._batch),
                    "torch_random": self._torch_random,
                    "state_dict": pl_module.state_dict(),
                },
                stream,
            )
        return file


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in containers and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            yield from _tensors(getattr(value, item.name))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _plain(value: Any) -> Any:
    """The same in plain containers; what is neither one nor a tensor in its words."""
    if value is None or isinstance(value, Tensor | str | int | float | bool):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return repr(value)

"""Probes of a task: on held-out batches, and while it trains."""

from __future__ import annotations

import json
import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from rnnlab.probes import Findings, merge, probe
from rnnlab.probes.findings import TRY
from rnnlab.probes.pictures import draw
from rnnlab.probes.record import stacks


class GradientWarning(UserWarning):
    """Gradients of a run vanish or explode; the text says where, and what to try."""


def probe_task(task: pl.LightningModule, batches: Iterable[Any]) -> Findings:
    """Probe a task by the loss of its `training_step`, dropout off; the task is left as it was.

    Args:
        task: on its device.
        batches: held-out batches, as its DataModule gives them.

    Raises:
        ValueError: no batch, no recurrence of rnnlab, or a loss that depends on none.
    """
    found = []
    with _left_as_it_was(task):
        task.eval()
        for index, batch in enumerate(batches):
            moved = task.transfer_batch_to_device(batch, task.device, 0)
            found.append(probe(task, partial(_loss, task, moved, index)))
    if not found:
        raise ValueError("there is no batch to probe with")
    return merge(found)


def held_out(loader: Any, count: int) -> Iterator[Any]:
    """Some batches of a loader: spread over it, since it may be sorted by length; the first ones of a stream.

    What goes on where the batch before ended says so by an attribute `first`, and is taken in order; so is
    what does not know how long it is.
    """
    batches = iter(loader)
    first = next(batches, None)
    if first is None:
        return
    try:
        total = len(loader)
    except TypeError:  # a stream
        total = 0
    if hasattr(first, "first") or total <= count:
        yield from islice(chain([first], batches), count)
        return
    wanted = {(2 * i + 1) * total // (2 * count) for i in range(count)}
    read = islice(chain([first], batches), max(wanted) + 1)
    yield from (batch for i, batch in enumerate(read) if i in wanted)


def _loss(task: pl.LightningModule, batch: Any, index: int) -> Tensor:
    result = task.training_step(batch, index)
    loss = result.get("loss") if isinstance(result, Mapping) else result
    if not isinstance(loss, Tensor):
        raise ValueError(f"{type(task).__name__}.training_step returns no loss, which a probe follows back")
    return loss


@contextmanager
def _left_as_it_was(task: pl.LightningModule) -> Iterator[None]:
    """Modes, attributes and random numbers put back; nothing is logged meanwhile."""
    modes = [(module, module.training) for module in task.modules()]
    attributes = dict(task.__dict__)
    task.__dict__["log"] = task.__dict__["log_dict"] = lambda *args, **options: None
    devices = [task.device] if task.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.inference_mode(False):
            yield
    finally:
        task.__dict__.clear()
        task.__dict__.update(attributes)
        for module, training in modes:
            module.training = training


def write_findings(findings: Findings, folder: str | Path) -> list[Path]:
    """`probes.json` and the pictures, in a folder that is made."""
    drawn = draw(findings, folder)
    file = Path(folder) / "probes.json"
    file.write_text(json.dumps(findings.records(), indent=1) + "\n", encoding="utf-8")
    return [*drawn, file]


class Probes(Callback):
    """The probes on held-out batches: numbers to the loggers, pictures and `probes.json` when training ends.

    Args:
        folder: of the pictures.
        every_n_epochs: how often the numbers are logged; 0 for the end alone.
        batches: of the validation data; each costs about as much as 20 training steps.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(self, folder: str | Path, every_n_epochs: int = 1, batches: int = 1) -> None:
        if every_n_epochs < 0 or batches < 1:
            raise ValueError(
                f"every_n_epochs={every_n_epochs}, batches={batches}: expected at least 0 and at least 1"
            )
        self.folder = Path(folder)
        self.every_n_epochs = every_n_epochs
        self.batches = batches
        self.findings: Findings | None = None
        self._at_step = -1
        self._told: set[str] = set()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._probe(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._probe(trainer, pl_module)
        if self.findings is not None and trainer.is_global_zero:
            write_findings(self.findings, self.folder)

    def _probe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        if data is None or not trainer.is_global_zero or trainer.global_step == self._at_step:
            return
        self._at_step = trainer.global_step
        try:
            self.findings = probe_task(pl_module, held_out(data.val_dataloader(), self.batches))
        except (
            Exception
        ) as error:  # a probe that fails must not cost the run, whatever the user's parts raise
            told = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            warnings.warn(f"callbacks.probes: nothing was probed: {told}", GradientWarning, stacklevel=2)
            return
        for logger in trainer.loggers:
            logger.log_metrics(self.findings.numbers(), step=max(0, trainer.global_step - 1))
        for layer, advice in self.findings.advice().items():
            if layer not in self._told:
                self._told.add(layer)
                warnings.warn(advice, GradientWarning, stacklevel=2)


class GradientWatch(Callback):
    """Warns, once for each cause, when the gradients of a run vanish or explode, and says what to try.

    It looks at the gradients that training has anyway, before they are clipped, and logs the norm of each
    recurrent layer's as `gradient/LAYER`. They explode where they are not finite, or `explode` times as large
    as usual (the median of the last 20 looks). They vanish where a layer's root mean square is less than
    `vanish` times that of the layer with the largest, at `patience` looks one after the other.

    Args:
        every_n_steps: how often it looks.
        explode: times the median.
        vanish: share of the largest layer's.
        patience: looks.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self, every_n_steps: int = 20, explode: float = 100.0, vanish: float = 1e-4, patience: int = 3
    ) -> None:
        if every_n_steps < 1 or patience < 1 or explode <= 1 or not 0 < vanish < 1:
            raise ValueError(
                f"every_n_steps={every_n_steps}, explode={explode}, vanish={vanish}, patience={patience}: "
                "expected at least 1, more than 1, between 0 and 1, at least 1"
            )
        self.every_n_steps = every_n_steps
        self.explode = explode
        self.vanish = vanish
        self.patience = patience
        self._usual: deque[float] = deque(maxlen=20)
        self._faint: dict[str, int] = {}
        self._told: set[str] = set()
        self._layers: dict[str, list[nn.Parameter]] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._layers = recurrent_parameters(pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        if (trainer.global_step + 1) % self.every_n_steps:
            return
        norms = self._norms()
        if not norms:
            return
        for logger in trainer.loggers:
            logger.log_metrics({f"gradient/{k}": v for k, v in norms.items()}, step=trainer.global_step)
        self._judge(trainer, norms)

    def _norms(self) -> dict[str, float]:
        gradients = {
            name: [p.grad for p in parameters if p.grad is not None]
            for name, parameters in self._layers.items()
        }
        present = {name: found for name, found in gradients.items() if found}
        if not present:
            return {}
        # One transfer for all layers.
        norms = torch.stack([torch.nn.utils.get_total_norm(found) for found in present.values()]).tolist()
        return dict(zip(present, norms, strict=True))

    def _judge(self, trainer: pl.Trainer, norms: Mapping[str, float]) -> None:
        step = trainer.global_step
        broken = [name for name, norm in norms.items() if not math.isfinite(norm)]
        if broken:
            self._tell("nan", f"step {step}: the gradient of {broken[0]} is not finite. {TRY['explodes']}")
            return
        whole = math.hypot(*norms.values())
        usual = median(self._usual) if len(self._usual) >= 5 else math.inf
        if whole > self.explode * usual:
            clip = trainer.gradient_clip_val
            told = f"it is clipped to {clip}" if clip else "it is not clipped (trainer.gradient_clip_val)"
            self._tell(
                "explodes",
                f"step {step}: the gradient explodes: norm {whole:.3g}, {whole / usual:.3g} times the "
                f"usual; {told}. {TRY['explodes']}",
            )
        self._usual.append(whole)
        sizes = {name: norm / math.sqrt(_count(self._layers[name])) for name, norm in norms.items()}
        largest = max(sizes, key=sizes.__getitem__)
        for name, size in sizes.items():
            small = size < self.vanish * sizes[largest]
            self._faint[name] = self._faint.get(name, 0) + 1 if small else 0
            if self._faint[name] >= self.patience:
                self._tell(
                    name,
                    f"step {step}: the gradient vanishes in {name}: {size:.3g} (root mean square) against "
                    f"{sizes[largest]:.3g} in {largest}: that layer hardly learns. {TRY['vanishes']}",
                )

    def _tell(self, cause: str, message: str) -> None:
        if cause not in self._told:
            self._told.add(cause)
            from lightning.pytorch.utilities import rank_zero_warn

            rank_zero_warn(message, category=GradientWarning, stacklevel=6)


def recurrent_parameters(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trained parameters of each recurrent layer and direction, by its name."""
    found = {}
    for name, _, layers in stacks(module):
        for layer_name, layer in layers():
            full = ".".join(part for part in (name, layer_name) if part)
            found[full] = [p for p in layer.parameters() if p.requires_grad]
    return {name: parameters for name, parameters in found.items() if parameters}


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)

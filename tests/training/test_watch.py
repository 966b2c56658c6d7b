"""NaN and infinity are met before they reach the weights, and what caused them is named and kept."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from rnnlab.experiments.compose import compose
from rnnlab.training.run import train
from rnnlab.training.watch import BadNumbers, NumberWatch


class Spoil(pl.Callback):
    """Lets one module give NaN in some batches, counted from 1, or its gradient be infinite."""

    def __init__(self, module: str, batches: tuple[int, ...], gradient: bool = False) -> None:
        self.module, self.batches, self.gradient = module, batches, gradient
        self.weights: list[dict[str, Tensor]] = []
        self._bad = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.get_submodule(self.module).register_forward_hook(self._spoil)

    def _spoil(self, module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        if not self._bad:
            return output
        if self.gradient:
            if output.requires_grad:
                output.register_hook(lambda gradient: gradient * torch.inf)
            return output
        return output * torch.nan

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._bad = trainer.fit_loop.total_batch_idx + 1 in self.batches
        self.weights.append({key: value.clone() for key, value in pl_module.state_dict().items()})


def settings(small: list[str], folder: Path, *more: str) -> Any:
    words = ["callbacks=numbers", f"run_dir={folder}", "test=false", "examples=0", "logger=none"]
    return compose([*small, *words, "trainer.max_epochs=1", *more]).config


@pytest.mark.parametrize("module", ["embedding", "head"])
def test_the_first_bad_layer_and_the_batch_are_named_and_kept(
    module: str, small: list[str], tmp_path: Path
) -> None:
    spoil = Spoil(module, (4,))
    with pytest.raises(BadNumbers, match=rf"step 4 \(epoch 1, batch 4\): .* first in {module} \(") as caught:
        train(settings(small, tmp_path / "run"), callbacks=[spoil])
    assert "step_4.pt" in str(caught.value)
    kept = torch.load(tmp_path / "run" / "bad_numbers" / "step_4.pt", weights_only=True)
    assert kept["batch"]["inputs"].shape[1] == len(kept["batch"]["lengths"]) == 16
    assert all(torch.equal(value, spoil.weights[-1][key]) for key, value in kept["state_dict"].items())


def test_a_gradient_gone_bad_is_told_from_an_output(small: list[str], tmp_path: Path) -> None:
    with pytest.raises(
        BadNumbers, match="its gradient is NaN or infinite, all outputs are finite; first in "
    ):
        train(settings(small, tmp_path / "run"), callbacks=[Spoil("head", (2,), gradient=True)])


def test_skipped_steps_leave_weights_as_they_were(small: list[str], tmp_path: Path) -> None:
    spoil = Spoil("embedding", (3, 4))
    words = ["callbacks.numbers.action=skip"]
    result = train(settings(small, tmp_path / "run", *words), callbacks=[spoil])
    assert {path.name for path in (tmp_path / "run" / "bad_numbers").iterdir()} == {"step_3.pt", "step_4.pt"}
    equal = [
        all(torch.equal(before[key], after[key]) for key in before)
        for before, after in zip(spoil.weights, spoil.weights[1:], strict=False)
    ]
    assert equal == [number in (3, 4) for number in range(1, len(spoil.weights))]
    assert all(value.isfinite().all() for value in result.task.state_dict().values())


def test_skipping_has_an_end(small: list[str], tmp_path: Path) -> None:
    words = ["callbacks.numbers.action=skip", "callbacks.numbers.patience=2"]
    spoil = Spoil("embedding", tuple(range(2, 9)))
    with pytest.raises(BadNumbers, match=r"step 4 .*2 steps before it were skipped already"):
        train(settings(small, tmp_path / "run", *words), callbacks=[spoil])


def test_patience_is_not_renewed_by_going_on(small: list[str], tmp_path: Path) -> None:
    words = [
        "callbacks=[checkpoint,numbers]",
        "callbacks.numbers.action=skip",
        "callbacks.numbers.patience=2",
    ]
    config = settings(small, tmp_path / "run", *words, "trainer.max_steps=3")
    train(config, callbacks=[Spoil("embedding", (2, 3))])
    config.trainer.max_steps = 6
    with pytest.raises(BadNumbers, match=r"step 4 .*2 steps before it were skipped already"):
        train(config, resume=tmp_path / "run", callbacks=[Spoil("embedding", (4,))])


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 'stop' or 'skip'"):
        NumberWatch(tmp_path, action="pass")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="patience=0"):
        NumberWatch(tmp_path, patience=0)

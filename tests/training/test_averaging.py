"""Averaging begins when validation stalls, and what is validated is what is kept."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from rnnlab.training.averaging import NonMonotoneAveraging

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),  # each run keeps its own checkpoints
]

VALUES = [5.0, 4.0, 3.0, 3.5, 3.75, 3.25, 3.25, 3.0, 3.0, 3.0]


class Climber(pl.LightningModule):
    """One weight that grows by one a step; validation sees the metric of a list, and notes the weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        return -self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.seen.append(self.weight.item())
        self.log("val/loss", torch.tensor(VALUES[self.current_epoch]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Weights(Callback):
    """The current weight at the end of each epoch's training."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.seen.append(pl_module.weight.item())


def fit(folder, epochs, patience=2, ckpt_path=None, callback=None):
    model, callback = Climber(), callback or NonMonotoneAveraging(patience)
    keep = ModelCheckpoint(folder / str(epochs), "{epoch}", save_top_k=-1)
    weights = Weights()
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        callbacks=[callback, keep, weights],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accelerator="cpu",
    )
    data = torch.utils.data.DataLoader([0, 0])
    trainer.fit(model, data, data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return model, callback, weights, keep


def test_the_average_is_that_of_the_steps_since_the_metric_stalled(tmp_path):
    model, callback, weights, keep = fit(tmp_path, epochs=7)
    # With two validations of patience, the fourth value (3.5) is above no older one but 3.0 is too recent;
    # the fifth (3.75) is above the third.
    assert callback.values == VALUES[:5]
    assert callback.begun
    # The weight after step n is n; two steps an epoch, averaging from the first step of the sixth epoch on.
    assert weights.seen == [2, 4, 6, 8, 10, 12, 14]
    assert model.seen[::2] == [2, 4, 6, 8, 10, 11.5, 12.5]
    assert model.weight.item() == 12.5
    last = torch.load(keep.best_model_path.replace("epoch=0", "epoch=6"), weights_only=True)
    assert last["state_dict"]["weight"].item() == 12.5
    assert last["current_model_state"]["weight"].item() == 14
    first = torch.load(keep.best_model_path.replace("epoch=6", "epoch=0"), weights_only=True)
    assert first["state_dict"]["weight"].item() == 2


def test_a_run_that_goes_on_averages_as_one_that_never_stopped(tmp_path):
    straight, _, _, _ = fit(tmp_path / "a", epochs=9)
    for epochs in (4, 7):
        fit(tmp_path / "b", epochs)
        path = tmp_path / "b" / str(epochs) / f"epoch={epochs - 1}.ckpt"
        resumed, callback, weights, _ = fit(tmp_path / f"c{epochs}", 9, ckpt_path=path)
        assert resumed.weight.item() == straight.weight.item()
        assert callback.begun and weights.seen[-1] == 18


def test_a_metric_that_always_improves_leaves_the_weights_alone(tmp_path):
    model, callback, _, _ = fit(tmp_path, epochs=3)
    assert not callback.begun
    assert model.weight.item() == 6


def test_what_cannot_be_watched_is_refused(tmp_path):
    with pytest.raises(ValueError, match="patience=0: expected at least 1"):
        NonMonotoneAveraging(0)
    with pytest.raises(ValueError, match="monitor=val/los: there is no such metric; there are val/loss"):
        fit(tmp_path, epochs=2, callback=NonMonotoneAveraging(2, monitor="val/los"))

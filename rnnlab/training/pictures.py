"""Pictures that a task draws when a run ends."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class Pictures(Callback):
    """What a task draws of held-out examples after the test, such as forecasts beside the truth.

    A task that draws has a method `draw_pictures(datamodule, folder)`.

    Args:
        folder: where the pictures are written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        draw: Any = getattr(pl_module, "draw_pictures", None)
        if trainer.is_global_zero and draw is not None:
            draw(getattr(trainer, "datamodule", None), self.folder)

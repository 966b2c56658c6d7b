"""Many to many: the next values of measurements over time.

Legend: `T` context, `H` horizon, `B` batch, `I` columns read, `O` columns forecast, `F` features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from rnnlab.data.batching import SequenceBatch
from rnnlab.data.forecasting import read_source
from rnnlab.data.timed import show
from rnnlab.nn.heads import DenseHead
from rnnlab.nn.pooling import make_pooling
from rnnlab.tasks import pictures
from rnnlab.tasks.base import MakeModel, MakeOptimizer, MakeScheduler, Task, output_features

MEASURES = ("mse", "mae")


class Forecasting(Task):
    """Recurrent layers read the context; dense layers say all of the horizon at once from what they remember.

        x = (values - mean) / std                         by the scale of the training data
        z = (x - level) / spread
        forecast = level + spread * (head(pool(rnn(z))) + A z[-highway:])

    where `level` and `spread` are those of each column in each window, as `normalise` says: `"window"` its
    mean and standard deviation, `"last"` its last value and 1, `"none"` 0 and 1. With `apart`, each column is
    read by itself, by one network for all of them, so that what is learned of one serves the others. `A`
    `[H, highway]` acts on each column alone, and is the same for all; there is none with `highway` 0.

    Logged are the mean squared and absolute error of standardised values, and beside them the errors of two
    naive forecasts: the last value (`mse_last`, `mae_last`), and with a season the value of one season before
    (`mse_seasonal`, `mae_seasonal`).

    Args:
        columns: names of the columns that are read.
        targets: names of those that are forecast.
        mean, std: of the columns in the training data.
        context: T.
        horizon: H.
        season: rows of a period; None for no seasonal baseline.
        reading: how files are read, for `predict_records`.
        model: makes the recurrent layers, `model(input_size=...)`.
        optimizer, scheduler: see `Task`.
        normalise: what is taken from each window before it is read, and given back to the forecast.
        apart: read each column by itself; then the columns that are read are those that are forecast.
        highway: the last rows that act on the forecast linearly, past the recurrent layers; 0 for none.
        pooling: what is remembered of the context: `"last"`, `"mean"`, `"max"` or `"attention"`.
        dense_sizes: features of dense layers before the last one.
        dropout: probability of zeroing a feature before each dense layer.
        loss: `"mse"` or `"mae"`.

    Raises:
        ValueError: a setting out of range, or `apart` with other columns forecast than read.

    Sources: the window's own scale, Kim et al. 2022 (RevIN, without its learned scale); its last value, Zeng
    et al. 2023 (NLinear); one network for all columns, Nie et al. 2023, section 3.1; the linear highway, Lai
    et al. 2018 (LSTNet), section 3.6.
    """

    headline: str = "test/mse"
    monitor: ClassVar[str] = "val/mse"
    monitor_mode: ClassVar[Literal["min", "max"]] = "min"

    def __init__(
        self,
        *,
        columns: Sequence[str],
        targets: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        context: int,
        horizon: int,
        season: int | None,
        reading: Mapping[str, Any],
        model: MakeModel,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        normalise: Literal["none", "last", "window"] = "last",
        apart: bool = False,
        highway: int = 0,
        pooling: Literal["last", "mean", "max", "attention"] = "last",
        dense_sizes: Sequence[int] = (),
        dropout: float = 0.0,
        loss: Literal["mse", "mae"] = "mse",
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler)
        if normalise not in ("none", "last", "window"):
            raise ValueError(f"normalise is 'none', 'last' or 'window'; got {normalise!r}")
        if loss not in MEASURES:
            raise ValueError(f"loss is 'mse' or 'mae'; got {loss!r}")
        if apart and list(columns) != list(targets):
            raise ValueError(
                f"apart reads and forecasts the same columns; got {len(columns)} to read and {len(targets)} "
                "to forecast (data.targets=null forecasts all)"
            )
        if not 0 <= highway <= context:
            raise ValueError(f"highway is from 0 to context={context} rows; got {highway}")
        self.columns, self.targets = list(columns), list(targets)
        self.context, self.horizon, self.season = context, horizon, season
        self.input_shape = (context, len(columns))
        self.reading, self.normalise, self.apart = dict(reading), normalise, apart
        self.measure = F.mse_loss if loss == "mse" else F.l1_loss
        self.places = [self.columns.index(name) for name in self.targets]
        # Made from the facts, so that a checkpoint need not hold them twice.
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self.rnn = model(input_size=1 if apart else len(columns))
        features = output_features(self.rnn)
        side_by_side = (
            getattr(self.rnn, "bidirectional", False) and getattr(self.rnn, "merge", "") == "concat"
        )
        self.pooling = make_pooling(pooling, features, directions=2 if side_by_side else 1)
        self.head = DenseHead(
            features, horizon * (1 if apart else len(targets)), hidden_sizes=dense_sizes, dropout=dropout
        )
        self.highway = nn.Linear(highway, horizon, bias=False) if highway else None
        names = [*MEASURES, *(f"{m}_last" for m in MEASURES)]
        names += [f"{m}_seasonal" for m in MEASURES] if season else []
        self.val_means = nn.ModuleDict({name: MeanMetric() for name in names})
        self.test_means = nn.ModuleDict({name: MeanMetric() for name in names})

    def forward(self, known: Tensor) -> Tensor:
        """The next values, standardised.

        Args:
            known: `[T, B, I]`, standardised.

        Returns:
            `[H, B, O]`.
        """
        level, spread = self._window_scale(known)
        x = z = (known - level) / spread
        if self.apart:
            z = z.flatten(1, 2).unsqueeze(2)
        outputs, _ = self.rnn(z)
        said = self.head(self.pooling(outputs, torch.full((z.shape[1],), len(z))))
        if self.apart:
            said = said.view(known.shape[1], known.shape[2], self.horizon).permute(2, 0, 1)
        else:
            said = said.view(-1, self.horizon, len(self.targets)).transpose(0, 1)
        if self.highway is not None:
            recent = x[-self.highway.in_features :, :, self.places]
            said = said + torch.einsum("hc,cbo->hbo", self.highway.weight, recent)
        return said * spread[..., self.places] + level[..., self.places]

    def _window_scale(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """Level and spread of each column in each window, `[1, B, I]`."""
        if self.normalise == "window":
            # A column that stands still is not blown up: standardised values vary by about 1.
            std = known.var(0, correction=0, keepdim=True).add(1e-3).sqrt()
            return known.mean(0, keepdim=True), std
        level = known[-1:] if self.normalise == "last" else torch.zeros_like(known[-1:])
        return level, torch.ones_like(level)

    def standardise(self, values: Tensor) -> Tensor:
        """Values `[*, I]` by the scale of the training data."""
        return (values - self.mean) / self.std

    def _pair(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        truth = (batch.targets - self.mean[self.places]) / self.std[self.places]
        return self.standardise(batch.inputs), truth

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        known, truth = self._pair(batch)
        loss = self.measure(self(known), truth)
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Count one batch into the validation metrics."""
        self._evaluate("val", batch)

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Count one batch into the test metrics."""
        self._evaluate("test", batch)

    def _evaluate(self, stage: Literal["val", "test"], batch: SequenceBatch) -> None:
        known, truth = self._pair(batch)
        forecasts = {"": self(known), "_last": known[-1:, :, self.places].expand_as(truth)}
        if self.season:
            forecasts["_seasonal"] = self.seasonal(known)
        means = self.val_means if stage == "val" else self.test_means
        for end, forecast in forecasts.items():
            for name, error in (("mse", F.mse_loss(forecast, truth)), ("mae", F.l1_loss(forecast, truth))):
                metric: Any = means[name + end]
                metric.update(error, len(batch))
                self.log(f"{stage}/{name}{end}", metric, on_epoch=True, batch_size=len(batch))

    def seasonal(self, known: Tensor) -> Tensor:
        """The naive forecast `[H, B, O]`: the last season of the context, again and again."""
        assert self.season is not None
        last = known[-self.season :, :, self.places]
        return last.repeat(-(-self.horizon // self.season), 1, 1)[: self.horizon]

    @torch.no_grad()
    def forecast(self, values: Tensor) -> Tensor:
        """The next H rows `[H, O]` of measurements `[N, I]`, in their own units; the last T are read."""
        training = self.training
        self.eval()
        try:
            known = self.standardise(values[-self.context :].to(self.device).unsqueeze(1))
            said = self(known)[:, 0]
        finally:
            self.train(training)
        return (said * self.std[self.places] + self.mean[self.places]).cpu()

    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """What follows the end of each table, in its own units.

        Args:
            inputs: CSV or TSV files with the columns of the training data, or `mackey_glass`.

        Returns:
            A dict a row of the forecast: `input`, `time`, and each column's value.

        Raises:
            ValueError: a file cannot be read, or has fewer rows than the context.
        """
        records = []
        for source in inputs:
            table = read_source(source, self.columns, self.reading)
            if len(table.values) < self.context:
                raise ValueError(
                    f"{source}: {len(table.values)} rows; the model reads the last {self.context}"
                )
            for step, row in enumerate(self.forecast(table.values).tolist(), start=1):
                time = table.time_after(len(table.values) - 1, step)
                records.append({"input": source, "time": time, **dict(zip(self.targets, row, strict=True))})
        return records

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Test windows: the time of the last row that is read, and the forecast and the truth at the end."""
        records = []
        for row, batch in datamodule.examples("test", n):
            said, truth = self.forecast(batch.inputs[:, 0])[-1], batch.targets[-1, 0]
            table = datamodule.table
            records.append(
                {
                    "source": datamodule.source,
                    "known_until": show(table.times[row]),
                    "forecast_for": table.time_after(row, self.horizon),
                    "forecast": dict(zip(self.targets, said.tolist(), strict=True)),
                    "truth": dict(zip(self.targets, truth.tolist(), strict=True)),
                }
            )
        return records

    def draw_pictures(self, datamodule: Any, folder: Path) -> None:
        """`forecast.png`: forecasts and truth of windows of the test, in the columns' own units."""
        windows = datamodule.examples("test", 3)
        pictures.forecasts(
            folder / "forecast.png",
            self.targets,
            [
                (batch.inputs[:, 0, self.places], self.forecast(batch.inputs[:, 0]), batch.targets[:, 0])
                for _, batch in windows
            ],
            [str(datamodule.table.times[row]) for row, _ in windows],
        )

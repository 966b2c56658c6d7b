"""Probes while a task trains: what they log and draw, what they warn of, and that they change nothing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from rnnlab.experiments.compose import compose
from rnnlab.training.loggers import read_metrics
from rnnlab.training.probing import GradientWarning, GradientWatch, Probes, held_out, recurrent_parameters
from rnnlab.training.run import RunResult, train

PICTURES = {"gradients.png", "saturation.png", "lyapunov.png", "memory.png"}


@pytest.fixture(scope="module")
def probed(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("probed") / "run"
    words = [*small, f"run_dir={folder}", "callbacks=probes", "callbacks.gradients.every_n_steps=5"]
    return train(compose(words).config)


def test_numbers_go_to_the_logger_and_pictures_to_the_folder(probed: RunResult) -> None:
    series = read_metrics(probed.folder / "metrics.csv")
    for name in ("gradient_rate", "memory_e_steps", "memory_1pct_steps", "lyapunov", "saturated"):
        assert len(series[f"probe/rnn.l0/{name}"]) == 3, name
    assert len(series["gradient/rnn.l0"]) >= 3
    steps = [step for step, _ in series["probe/rnn.l0_reverse/lyapunov"]]
    assert steps == [step for step, _ in series["val/loss"]]
    left = {path.name for path in (probed.folder / "probes").iterdir()}
    assert left == PICTURES | {"probes.json"}
    for name in PICTURES:
        with Image.open(probed.folder / "probes" / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 10, name
    records = json.loads((probed.folder / "probes" / "probes.json").read_text(encoding="utf-8"))
    assert [record["layer"] for record in records] == ["rnn.l0", "rnn.l0_reverse"]
    assert records[0]["activations"][0]["name"] == "sigmoid(f)"


def test_a_run_that_is_watched_learns_the_same(probed: RunResult, run: RunResult) -> None:
    mine, plain = probed.task.state_dict(), run.task.state_dict()
    assert all(torch.equal(mine[key], plain[key]) for key in plain)
    assert "log" not in vars(probed.task)


class Watched:
    """What the watch reads of a trainer."""

    global_step, gradient_clip_val, loggers = 4, None, ()


def watch(gradients: list[list[float]], **options) -> GradientWatch:
    """A watch over layers of one parameter each, after steps with these gradients."""
    callback = GradientWatch(every_n_steps=1, **options)
    parameters = [torch.nn.Parameter(torch.zeros(4)) for _ in gradients[0]]
    callback._layers = {f"l{i}": [parameter] for i, parameter in enumerate(parameters)}
    for step in gradients:
        for parameter, value in zip(parameters, step, strict=True):
            parameter.grad = torch.full((4,), value)
        callback.on_before_optimizer_step(Watched(), None, None)  # type: ignore[arg-type]
    return callback


def test_gradients_that_explode_are_told_once_with_what_to_try() -> None:
    with pytest.warns(
        GradientWarning, match=r"explodes: norm .* it is not clipped.*gradient_clip_val=1"
    ) as told:
        watch([[1.0, 2.0]] * 6 + [[900.0, 2.0], [5000.0, 1.0]])
    assert len(told) == 1
    with pytest.warns(GradientWarning, match="the gradient of l1 is not finite"):
        watch([[1.0, float("nan")]])


def test_a_layer_that_gets_no_gradient_is_told() -> None:
    with pytest.warns(GradientWarning, match=r"vanishes in l0: 1e-06 .* against 1 .*l1.*cell=lstm"):
        watch([[1e-6, 1.0]] * 3)
    watch([[1e-6, 1.0], [1e-6, 1.0], [1.0, 1.0], [1e-6, 1.0]])


def test_ordinary_gradients_are_not_worth_a_word() -> None:
    watch([[1.0 + i % 3, 0.1] for i in range(30)])


def test_a_deep_plain_network_that_vanishes_over_time_is_told_in_the_run(
    small: list[str], tmp_path: Path
) -> None:
    words = [*small, f"run_dir={tmp_path / 'run'}", "callbacks=probes", "callbacks.gradients=null"]
    words += ["cell=rnn", "model.bidirectional=false", "task.pooling=last", "trainer.max_epochs=1"]
    words += ["callbacks.probes.every_n_epochs=0", "test=false", "logger=none", "examples=0"]
    reviews = Path(next(word for word in small if word.startswith("data.source="))[12:])
    long = tmp_path / "long.tsv"
    lines = reviews.read_text(encoding="utf-8").splitlines()
    stretched = [line.replace(" and ", " and" + " so" * 60 + " ") for line in lines]
    long.write_text("\n".join(stretched) + "\n", encoding="utf-8")
    with pytest.warns(GradientWarning, match=r"rnn.l0: the gradient vanishes: \d+ steps back less than 1 %"):
        train(compose([*words, f"data.source={long}"]).config)


def test_a_task_without_recurrence_costs_a_warning_and_not_the_run() -> None:
    class Data:
        def val_dataloader(self):
            return [SimpleNamespace(to=lambda device, non_blocking=False: None)]

    class Plain(torch.nn.Linear):
        device = torch.device("cpu")

        def transfer_batch_to_device(self, batch, device, index):
            return batch

    trainer = SimpleNamespace(
        datamodule=Data(), is_global_zero=True, global_step=3, loggers=[], current_epoch=0
    )
    with pytest.warns(GradientWarning, match="nothing was probed: Plain has no recurrent layer"):
        Probes("nowhere").on_train_epoch_end(trainer, Plain(2, 2))  # type: ignore[arg-type]


def test_a_mistake_of_the_users_own_costs_a_warning_and_not_the_run() -> None:
    class Data:
        def val_dataloader(self):
            raise KeyError("texts")

    trainer = SimpleNamespace(datamodule=Data(), is_global_zero=True, global_step=3, current_epoch=0)
    with pytest.warns(GradientWarning, match="nothing was probed: KeyError: 'texts'"):
        Probes("nowhere").on_train_epoch_end(trainer, torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_batches_are_spread_and_streams_are_not() -> None:
    assert list(held_out(range(10), 2)) == [2, 7]
    assert list(held_out([1, 2], 5)) == [1, 2]
    assert list(held_out([], 1)) == []
    stream = [SimpleNamespace(first=i == 0) for i in range(5)]
    assert list(held_out(stream, 2)) == stream[:2]


def test_no_more_is_read_than_is_probed() -> None:
    read = []

    class Loader:
        def __len__(self):
            return 9

        def __iter__(self):
            return (read.append(i) or i for i in range(9))

    assert list(held_out(Loader(), 1)) == [4]
    assert read == [0, 1, 2, 3, 4]
    endless = (i for i in range(10**9))
    assert list(held_out(endless, 2)) == [0, 1]


def test_layers_of_stand_ins_are_watched_too() -> None:
    import rnnlab

    module = torch.nn.ModuleDict({"a": rnnlab.LSTM(2, 3, num_layers=2), "b": rnnlab.DeepRNN("gru", 2, 3)})
    module["a"].weight_ih_l0.requires_grad_(False)
    found = recurrent_parameters(module)
    assert {name: len(parameters) for name, parameters in found.items()} == {"a.l0": 3, "a.l1": 4, "b.l0": 4}


@pytest.mark.parametrize(
    "make",
    [lambda: GradientWatch(explode=1), lambda: GradientWatch(vanish=0), lambda: Probes("x", batches=0)],
)
def test_numbers_have_a_range(make) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()

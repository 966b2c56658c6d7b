from pathlib import Path

import pytest
import torch

from rnnlab.data.forecasting import ForecastingData


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """200 hours in which column a counts the rows, and b is ten times that."""
    lines = [f"2024-01-{1 + n // 24:02d} {n % 24:02d}:00,{n},{10 * n}" for n in range(200)]
    path = tmp_path / "log.csv"
    path.write_text("date,a,b\n" + "\n".join(lines) + "\n")
    return path


def test_windows_read_the_past_and_forecast_only_their_own_split(table: Path) -> None:
    data = ForecastingData(str(table), context=10, horizon=4, targets=["b"], validation=0.1, test=0.2)
    data.setup()
    seen = {}
    for split in ("train", "validation", "test"):
        dataset = data.dataset(split)
        batch = dataset[list(range(len(dataset)))]
        assert batch.inputs.shape[0] == 10 and batch.targets.shape[0] == 4
        assert batch.inputs.is_contiguous() and batch.targets.is_contiguous()
        assert torch.equal(batch.targets[0, :, 0], 10 * (batch.inputs[-1, :, 0] + 1))
        assert torch.equal(batch.inputs.diff(dim=0)[:, :, 0], torch.ones(9, len(dataset)))
        seen[split] = set((batch.targets / 10).flatten().int().tolist())
    assert seen == {
        "train": set(range(10, 140)),
        "validation": set(range(140, 160)),
        "test": set(range(160, 200)),
    }
    assert data.mean[0] == pytest.approx(139 / 2)  # of the training rows alone
    assert data.summary()["windows"] == {"train": 127, "validation": 17, "test": 37}


def test_a_split_in_rows_leaves_out_what_comes_after(table: Path) -> None:
    data = ForecastingData(str(table), context=5, horizon=2, split=[100, 40, 30])
    data.setup()
    assert data.summary()["left_out"] == {"rows after the test": 30}
    batch = data.dataset("test")[[0, len(data.dataset("test")) - 1]]
    assert batch.targets[:, :, 0].T.tolist() == [[140, 141], [168, 169]]


def test_facts_are_taken_over(table: Path) -> None:
    data = ForecastingData(str(table), context=6, horizon=3, season=2, columns=["b"])
    data.setup()
    other = ForecastingData(str(table), context=60, horizon=30)
    other.adopt(data.facts())
    other.setup()
    assert other.dataset("test")[[0]].inputs.shape == (6, 1, 1)
    assert other.mean == data.mean and other.season == 2


def test_the_generated_series_needs_no_file() -> None:
    data = ForecastingData(context=50, horizon=10)
    data.setup()
    assert data.summary()["source"] == "mackey_glass"
    row, batch = data.examples("test", 1)[0]
    assert row == 8000 - 1
    assert batch.inputs.shape == (50, 1, 1)


@pytest.mark.usefixtures("local_data")
def test_the_transformer_has_the_standard_windows_and_naive_errors(local_data: Path) -> None:
    file = local_data / "ETTh1.csv"
    if not file.exists():
        pytest.skip("ETTh1.csv is not there")
    data = ForecastingData(str(file), split=[8640, 2880, 2880], season=24)
    data.setup()
    assert data.summary()["windows"] == {"train": 8521, "validation": 2857, "test": 2857}
    windows = data.dataset("test")
    batch = windows[list(range(len(windows)))]
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    known, truth = (batch.inputs - mean) / std, (batch.targets - mean) / std
    assert (truth - known[-1:]).square().mean().item() == pytest.approx(1.222, abs=1e-3)
    assert (truth - known[-24:]).square().mean().item() == pytest.approx(0.4244, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "at least 1, max_gap at least 0"),
        ({"season": 97}, "season is from 1 to context=96"),
        ({"split": [5, 5]}, "split is three numbers of rows"),
        ({"validation": 0.9, "test": 0.2}, "sum to less than 1"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ForecastingData(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["c"]}, "data.targets: 'c' is not among the columns that are read: a, b"),
        ({"columns": ["c"]}, "no column 'c'"),
        ({"context": 150}, "the train split has 140 rows, too few for context=150 and horizon=24"),
        ({"split": [100, 100, 100]}, "is 300 rows; there are 200"),
        ({"source": "nowhere.csv"}, "no such file, and not 'mackey_glass'"),
    ],
)
def test_what_does_not_fit_the_table_is_refused(table: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ForecastingData(**{"source": str(table), "context": 20, **options}).setup()

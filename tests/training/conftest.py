"""One tiny run that the tests of this folder look at."""

from pathlib import Path

import pytest
from reviews import write_reviews

from rnnlab.experiments.compose import compose
from rnnlab.training.run import RunResult, train


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 240 reviews that a small model can learn."""
    return write_reviews(tmp_path_factory.mktemp("data") / "reviews.tsv", 120)


@pytest.fixture(scope="session")
def small(reviews: Path) -> list[str]:
    """Settings of a run of a second."""
    return [
        "data=texts",
        f"data.source={reviews}",
        "data.batch_size=16",
        "data.min_count=1",
        "model.hidden_size=8",
        "model.num_layers=1",
        "task.embedding_size=8",
        "optim.lr=0.02",
        "trainer.max_epochs=3",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=5",
        "examples=2",
    ]


@pytest.fixture(scope="session")
def run(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A finished run."""
    folder = tmp_path_factory.mktemp("out") / "run"
    words = [*small, f"run_dir={folder}"]
    return train(compose(words).config, overrides=words)

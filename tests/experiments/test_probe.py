"""`rnnlab probe` on checkpoints of a classifier and of a language model."""

import json
from pathlib import Path

import pytest

from rnnlab import cli
from rnnlab.experiments.compose import compose
from rnnlab.experiments.probe import probe
from rnnlab.training.run import train

QUICK = ["logger=none", "examples=0", "test=false", "trainer.accelerator=cpu", "trainer.max_steps=2"]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    lines = ["text\tlabel"] + [f"film number {i} was {w}\t{w}" for i in range(60) for w in ("good", "bad")]
    (folder / "reviews.tsv").write_text("\n".join(lines), encoding="utf-8")
    words = [
        "data=texts",
        f"data.source={folder / 'reviews.tsv'}",
        "model.hidden_size=6",
        f"run_dir={folder}/run",
    ]
    return train(compose([*words, *QUICK, "trainer.limit_val_batches=1"]).config).folder


def test_a_run_is_shown_as_a_table_and_kept_beside_it(
    reviews: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["probe", f"checkpoint={reviews}", "data.eval_batch_size=16", "batches=2"]) == 0
    out = capsys.readouterr().out
    for text in ("rnn.l1_reverse", "LSTMCell", "Lyapunov", "1/e", "gradients.png", "probes.json"):
        assert text in out
    assert (reviews / "probes" / "saturation.png").is_file()


def test_numbers_as_json_and_a_folder_of_ones_own(
    reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["probe", f"checkpoint={reviews}", "json=true", f"output={tmp_path / 'deep' / 'er'}"]
    assert cli.main([*words, "split=test"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [r["layer"] for r in records] == ["rnn.l0", "rnn.l0_reverse", "rnn.l1", "rnn.l1_reverse"]
    assert all(len(r["gradient_by_lag"]) > 1 and r["lyapunov"] < 0 for r in records)
    assert records == json.loads((tmp_path / "deep" / "er" / "probes.json").read_text(encoding="utf-8"))


def test_a_language_model_is_probed_over_a_longer_window(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"line {i} of a long text" for i in range(300)), encoding="utf-8")
    words = ["experiment=char_lm", "data=text", f"data.source={text}", "model.hidden_size=8", "cell=gru"]
    words += [
        "data.window=12",
        "data.batch_size=4",
        f"run_dir={tmp_path / 'run'}",
        "data.eval_batch_size=4",
    ]
    folder = train(compose([*words, *QUICK]).config).folder
    found = probe(str(folder), ["data.window=40", "data.eval_batch_size=2"], batches=2)
    assert len(found.layers[0].curve) == 40
    assert found.layers[0].growth.shape[0] == 40


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "checkpoint=PATH is required"),
        (["checkpoint=nowhere"], "no such file"),
        (["checkpoint={run}", "batches=0"], "batches=0: expected an int of at least 1"),
        (["checkpoint={run}", "split=train"], "split=train: expected validation or test"),
        (["checkpoint={run}", "json=yes"], "expected true or false"),
        (["checkpoint={run}", "device=abacus"], "device=abacus"),
        (["checkpoint={run}", "bathces=3"], "did you mean batches"),
    ],
)
def test_what_is_wrong_is_said(
    words: list[str], part: str, reviews: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["probe", *(word.format(run=reviews) for word in words)]) == 2
    assert part in capsys.readouterr().err

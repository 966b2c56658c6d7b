"""`rnnlab report`: tables, files, and folders that are none."""

import csv
import json
import re
from pathlib import Path

import pytest

from rnnlab import cli
from rnnlab.experiments.reports.command import report
from rnnlab.experiments.reports.gather import Report
from rnnlab.experiments.reports.page import payload, render
from rnnlab.experiments.sweeps.folder import Status, read_sweep, write_about

from .conftest import add_job


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_terminal_says_what_won_and_what_is_missing(
    make_sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_sweep()
    assert cli.main(["report", str(folder), "page=false"]) == 0
    out = capsys.readouterr().out
    assert "14 of 18 jobs finished; 1 failed, 1 interrupted, 1 pending, 1 damaged" in out
    assert "1 more jobs lie in this folder" in out
    for text in (
        "0.9 ± 0.01",
        "2 of 3",
        "standard deviation over n seeds",
        "the loss is nan in epoch 2",
        "damaged",
    ):
        assert text in out
    board, jobs = read(folder / "report" / "leaderboard.csv"), read(folder / "report" / "jobs.csv")
    assert board[0]["cell"] == "lstm" and float(board[0]["test/accuracy mean"]) == pytest.approx(0.9)
    assert board[0]["test/accuracy n"] == "3"
    assert len(jobs) == len({row["id"] for row in jobs}) == 17
    assert jobs[0]["command"] == "rnnlab train cell=rnn model.num_layers=1 seed=0"
    assert not (folder / "report" / "report.html").exists()


def test_commands_name_what_the_user_has_to_trust(tmp_path: Path) -> None:
    ids = [add_job(tmp_path, 0, {"cell": "mine"}, Status("failed", 1, reason="no")).id]
    write_about(tmp_path, {"jobs": ids, "objectives": [], "allow": ["my_cells", "my_data"]})
    report(tmp_path, page=False)
    (row,) = read(tmp_path / "report" / "jobs.csv")
    assert row["command"] == "rnnlab train cell=mine allow=my_cells,my_data"
    assert payload(Report(read_sweep(tmp_path)))["jobs"][0]["command"] == row["command"]
    write_about(tmp_path, {"jobs": ids, "objectives": [], "allow": "os"})  # no list: not of our writing
    assert "allow" not in payload(Report(read_sweep(tmp_path)))["jobs"][0]["command"]


def test_a_sweep_at_which_nothing_has_finished_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_job(tmp_path, 0, {"cell": "gru"}, Status())
    write_about(tmp_path, {"jobs": [f"{0:012x}", f"{1:012x}"], "objectives": []})
    assert cli.main(["report", str(tmp_path), "page=false"]) == 0
    out = capsys.readouterr().out
    assert "0 of 2 jobs finished; 1 pending, 1 missing" in out
    assert "no job has finished yet" in out
    assert '"settings"' in render(Report(read_sweep(tmp_path)), "")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "SWEEP_DIR is required"),
        (["a", "b"], "got 2"),
        (["nowhere"], "no such folder"),
        (["{here}"], "not the folder of a sweep"),
        (["{sweep}", "metric=loss"], "no finished job has it; did you mean test/loss"),
        (["{sweep}", "mode=best"], "mode=best: expected min or max"),
        (["{sweep}", "page=no"], "expected true or false"),
        (["{sweep}", "outptu=x"], "did you mean output"),
    ],
)
def test_what_is_wrong_is_said(
    words: list[str], part: str, make_sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"here": tmp_path, "sweep": make_sweep()}
    assert cli.main(["report", *(word.format(**places) for word in words)]) == 2
    assert part in capsys.readouterr().err


def test_without_plotly_the_extra_is_named(make_sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(ValueError, match=r"pip install 'rnnlab\[report\]', or give page=false"):
        report(make_sweep())


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&<!--"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    folder = tmp_path / "<b>sweep"
    point = {EVIL: EVIL, "seed": 1}
    status = Status("finished", 1, seconds=1.0, metrics={f"test/{EVIL}": 0.5}, reason=EVIL)
    add_job(folder, 0, point, status)
    write_about(folder, {"jobs": [f"{0:012x}"], "objectives": []})
    found = Report(read_sweep(folder))
    page = render(found, "/* plotly */")
    assert len(re.findall(r"</script", page)) == 3
    assert "<img" not in page and "<b>sweep" not in page and "alert(1)</script>" not in page
    inside = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert inside is not None
    assert json.loads(inside[1]) == payload(found) | {"made": json.loads(inside[1])["made"]}
    assert json.loads(inside[1])["jobs"][0]["label"] == f"{EVIL}={EVIL} seed=1"


def test_curves_are_thinned_and_end_at_their_last_point(make_sweep) -> None:
    folder = make_sweep(broken=False)
    job = read_sweep(folder).jobs[0]
    rows = [f"{step},0,{step / 2}" for step in range(5000)]
    (job.run / "metrics.csv").write_text("step,epoch,train/loss\n" + "\n".join(rows) + "\n", encoding="utf-8")
    ((steps, values),) = payload(Report(read_sweep(folder)))["jobs"][0]["curves"].values()
    assert len(steps) <= 300 and steps[-1] == 4999 and values[-1] == 2499.5
    (job.run / "metrics.csv").write_bytes(b"\x00\xff broken")
    assert payload(Report(read_sweep(folder)))["jobs"][0]["curves"] == {}

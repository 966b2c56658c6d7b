"""What a sweep leaves on disk, and how it is read."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rnnlab.experiments.sweeps.folder import (
    Busy,
    Job,
    Status,
    lock,
    read_job,
    read_status,
    read_sweep,
    write_about,
    write_status,
    write_whole,
)


def make_job(folder: Path, name: str, number: int = 0) -> Job:
    job = Job(folder / "jobs" / name, name, number, ["cell=gru", "seed=1"], {"seed": 1}, "abc")
    job.write()
    return job


numbers = st.floats(allow_nan=False, allow_infinity=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@given(
    metrics=st.dictionaries(st.text(min_size=1), numbers, max_size=3), values=st.lists(numbers, max_size=2)
)
def test_a_status_comes_back_as_it_was(
    metrics: dict[str, float], values: list[float], tmp_path: Path
) -> None:
    status = Status("finished", 2, 1.0, 2.0, 0.5, metrics, values=values, reason="ü")
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status


def test_not_a_number_is_written_as_text_that_any_reader_takes(tmp_path: Path) -> None:
    write_status(tmp_path, Status(metrics={"val/loss": float("nan")}))
    assert '"nan"' in (tmp_path / "status.json").read_text(encoding="utf-8")
    assert read_status(tmp_path).metrics["val/loss"] != read_status(tmp_path).metrics["val/loss"]


def test_jobs_come_in_the_order_of_the_last_start(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        make_job(tmp_path, name, number)
    write_about(tmp_path, {"jobs": ["c", "a", "gone"], "objectives": [{"metric": "val/loss", "mode": "min"}]})
    sweep = read_sweep(tmp_path)
    assert [job.id for job in sweep.jobs] == ["c", "a"]
    assert [job.id for job in sweep.others] == ["b"]
    assert sweep.axes == {"seed": [1]}
    assert sweep.objectives == [("val/loss", "min")]


def test_what_says_running_and_is_held_by_nobody_was_interrupted(tmp_path: Path) -> None:
    job = make_job(tmp_path, "a")
    write_status(job.folder, Status("running", 1, host=os.uname().nodename))
    with lock(job.folder / "alive"):
        assert read_job(job.folder).state == "running"
    assert read_job(job.folder).state == "interrupted"


def test_a_machine_that_was_heard_of_lately_is_believed(tmp_path: Path) -> None:
    job = make_job(tmp_path, "a")
    write_status(job.folder, Status("running", 1, host="another"))
    (job.folder / "alive").touch()
    assert read_job(job.folder).state == "running"
    os.utime(job.folder / "alive", (1.0, 1.0))
    assert read_job(job.folder).state == "interrupted"


def test_one_holds_a_lock_and_says_who(tmp_path: Path) -> None:
    with lock(tmp_path / "lock", "pid 7"), pytest.raises(Busy, match="pid 7"), lock(tmp_path / "lock"):
        pass
    with lock(tmp_path / "lock"):
        pass


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("job.yaml", "{"),
        ("job.yaml", "id: a"),
        ("job.yaml", "- a"),
        ("status.json", "{"),
        ("status.json", '{"state": "sleeping"}'),
        ("status.json", "[]"),
        ("status.json", '{"state": "finished", "metrics": {"a": "b"}}'),
    ],
)
def test_a_damaged_job_is_told_and_the_others_are_read(file: str, text: str, tmp_path: Path) -> None:
    for name in "ab":
        make_job(tmp_path, name)
    write_about(tmp_path, {"jobs": ["a", "b"]})
    (tmp_path / "jobs" / "a" / file).write_text(text, encoding="utf-8")
    sweep = read_sweep(tmp_path)
    assert [job.id for job in sweep.jobs] == ["b"]
    ((folder, reason),) = sweep.damaged
    assert folder.name == "a"
    assert file in reason


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_sweep(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no sweep\.yaml"):
        read_sweep(tmp_path)
    (tmp_path / "sweep.yaml").write_text("format: 99\n", encoding="utf-8")
    with pytest.raises(ValueError, match="update rnnlab"):
        read_sweep(tmp_path)


def test_a_reader_never_meets_half_a_file(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    texts = {name * 20_000 for name in "abc"}
    write_whole(file, "a" * 20_000)
    over = threading.Event()

    def write() -> None:
        for _ in range(30):
            for text in texts:
                write_whole(file, text)
        over.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not over.is_set():
        assert file.read_text(encoding="utf-8") in texts
    thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]

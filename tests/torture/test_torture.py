"""SIGKILL at random moments leaves no checkpoint that cannot be loaded, and nothing behind at the next start.

A few kills here; `make torture` asks for a hundred.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("RNNLAB_TORTURE", "6"))
OTHER_FILE_SYSTEM = Path("/dev/shm")


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same file system", "TMPDIR on another one"])
def test_killed_runs_leave_whole_checkpoints(
    elsewhere: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if elsewhere and not OTHER_FILE_SYSTEM.is_dir():
        pytest.skip("there is no /dev/shm")
    if elsewhere and OTHER_FILE_SYSTEM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is the same file system")
    (tmp_path / "tmp").mkdir()
    temporary = OTHER_FILE_SYSTEM if elsewhere else tmp_path / "tmp"
    words = ["--kills", str(KILLS // 2), "--seed", str(int(elsewhere)), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kill_runs.py"), *words],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        steps = figures.pop("steps")
        print(f"\n{figures}, {len(set(steps))} different last steps up to {max(steps, default=0)}")
    assert figures["kills"] == KILLS // 2
    assert figures["unloadable"] == []
    assert figures["leftovers_after_the_next_start"] == []
    assert figures["leftovers_at_the_end"] == []
    assert figures["could_not_go_on"] == 0
    assert figures["last_run_ended_with"] == 0
    assert steps == sorted(steps)

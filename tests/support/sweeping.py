"""What tests of sweeps share."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from rnnlab.experiments.sweeps.folder import Sweep, read_sweep

Start = Callable[..., "subprocess.Popen[bytes]"]


def wait_until(sweep: Path, reached: Callable[[Sweep], bool], process: "subprocess.Popen[bytes]") -> Sweep:
    """The sweep as soon as it has come so far; fails if its process ends before."""
    while True:
        over = process.poll() is not None
        if (sweep / "sweep.yaml").is_file():
            now = read_sweep(sweep)
            if reached(now):
                return now
        assert not over, "the sweep ended before"
        time.sleep(0.3)

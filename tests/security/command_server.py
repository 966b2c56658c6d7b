"""Runs commands of rnnlab, each in a process of its own that watches what is done in it.

A line of JSON on standard input is one command; a line of JSON on standard output is what became of it. Heavy
imports happen once, before the processes are forked.
"""

import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401
import torch

import rnnlab.data
import rnnlab.experiments.compose
import rnnlab.experiments.evaluate
import rnnlab.tasks
import rnnlab.training.predict
import rnnlab.training.run  # noqa: F401
from rnnlab.cli import main

# What a command may start: git tells the revision, the compiler makes the kernels.
PROGRAMS = {"git", "c++", "g++", "clang++", "cc"}
STARTS = ("os.system", "os.exec", "os.posix_spawn", "pty.spawn", "os.startfile")
WRITES = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.symlink": 1, "os.link": 1}
TIMEOUT_S = 120


def watch(allowed: list[str], found: list[str]) -> None:
    """Note what starts programs, speaks to the network, or writes outside the allowed folders."""

    def noted(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            if Path(os.fsdecode(arguments[0])).name not in PROGRAMS:
                found.append(f"{event} {arguments[:2]}")
        elif event.startswith(STARTS) or event in ("socket.connect", "socket.getaddrinfo"):
            found.append(f"{event} {arguments[:2]}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                outside(event, path)
        elif event in WRITES and -1 in arguments[-2:]:  # else below a folder that is open already
            outside(event, arguments[WRITES[event]])

    def outside(event: str, path: Any) -> None:
        if isinstance(path, int):
            return
        full = os.path.realpath(os.fsdecode(path))
        if not any(full == place or full.startswith(f"{place}/") for place in allowed):
            found.append(f"{event} {full}")

    sys.addaudithook(noted)


def child(job: dict[str, Any]) -> int:
    """Run one command; its exit status."""
    os.chdir(job["folder"])
    os.environ.update(job["environment"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.alarm(TIMEOUT_S)
    torch.set_num_threads(1)
    found: list[str] = []
    watch([os.path.realpath(path) for path in job["allowed"]], found)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        status = main(job["words"])
    except BaseException:
        traceback.print_exc()
        status = 70
    sys.stdout.flush()
    grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    facts = {"violations": list(found), "grown_bytes": grown_bytes}
    Path(job["facts"]).write_text(json.dumps(facts), encoding="utf-8")
    return status


def serve() -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        job = json.loads(line)
        process = os.fork()
        if process == 0:
            os._exit(child(job))
        _, ended = os.waitpid(process, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(ended)}), flush=True)


if __name__ == "__main__":
    print(json.dumps({"ready": True}), flush=True)
    serve()

"""What one job does to its process is undone before the next: jobs of one interpreter do not meet."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Put back seeds, threads, switches of PyTorch, warnings, logging, signals, environment and folder."""
    environment, folder, path, words = dict(os.environ), os.getcwd(), list(sys.path), list(sys.argv)
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    switches = _switches()
    loggers = {logger: (logger.level, list(logger.handlers), logger.disabled) for logger in _loggers()}
    handlers = {number: signal.getsignal(number) for number in _SIGNALS} if _in_main_thread() else {}
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[:], sys.argv[:] = path, words
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        _switch_back(switches)
        for logger, (level, own, disabled) in loggers.items():
            logger.setLevel(level)
            logger.handlers[:] = own
            logger.disabled = disabled
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
            pyplot.close("all")
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


@contextlib.contextmanager
def output_to(file: Path, whole_process: bool) -> Iterator[None]:
    """Append what is printed meanwhile to a file.

    Args:
        file: the log.
        whole_process: also what libraries and child processes write past Python's streams.
    """
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(file.open("a", encoding="utf-8", buffering=1))
        for handler in _screen_handlers():
            stack.callback(handler.setStream, handler.setStream(log) or handler.stream)
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        if whole_process:
            for number in (1, 2):
                kept = os.dup(number)
                stack.callback(os.close, kept)
                stack.callback(os.dup2, kept, number)
                os.dup2(log.fileno(), number)
        yield


def _screen_handlers() -> list[logging.StreamHandler[IO[str]]]:
    """Handlers that write to the screen, wherever they hang."""
    screens = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return [
        handler
        for logger in _loggers()
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(getattr(type(handler), "stream", None), property)  # asks for the stream each time
        and any(handler.stream is screen for screen in screens)
    ]


def _loggers() -> list[logging.Logger]:
    named = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(logger for logger in named if isinstance(logger, logging.Logger))]


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def _switches() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "anomaly": torch.is_anomaly_enabled(),
        "grad": torch.is_grad_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    }


def _switch_back(switches: dict[str, Any]) -> None:
    if torch.get_num_threads() != switches["threads"]:
        torch.set_num_threads(switches["threads"])
    torch.set_default_dtype(switches["dtype"])
    torch.use_deterministic_algorithms(switches["deterministic"], warn_only=switches["warn_only"])
    torch.set_float32_matmul_precision(switches["precision"])
    torch.autograd.set_detect_anomaly(switches["anomaly"])
    torch.set_grad_enabled(switches["grad"])
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = switches["cudnn"]

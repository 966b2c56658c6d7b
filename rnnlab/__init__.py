"""rnnlab: write a recurrent cell once, as plain PyTorch; train it deep, bidirectional and fused.

The public names are loaded on first use, so that `import rnnlab` and the command line stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnlab.nn import GRU, LSTM, RNN, DeepRNN
    from rnnlab.recurrence import Recurrence
    from rnnlab.recurrence.check import check
    from rnnlab.recurrence.explain import explain

    __version__: str

__all__ = ["GRU", "LSTM", "RNN", "DeepRNN", "Recurrence", "__version__", "check", "explain"]

_HOME = {
    "DeepRNN": "rnnlab.nn",
    "GRU": "rnnlab.nn",
    "LSTM": "rnnlab.nn",
    "RNN": "rnnlab.nn",
    "Recurrence": "rnnlab.recurrence",
    "check": "rnnlab.recurrence.check",
    "explain": "rnnlab.recurrence.explain",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version  # as slow as the rest of the start

        try:
            return version("rnnlab")
        except PackageNotFoundError:  # run from a source tree that was never installed
            return "0+unknown"
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'rnnlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, "__version__"])

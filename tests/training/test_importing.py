"""Garbage is left alone while modules are imported, and only then."""

import gc

import pytest

from rnnlab.training.importing import quick_imports
from rnnlab.training.targets import TargetError, resolve


def test_the_collector_is_as_it_was() -> None:
    assert gc.isenabled()
    with quick_imports():
        assert not gc.isenabled()
        with quick_imports():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(TargetError):
        resolve("rnnlab.nothing")
    assert gc.isenabled()
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()

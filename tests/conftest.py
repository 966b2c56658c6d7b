"""What all tests share."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# How long an example takes says nothing on a machine that is shared.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def local_data() -> Path:
    """Data that are not shipped: `$RNNLAB_TEST_DATA` or a folder beside the checkout; else a skip."""
    given = os.environ.get("RNNLAB_TEST_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "data" / "local"
    if not folder.is_dir():
        pytest.skip("set RNNLAB_TEST_DATA to a folder with the data that are not shipped")
    return folder


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed() -> None:
    """Workers of the test run share the cores; a test that draws numbers draws the same ones each time."""
    torch.set_num_threads(1)
    torch.manual_seed(0)

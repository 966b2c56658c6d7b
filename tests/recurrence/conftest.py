"""What the tests of the compiler share."""

from collections.abc import Iterator

import pytest

from rnnlab.recurrence import operators


@pytest.fixture
def interpreter() -> Iterator[None]:
    """Programs are run by their definition, without any code generator."""
    before = dict(operators.executors)
    operators.executors["cpu"] = operators.Interpreter()
    yield
    operators.executors.clear()
    operators.executors.update(before)

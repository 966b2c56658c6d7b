"""The recurrence: a cell's contract, the code that runs it over time, and the choice of a backend."""

from rnnlab.recurrence.aten import Aten
from rnnlab.recurrence.choice import Backend, choose, register
from rnnlab.recurrence.choice import names as backends
from rnnlab.recurrence.contract import Call, Lengths, Noise, StepSpec, probe
from rnnlab.recurrence.fused import Fused
from rnnlab.recurrence.layer import Recurrence
from rnnlab.recurrence.reference import Eager

register(Aten())
register(Fused())
register(Eager())

__all__ = [
    "Backend",
    "Call",
    "Lengths",
    "Noise",
    "Recurrence",
    "StepSpec",
    "backends",
    "choose",
    "probe",
    "register",
]

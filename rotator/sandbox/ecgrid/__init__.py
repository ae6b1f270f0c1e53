"""ECGrid, simulated: both surfaces, its errors, both answers to what its documentation leaves open, and faults."""

from rotator.sandbox.ecgrid.control import Control
from rotator.sandbox.ecgrid.listening import Running, start
from rotator.sandbox.ecgrid.simulator import Simulator
from rotator.sandbox.ecgrid.switches import Fault, Form, Switches
from rotator.sandbox.ecgrid.words import AuthLevel, KeyRecord, User

__all__ = [
    "AuthLevel",
    "Control",
    "Fault",
    "Form",
    "KeyRecord",
    "Running",
    "Simulator",
    "Switches",
    "User",
    "start",
]

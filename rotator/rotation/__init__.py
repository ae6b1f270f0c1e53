"""The rotation of one policy: `tend` does what an order asks for and says what came of it, `would` what it would do.

Which step is next says `page.py`, what is due `due.py`; each step has a module.
"""

from rotator.rotation.beginning import Busy
from rotator.rotation.drift import Check, compare
from rotator.rotation.due import Order
from rotator.rotation.evidence import rotation_of
from rotator.rotation.result import Result, faulty
from rotator.rotation.run import Run
from rotator.rotation.tending import tend
from rotator.rotation.trying import would
from rotator.rotation.world import Clock, Learnt, Report, World

__all__ = [
    "Busy",
    "Check",
    "Clock",
    "Learnt",
    "Order",
    "Report",
    "Result",
    "Run",
    "World",
    "compare",
    "faulty",
    "rotation_of",
    "tend",
    "would",
]

"""The rotation of one policy: `tend` does what an order asks for and says what came of it, `would` what it would do.

Which step is next says `page.py`, what is due `due.py`; each step has a module.
"""

from rotator.due import Order
from rotator.inventory.drift import Check, compare
from rotator.replacing.beginning import Busy
from rotator.rotation.rehearsal import would
from rotator.rotation.result import Cause, Result, faulty
from rotator.rotation.tending import tend
from rotator.run import Run
from rotator.run.evidence import rotation_of
from rotator.run.needs import Clock, Learnt, Report, World
from rotator.run.outcome import Word

__all__ = [
    "Busy",
    "Cause",
    "Check",
    "Clock",
    "Learnt",
    "Order",
    "Report",
    "Result",
    "Run",
    "Word",
    "World",
    "compare",
    "faulty",
    "rotation_of",
    "tend",
    "would",
]

"""ECGrid: the only port, since REST and SOAP are two real implementations of it.

The vendor's field names stay in this room; what leaves it are the types of `rotator.keys`.
"""

from rotator.ecgrid.account import Account, Directory
from rotator.ecgrid.connections import ECGrid
from rotator.ecgrid.credentials import Credentials
from rotator.ecgrid.rate import Rate, Urgency
from rotator.ecgrid.spoken import InMemory, Keep
from rotator.ecgrid.wire import Observer

__all__ = [
    "Account",
    "Credentials",
    "Directory",
    "ECGrid",
    "InMemory",
    "Keep",
    "Observer",
    "Rate",
    "Urgency",
]

"""The daemon's window: health, metrics and the status page, over HTTP, for looking only.

It is given plain values by whoever has them, as a `Site`, and shows them. What it cannot be asked for it cannot do:
there is no request that changes anything, and none that shows a secret.
"""

from __future__ import annotations

from rotator.web.server import Window
from rotator.web.view import Health, Owed, Site, View

__all__ = ["Health", "Owed", "Site", "View", "Window"]

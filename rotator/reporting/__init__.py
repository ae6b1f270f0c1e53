"""What is told, in which words and to whom: see the README beside this file."""

from rotator.reporting.log import event, is_failure, lines_through, setup
from rotator.reporting.to_sentry import flush, start_sentry

__all__ = ["event", "flush", "is_failure", "lines_through", "setup", "start_sentry"]

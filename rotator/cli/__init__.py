"""The command line: what is typed, what is printed, and with which exit code.

`--help` loads `commands` and click. Each command loads the module that does it.
"""

from rotator.cli.commands import Choice, is_quiet, main

__all__ = ["Choice", "is_quiet", "main"]

"""`python -m rotator` and the `rotator` command."""

from __future__ import annotations

from rotator.cli import main

if __name__ == "__main__":
    main(prog_name="rotator")

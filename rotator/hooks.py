"""What runs after a rotation: commands and webhooks. They are given names and numbers, never a value.

A hook runs at least once, on whichever machine rotated. One that fails is reported and changes nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from typing import Any

from rotator.policy import Exec, Policy, Webhook

TIMEOUT = 60.0  # seconds, for each hook
KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "HOME",
    "DBUS_SYSTEM_BUS_ADDRESS",
)  # of the rotator's own environment


def after_rotation(policy: Policy, key_id: int | None, published: dict[str, Any]) -> list[str]:
    """Runs the policy's hooks in order and returns a warning for each that failed."""
    told = {
        "ROTATOR_POLICY": policy.name,
        "ROTATOR_KEY_ID": "" if key_id is None else str(key_id),
        "ROTATOR_VAULT_MOUNT": str(published["mount"]),
        "ROTATOR_VAULT_PATH": str(published["path"]),
        "ROTATOR_VAULT_VERSION": str(published["version"]),
    }
    warnings = []
    for number, hook in enumerate(policy.after, 1):
        problem = _execute(hook, told) if isinstance(hook, Exec) else _post(hook, told)
        if problem:
            warnings.append(f"hook {number} ({type(hook).__name__.lower()}) failed: {problem}")
    return warnings


def _execute(hook: Exec, told: dict[str, str]) -> str | None:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    try:
        done = subprocess.run(
            hook.argv,
            env={**kept, **told},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return type(error).__name__
    return f"exit code {done.returncode}" if done.returncode else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A webhook goes where the policy says, nowhere else."""

    def redirect_request(self, *args: object) -> None:
        return None


def _post(hook: Webhook, told: dict[str, str]) -> str | None:
    body = json.dumps(
        {name.removeprefix("ROTATOR_").lower(): value for name, value in told.items()}
    )
    request = urllib.request.Request(  # noqa: S310 - http(s) only: the policy was checked
        hook.url, body.encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT):
            return None
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except (OSError, ValueError) as error:
        return type(error).__name__

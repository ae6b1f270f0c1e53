"""What runs after a rotation: commands and webhooks. They are given names and numbers, never a value.

A hook runs at least once, on whichever machine rotated. One that fails is tried again, then reported, and changes
nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from rotator.journal import Place
from rotator.keys import secret_part
from rotator.policy import Exec, Policy, Webhook
from rotator.posting import post
from rotator.secrecy.children import environment

# Seconds, for each try.
TIMEOUT = 30.0
# Seconds before each further try.
PAUSES = (1.0, 5.0)
FAILED = "hook.Failed"


def absent(policy: Policy) -> list[str]:
    """The programs of the policy's hooks that this machine does not have, where a hook would look for them."""
    programs = [hook.argv[0] for hook in policy.after if isinstance(hook, Exec)]
    return [program for program in programs if shutil.which(program) is None]


def after_rotation(
    policy: Policy,
    key_id: int | None,
    published: Place,
    hurry: Callable[[], bool] = lambda: False,
    *,
    timeout: float = TIMEOUT,
    pauses: tuple[float, ...] = PAUSES,
) -> list[str]:
    """Runs the policy's hooks in order and returns a warning for each that failed every time.

    Each has three tries of `timeout` seconds; only one once `hurry()` says that the process is to stop.
    """
    variables = {
        "ROTATOR_POLICY": policy.name,
        "ROTATOR_KEY_ID": "" if key_id is None else str(key_id),
        "ROTATOR_VAULT_MOUNT": published.mount,
        "ROTATOR_VAULT_PATH": published.path,
        "ROTATOR_VAULT_VERSION": str(published.version),
    }
    warnings = []
    for number, hook in enumerate(policy.after, 1):
        tries, problem = 1, _run(hook, variables, timeout)
        for pause in pauses:
            if problem is None or hurry():
                break
            time.sleep(pause)
            tries, problem = tries + 1, _run(hook, variables, timeout)
        if problem is not None:
            kind = type(hook).__name__.lower()
            times = "once" if tries == 1 else f"{tries} times"
            warnings.append(f"hook {number} ({kind}) was tried {times} and failed: {problem}")
    return warnings


def _run(hook: Exec | Webhook, variables: dict[str, str], timeout: float) -> str | None:
    if isinstance(hook, Exec):
        return _execute(hook, variables, timeout)
    # And a minute longer.
    _watched = secret_part(hook.url)
    said = {name.removeprefix("ROTATOR_").lower(): value for name, value in variables.items()}
    status, words = post(hook.url, json.dumps(said).encode(), {}, timeout)
    return None if 200 <= status < 300 else words


def _execute(hook: Exec, variables: dict[str, str], timeout: float) -> str | None:
    """Runs a command; None if it ended well. At the timeout it ends with all that it has started."""
    try:
        process = subprocess.Popen(
            hook.argv,
            env=environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"it could not be started ({type(error).__name__})"
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"no end within {timeout:.0f} s"
    return f"exit code {code}" if code else None

"""A headless Chromium, driven over its debugging pipe: nothing but the standard library is needed."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Seconds that a browser takes to end by itself, at the most.
ENDS = 30.0


class Browser:
    """One tab of a Chromium of its own. A context manager."""

    def __init__(self, profile: Path, program: str = "chromium") -> None:
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        self._number = 0
        self._read = b""
        self.events: list[dict[str, Any]] = []  # what the browser told by itself
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        # Chromium reads its debugging pipe at descriptor 3 and writes it at 4. (dash knows no numbers of two digits.)
        shell = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", *command]
        self._process = subprocess.Popen(
            shell,
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        targets = self._ask("Target.getTargets", {})["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        wanted = {"targetId": page["targetId"], "flatten": True}
        self._session: str | None = self._ask("Target.attachToTarget", wanted)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        # By itself it ends its helpers first: one that was left would write into a profile that is being removed.
        with suppress(OSError, RuntimeError):
            self._ask("Browser.close", {})
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol to the tab, and its result."""
        return self._ask(method, parameters, self._session)

    def _ask(
        self, method: str, parameters: dict[str, Any], session: str | None = None
    ) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") != self._number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error'].get('message')}")
            else:
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            more = os.read(self._from, 1 << 20)
            if not more:
                raise RuntimeError("Chromium ended; does it start by hand?")
            self._read += more
        message, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(message))

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        result = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def look_at(self, width: int, *, dark: bool) -> None:
        """From here on: that wide (CSS pixels), light or dark."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Loads a page, and waits until it is complete."""
        self.events.clear()
        self.ask("Page.navigate", url=url)
        for _ in range(600):
            if self.run("location.href") == url and self.run("document.readyState") == "complete":
                return
            time.sleep(0.05)
        raise RuntimeError(f"{url} was not loaded")

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of what is to be seen, or of the whole page."""
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

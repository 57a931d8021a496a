"""A headless Chromium, driven through its DevTools pipe: nothing but the browser is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
LAUNCH = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(pipe), fcntl.F_DUPFD, 10) for pipe in sys.argv[1:3]]
os.dup2(pipes[0], 3)
os.dup2(pipes[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads commands at 3 and answers at 4."""


class Page:
    """One page. What it logs, and the addresses that it asks for, are kept."""

    def __init__(self, to: int, of: int) -> None:
        self._to, self._of, self._unread, self._count = to, of, b"", 0
        self.console: list[str] = []
        self.requested: list[str] = []
        self._session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Runtime", "Network", "Log", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """A command of the protocol, and its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (told := self._read()).get("id") != self._count:
            self._hear(told)
        assert "error" not in told, f"{method}: {told}"
        return told["result"]

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({url!r}) && document.readyState == 'complete'")

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            part = os.read(self._of, 1 << 16)
            assert part, "the browser has ended"
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def _hear(self, told: dict[str, Any]) -> None:
        params = told.get("params", {})
        match told.get("method"):
            case "Runtime.exceptionThrown":
                self.console.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                self.console.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.console.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])

    def do(self, script: str) -> Any:
        """The value of an expression on the page."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        for _ in range(300):
            if self.do(script):
                return
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}; {self.console}")

    def press(self, key: str, code: int, text: str = "", modifiers: int = 0) -> None:
        """A key as a person presses it; modifiers: 2 is Ctrl."""
        said = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", **said, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **said)

    def look(self, width: int, height: int, dark: bool = False) -> bytes:
        """A PNG of the page on such a screen."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextmanager
def browsing(folder: Path) -> Iterator[Page]:
    """A page of a browser with a profile of its own in `folder`."""
    (theirs, ours), (own, others) = os.pipe(), os.pipe()
    flags = f"--headless --no-sandbox --disable-gpu --no-first-run --user-data-dir={folder} --remote-debugging-pipe"
    command = [sys.executable, "-c", LAUNCH, str(theirs), str(others), CHROMIUM, *flags.split()]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, pass_fds=(theirs, others), stdout=quiet, stderr=quiet) as process:
        os.close(theirs)
        os.close(others)
        try:
            yield Page(ours, own)
        finally:
            process.terminate()
            os.close(ours)
            os.close(own)

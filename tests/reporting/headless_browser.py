"""A headless Chromium, driven by its own DevTools protocol over a pipe: no driver, no port, no library."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    """One page; `requests` are the addresses that it asked for, `errors` what its console complained about."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._send, self._receive = to_browser, from_browser
        self._number, self._rest, self._session, self._loaded = 0, b"", "", False
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """The answer of the browser to one command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, file: Path) -> None:
        """Show a file and wait until it is loaded."""
        self._loaded = False
        self.call("Page.navigate", url=file.resolve().as_uri())
        while not self._loaded:
            self._next()

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait until the page has drawn what it was told."""
        self.call("Page.captureScreenshot")

    def press(self, key: str, text: str = "") -> None:
        """A key, as a keyboard sends it."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27}
        key_of = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **key_of, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **key_of)

    def resize(self, width: int, height: int = 900, *, mobile: bool = False) -> None:
        """The size of the window, in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def media(self, kind: str = "screen", scheme: str = "light") -> None:
        """``screen`` or ``print``; ``light`` or ``dark``."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        """What the window, or the whole page, looks like, as PNG."""
        image = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(image))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._receive, 1 << 16)
            assert part, "the browser is gone"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        content: dict[str, Any] = json.loads(message)
        self._note(content.get("method", ""), content.get("params", {}))
        return content

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif method == "Page.loadEventFired":
            self._loaded = True


@contextmanager
def open_browser(profile: Path) -> Iterator[Page]:
    """A browser with a fresh profile in the folder `profile`, ended with the block."""
    assert BROWSER is not None
    (browser_reads, we_write), (we_read, browser_writes) = os.pipe(), os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (browser_reads, browser_writes)]

    def as_3_and_4() -> None:
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}", "--no-first-run", "--disable-background-networking"],
        preexec_fn=as_3_and_4,
        pass_fds=(3, 4, *high),
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Page(we_write, we_read)
    finally:
        process.kill()
        process.wait()
        for end in (browser_reads, we_write, we_read, browser_writes, *high):
            os.close(end)

"""A real browser without a screen, for tests: Chromium, driven by DevTools messages over two pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60.0  # seconds that an answer may take


def find_browser() -> str | None:
    """The path of a Chromium, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """Chromium with one page of a given size.

    Args:
        profile: an empty folder for its profile.
        width, height: of the page, in CSS pixels.
        mobile: whether it passes for a telephone with a touch screen.
        dark: whether it prefers dark colours.
    """

    def __init__(self, profile: Path, width: int = 1200, height: int = 900, mobile: bool = False, dark: bool = False) -> None:
        path = find_browser()
        assert path is not None
        to_browser, self._to = os.pipe()
        self._from, from_browser = os.pipe()
        flags = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --remote-debugging-pipe".split()
        # Chromium reads messages from descriptor 3 and writes to 4.
        words = ["bash", "-c", f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"', "-", path, *flags, f"--user-data-dir={profile}"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(words, pass_fds=(to_browser, from_browser), stdout=quiet, stderr=quiet)
        os.close(to_browser)
        os.close(from_browser)
        self._waiting, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        try:
            target = self.send("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.send(f"{domain}.enable")
            self.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
            self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
            self.send("Emulation.setTouchEmulationEnabled", enabled=mobile)
            features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            self.send("Emulation.setEmulatedMedia", features=features)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        for descriptor in (self._to, self._from):
            os.close(descriptor)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A DevTools command's result. Raises RuntimeError when it fails or gets no answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            answer = self._read(deadline)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)
        raise RuntimeError(f"{method}: no answer")

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._from, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError("the browser ended or does not answer")
            self._waiting += part
        message, self._waiting = self._waiting.split(b"\0", 1)
        return json.loads(message)

    def open(self, page: Path) -> None:
        """Open a file, and wait until its page has started."""
        self.send("Page.navigate", url=page.resolve().as_uri())
        self.wait("globalThis.page || !(document.getElementById('failure') || {hidden: true}).hidden")

    def run(self, script: str) -> Any:
        """The value of a script, waited for if it is a promise. Raises RuntimeError when it throws."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"].get("exception", answer["exceptionDetails"]).get("description")))
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = PATIENCE) -> None:
        """Wait until a script's value is true. Raises RuntimeError when it never is."""
        deadline = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > deadline:
                raise RuntimeError(f"never true: {condition}")
            time.sleep(0.1)

    def key(self, key: str, kind: str) -> None:
        """Press ("keyDown") or let go ("keyUp") a key, such as "ArrowLeft"."""
        self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def click(self, name: str) -> None:
        """A click of the mouse on the middle of an element, by its id."""
        self.run(f"document.getElementById({name!r}).scrollIntoView({{ block: 'center' }})")
        middle = (
            f"(({{ x, y, width, height }}) => [x + width / 2, y + height / 2])(document.getElementById({name!r}).getBoundingClientRect())"
        )
        x, y = self.run(middle)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """A touch event, "touchStart", "touchMove" or "touchEnd", at points of the page."""
        self.send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y} for x, y in points])

    def screenshot(self, target: Path, whole: bool = False) -> None:
        """Write a PNG of what is seen, or of the whole page."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        target.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """Errors on the console, and requests for anything but the page itself and data in it."""
        found = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                found.append(str(params["args"]))
            elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("data:", "file:", "about:")):
                found.append(params["request"]["url"])
        return found

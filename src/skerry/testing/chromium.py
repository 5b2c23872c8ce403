"""A headless Chromium that tests drive: its DevTools protocol over a pipe, so that no port is open.

with Chromium(find_chromium(), scratch) as browser:
    page = browser.page("http://127.0.0.1:8787/map", width=1280, height=720)
    page.wait("document.title === 'Skerry: map'")
"""

import base64
import os
import shutil
import subprocess
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")
ANSWER_S = 30.0
POLL_S = 0.02


def find_chromium() -> Path | None:
    """The first of `PROGRAMS` on PATH (Debian: packages `chromium-headless-shell`, `chromium`)."""
    return next((Path(found) for found in map(shutil.which, PROGRAMS) if found), None)


class Chromium:
    """One browser process; `scratch` is a directory for its profile."""

    def __init__(self, program: Path, scratch: Path) -> None:
        command = [str(program), "--headless", "--remote-debugging-pipe", f"--user-data-dir={scratch}", "--no-first-run"]
        # A browser of root has no sandbox of its own; what is opened here are our own pages.
        command += ["--disable-gpu", "--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        # The protocol is spoken on descriptors 3 and 4, by definition.
        renumbered = ["/bin/sh", "-c", 'exec "$@" 3<&0 4>&1 >/dev/null </dev/null', "sh", *command]
        self._process = subprocess.Popen(renumbered, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self._answers = self._process.stdin, self._process.stdout
        self._numbers = count(1)
        self._unread = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._answers.close()
        self._commands.close()

    def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        """The result of one command; events that come meanwhile are kept. Raises RuntimeError as the browser says."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        self._commands.write(msgspec.json.encode(message) + b"\0")
        self._commands.flush()
        while True:
            said = self._read()
            if said.get("id") != number:
                self.events.append(said)
            elif "error" in said:
                raise RuntimeError(f"{method}: {said['error']}")
            else:
                return said["result"]

    def page(self, url: str, *, width: int = 1280, height: int = 720, dark: bool = False, touch: bool = False) -> "Page":
        """A new page in a context of its own: nothing is kept from others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        if touch:
            page.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Page.navigate", url=url)
        page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            part = os.read(self._answers.fileno(), 1 << 20)
            if not part:
                raise RuntimeError("the browser ended")
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return msgspec.json.decode(message, type=dict[str, Any])


class Page:
    """One page of a `Chromium`."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: object) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, awaited; raises RuntimeError when it throws."""
        said = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in said:
            raise RuntimeError(f"{expression}: {said['exceptionDetails']}")
        return said["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until the expression is true; raises TimeoutError."""
        until = time.monotonic() + ANSWER_S
        while not self.value(expression):
            if time.monotonic() > until:
                raise TimeoutError(f"not within {ANSWER_S:.0f} s: {expression}")
            time.sleep(POLL_S)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        code = {"text": "\r", "windowsVirtualKeyCode": 13} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self) -> bytes:
        """PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def complaints(self) -> list[str]:
        """What the console and the browser itself held against the page so far."""
        own = [event for event in self._browser.events if event.get("sessionId") == self._session]
        thrown = [str(event["params"]) for event in own if event["method"] == "Runtime.exceptionThrown"]
        return thrown + [event["params"]["entry"]["text"] for event in own if event["method"] == "Log.entryAdded"]

    def requested(self) -> list[str]:
        """Every address that the page asked for."""
        own = [event for event in self._browser.events if event.get("sessionId") == self._session]
        return [event["params"]["request"]["url"] for event in own if event["method"] == "Network.requestWillBeSent"]

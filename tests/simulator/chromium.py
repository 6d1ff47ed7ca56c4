"""Headless Chromium, driven over its DevTools connection: what a page draws, says and asks for. For tests and pictures.

One browser serves several looks at pages, each with its own size and colour scheme.
"""

import base64
import contextlib
import itertools
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from websockets.sync.client import connect
from websockets.sync.connection import Connection

_START_TIMEOUT_S: Final = 30.0
_ANSWER_TIMEOUT_S: Final = 30.0
_OPTIONS: Final = (
    "--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--allow-file-access-from-files=false",
)  # fmt: skip


class Look:
    """One page in one window. `complaints`: what went to the console or was thrown. `requests`: all but the page."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> Any:
        """Ask the page's DevTools for something and give the answer."""
        return self._browser.call(method, self._session, **parameters)

    def value(self, expression: str) -> Any:
        """Give the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def picture(self, *, whole: bool = False) -> bytes:
        """Give a picture of the window, or of the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole, optimizeForSpeed=False)
        return base64.b64decode(answer["data"])

    def heard(self, event: dict[str, Any]) -> None:
        """Take note of what the page did."""
        method, parameters = event["method"], event["params"]
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(parameters["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(str(parameters["entry"]))
        elif method == "Network.requestWillBeSent" and parameters["documentURL"] != parameters["request"]["url"]:
            self.requests.append(parameters["request"]["url"])


class Browser:
    """A running browser."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._looks: dict[str, Look] = {}
        self._loaded: set[str] = set()

    def look(self, page: Path, *, width: int, dark: bool, height: int = 900, scale: float = 1) -> Look:
        """Open a page; returns when it has loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        look = self._looks[session] = Look(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            look.call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        look.call("Emulation.setEmulatedMedia", features=[scheme])
        look.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=width < 600,
        )  # fmt: skip
        self._loaded.discard(session)
        look.call("Page.navigate", url=page.as_uri())
        deadline_s = time.monotonic() + _ANSWER_TIMEOUT_S
        while session not in self._loaded:
            self._receive(deadline_s)
        return look

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Ask for something and give the answer; what happens meanwhile goes to the looks."""
        number = next(self._numbers)
        request: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        self._connection.send(msgspec.json.encode(request | ({"sessionId": session} if session else {})).decode())
        deadline_s = time.monotonic() + _ANSWER_TIMEOUT_S
        while (message := self._receive(deadline_s)).get("id") != number:
            pass
        assert "error" not in message, f"{method}: {message['error']}"
        return message["result"]

    def _receive(self, deadline_s: float) -> dict[str, Any]:
        text = self._connection.recv(max(0.01, deadline_s - time.monotonic()))
        message: dict[str, Any] = msgspec.json.decode(text)
        look = self._looks.get(message.get("sessionId", ""))
        if look is not None and "method" in message:
            if message["method"] == "Page.loadEventFired":
                self._loaded.add(message["sessionId"])
            look.heard(message)
        return message


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Run a browser that keeps its things in a folder, until the context ends."""
    program = shutil.which("chromium")
    assert program is not None
    # The sandbox does not work as root, and there is nothing here that it would have to keep out.
    root = ("--no-sandbox",) if os.geteuid() == 0 else ()
    process = subprocess.Popen(
        [program, *_OPTIONS, *root, f"--user-data-dir={folder}", "about:blank"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    try:
        with connect(_address(process), max_size=2**28, compression=None) as connection:
            ours = Browser(connection)
            yield ours
            ours.call("Browser.close")
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _address(process: subprocess.Popen[bytes]) -> str:
    """Read where it listens for DevTools."""
    assert process.stderr is not None
    said, deadline_s = b"", time.monotonic() + _START_TIMEOUT_S
    while b"\n" not in said.partition(b"DevTools listening on ")[2]:
        ready, _, _ = select.select([process.stderr], [], [], max(0.0, deadline_s - time.monotonic()))
        chunk = os.read(process.stderr.fileno(), 65_536) if ready else b""
        assert chunk, f"chromium did not start: {said!r}"
        said += chunk
    return said.partition(b"DevTools listening on ")[2].split()[0].decode()

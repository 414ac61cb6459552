"""Drives a headless Chromium through a pair of pipes: no port, no driver, no package.

`find` says which program there is; a test without one is skipped with that reason.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--no-default-browser-check", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-extensions", "--disable-default-apps", "--disable-breakpad", "--mute-audio",
    "--password-store=basic", "--use-mock-keychain", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)  # fmt: skip

CODES = {"Tab": 9, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def find() -> str | None:
    """Return the path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One browser; `page` opens a tab. Use it in a ``with``: it ends with all of its processes."""

    def __init__(self, program: str):
        self._profile = tempfile.mkdtemp(prefix="mlagent-chromium-")
        self._buffer, self._number = b"", 0
        self.events: list[dict] = []
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # Chromium reads from 3 and writes to 4. Numbers from 10 on cannot be one of these two.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]
        start = f'exec "$0" "$@" 3<&{ends[0]} 4>&{ends[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", start, program, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            pass_fds=ends, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (to_read, to_write, *ends):
            os.close(end)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._write)  # the browser ends when its pipe does
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._read)
        shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method: str, session: str | None = None, **params: object) -> dict:
        """Return the answer to one command; events on the way are kept in ``events``."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            found = self._next(time.monotonic() + 60)
            if found.get("id") == self._number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return found["result"]
            self.events.append(found)

    def _next(self, until: float) -> dict:
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            part = os.read(self._read, 1 << 16)
            if not part:
                raise RuntimeError("Chromium has ended")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def page(self, width: int = 1280, height: int = 900, *, dark: bool = False) -> Page:
        """Return a new tab."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        page.size(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.send("Emulation.setEmulatedMedia", features=[scheme])
        return page

    def frame(self) -> Page:
        """Return the frame of another origin that is on the page, once it is there."""
        for _ in range(50):
            found = [t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "iframe"]
            if found:
                break
            time.sleep(0.1)
        target = found[0]["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        frame = Page(self, session, target)
        frame.ready()
        return frame


class Page:
    """One tab, or a frame in one.

    Attributes:
        errors: What went wrong on the page so far: exceptions, refused scripts, error messages.
    """

    def __init__(self, browser: Chromium, session: str, target: str):
        self._browser, self._session, self._target = browser, session, target
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: object) -> dict:
        """Return the answer of this tab to one command."""
        return self._browser.send(method, self._session, **params)

    def size(self, width: int, height: int) -> None:
        """Give the tab a size in pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=False)  # fmt: skip

    def open(self, address: str | Path) -> None:
        """Open a file or an address and wait until its list is painted."""
        url = address.as_uri() if isinstance(address, Path) else address
        self.send("Page.navigate", url=url)
        self.ready()

    def ready(self) -> None:
        """Wait until the page is loaded and painted."""
        is_loaded = "document.readyState === 'complete'"
        self.run(f"new Promise(done => {is_loaded} ? done() : addEventListener('load', done))")
        self.settle()

    def settle(self) -> None:
        """Wait until the next frame is painted."""
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")

    def run(self, code: str) -> object:
        """Return the value of an expression, awaited where it is a promise."""
        found = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    def key(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                self.send(
                    "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=CODES[key]
                )
        self.settle()

    def picture(self, path: Path, *, whole: bool = False) -> Path:
        """Write a picture of the tab."""
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    @property
    def errors(self) -> list[str]:
        self.settle()
        own = [event for event in self._browser.events if event.get("sessionId") == self._session]
        bad = [e for e in own if e["method"] == "Runtime.exceptionThrown"]
        bad += [
            e for e in own if e["method"] == "Log.entryAdded" and e["params"]["entry"]["level"] == "error"
        ]
        return [json.dumps(event["params"])[:600] for event in bad]

    @property
    def requests(self) -> list[str]:
        """Addresses that the tab asked for and its policy did not refuse."""
        own = [event for event in self._browser.events if event.get("sessionId") == self._session]
        asked = [event["params"] for event in own if event["method"] == "Network.requestWillBeSent"]
        failed = [event["params"] for event in own if event["method"] == "Network.loadingFailed"]
        refused = {event["requestId"] for event in failed if event.get("blockedReason") == "csp"}
        return [event["request"]["url"] for event in asked if event["requestId"] not in refused]

    def close(self) -> None:
        """Close the tab."""
        self._browser.send("Target.closeTarget", targetId=self._target)

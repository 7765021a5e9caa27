"""A headless Chromium for tests, driven through its DevTools over a pair of pipes: no driver, no port, no package.

Where Chromium isn't installed tests skip themselves; with VQLOOM_NEED_CHROMIUM=1, as in CI, they fail.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
SECONDS = 120.0
"""How long anything may take; CI machines are slow and shared."""


def chromium() -> str:
    """The browser's path; without one the test is skipped, or fails where it must run."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("VQLOOM_NEED_CHROMIUM") == "1":
            pytest.fail("VQLOOM_NEED_CHROMIUM=1, but there is no chromium: apt-get install chromium")
        pytest.skip("no chromium here")
    return found


class Browser:
    """One tab of a browser with an empty profile; a context manager that ends it."""

    def __init__(self, profile: Path, width: int = 1200, height: int = 900):
        flags = [*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        theirs, self._write = os.pipe()
        self._read, ours = os.pipe()
        # The browser reads commands from descriptor 3 and writes answers to 4.
        line = ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{ours}', "bash", chromium(), *flags, "about:blank"]
        self._process = subprocess.Popen(line, pass_fds=(theirs, ours), stderr=subprocess.DEVNULL)
        os.close(theirs)
        os.close(ours)
        self._number, self._rest, self._session = 0, b"", None
        self.errors: list[str] = []
        """What scripts of the page threw."""
        targets = self._call("Target.getTargets")["targetInfos"]
        (target, *_) = [each["targetId"] for each in targets if each["type"] == "page"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Runtime.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        try:
            self._call("Browser.close")
            self._process.wait(SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._write)
            os.close(self._read)

    def open(self, address: str) -> None:
        """Load a page, and wait until it is there."""
        self._call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, script: str) -> Any:
        """What an expression gives in the page; promises are awaited."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, f"{script}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def wait(self, script: str) -> Any:
        """The expression's value as soon as it is true."""
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            if found := self.value(script):
                return found
            time.sleep(0.1)
        raise AssertionError(f"after {SECONDS:g} s still not true in the page: {script}; errors: {self.errors}")

    def click(self, element: str, x: float = 0.5, y: float = 0.5) -> None:
        """Press and release the mouse inside an element, given as an expression, at a share of its sides."""
        self.value(f"({element}).scrollIntoView({{block: 'center'}})")
        sides = self.value(f"(e => [e.x, e.y, e.width, e.height])(({element}).getBoundingClientRect())")
        at = {"x": sides[0] + x * sides[2], "y": sides[1] + y * sides[3], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, **at)

    def drop(self, file: Path, element: str) -> None:
        """Drag a picture from the desktop onto an element, given as an expression."""
        contents = base64.b64encode(file.read_bytes()).decode()
        self.value(f"""(zone => {{
            const bytes = Uint8Array.from(atob('{contents}'), one => one.charCodeAt(0)), held = new DataTransfer();
            held.items.add(new File([bytes], '{file.name}', {{type: 'image/{file.suffix[1:]}'}}));
            for (const kind of ['dragenter', 'dragover', 'drop'])
                zone.dispatchEvent(new DragEvent(kind, {{dataTransfer: held, bubbles: true, cancelable: true}}));
        }})({element})""")

    def screenshot(self, file: Path) -> Path:
        """The whole page as a PNG."""
        found = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))
        return file

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + SECONDS
        while True:
            answer = self._next(until)
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(answer["params"]["exceptionDetails"].get("exception", {}).get("description")))
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(until - time.monotonic(), 0))
            read = os.read(self._read, 1 << 20) if ready else b""
            assert read, "the browser says nothing more"
            self._rest += read
        answer, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(answer))

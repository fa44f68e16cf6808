"""Headless Chromium, driven over its DevTools protocol: nothing but Chromium and a websocket is needed."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import websocket

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
START_SECONDS = 60


class ScriptFailed(AssertionError):
    """JavaScript in the page raised."""


class Browser:
    """One page in one browser, with a profile of its own. Close it, or use `with`."""

    def __init__(self, width: int = 1280, height: int = 900):
        self._profile = tempfile.TemporaryDirectory(prefix="xdit-chromium-", ignore_cleanup_errors=True)
        flags = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={self._profile.name}"]
        flags += ["--disable-gpu", "--no-first-run", f"--window-size={width},{height}"]
        if os.geteuid() == 0:  # Chromium's sandbox refuses root
            flags.append("--no-sandbox")
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen([CHROMIUM, *flags, "about:blank"], stdin=quiet, stdout=quiet, stderr=quiet)
        self._numbers = itertools.count(1)
        try:
            self._socket = websocket.create_connection(self._page(), timeout=60, suppress_origin=True)
        except BaseException:
            self._end()
            raise

    def _page(self) -> str:
        """The websocket address of the page."""
        file = Path(self._profile.name) / "DevToolsActivePort"
        deadline = time.monotonic() + START_SECONDS
        while not file.exists() or not file.read_text():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Chromium did not start (code {self._process.poll()})")
            time.sleep(0.05)
        port = file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
            return next(one["webSocketDebuggerUrl"] for one in json.load(answer) if one["type"] == "page")

    def call(self, method: str, **parameters: Any) -> dict:
        """A method of the DevTools protocol."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv())).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited when it is a promise. Raises ScriptFailed."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise ScriptFailed(done["exceptionDetails"]["exception"].get("description", script))
        return done["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """The first true value of a JavaScript expression. Raises AssertionError."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"not within {seconds} s: {script}"
            time.sleep(0.1)
        return value

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._socket.close()
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._profile.cleanup()

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        self.close()

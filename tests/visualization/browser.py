"""Chromium without a window, driven through chromedriver's HTTP interface, which is W3C's WebDriver."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVERS = ("chromedriver", "chromium.chromedriver")
SECONDS = 30  # that any command may take

# As WebDriver writes keys that are no characters.
KEYS = {
    "PageUp": "\ue00e",
    "PageDown": "\ue00f",
    "End": "\ue010",
    "Home": "\ue011",
    "ArrowLeft": "\ue012",
    "ArrowUp": "\ue013",
    "ArrowRight": "\ue014",
    "ArrowDown": "\ue015",
    "Tab": "\ue004",
    "Escape": "\ue00c",
    "Space": " ",
}


class BrowserError(Exception):
    """What the driver said."""


def why_not() -> str | None:
    """The reason why there is no browser here; None if there is one."""
    for kind, names in (("browser", BROWSERS), ("chromedriver", DRIVERS)):
        if _found(names) is None:
            return f"no {kind}: none of {', '.join(names)} is installed"
    return None


def _found(names: tuple[str, ...]) -> str | None:
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """A browser with one page, to be used in a `with` statement."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._driver = subprocess.Popen(
            [str(_found(DRIVERS)), "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert self._driver.stdout is not None
            started = next(
                filter(None, (re.search(r"successfully on port (\d+)", line) for line in self._driver.stdout))
            )
            self._address = f"http://127.0.0.1:{started[1]}/session"
            session = self._ask("POST", "", {"capabilities": {"alwaysMatch": self._capabilities()}})
            self._address += f"/{session['sessionId']}"
        except BaseException:
            self.close()
            raise

    def _capabilities(self) -> dict[str, Any]:
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        arguments += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        arguments += ["--disable-dev-shm-usage", f"--user-data-dir={self._folder.name}"]
        return {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": _found(BROWSERS), "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "unhandledPromptBehavior": "ignore",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._ask("DELETE", "", None)
        finally:
            self.close()

    def close(self) -> None:
        """Ends the driver, and with it the browser."""
        self._driver.terminate()
        self._driver.wait(SECONDS)
        if self._driver.stdout is not None:
            self._driver.stdout.close()
        self._folder.cleanup()

    def _ask(self, method: str, path: str, content: dict[str, Any] | None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            self._address + path, body, {"Content-Type": "application/json"}, method=method
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=SECONDS) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise BrowserError(json.load(error)["value"]["message"]) from None

    def devtools(self, command: str, **arguments: Any) -> Any:
        """The result of a command of the Chrome DevTools Protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": arguments})

    def show_as(self, width: int, height: int, scheme: str, is_phone: bool = False) -> None:
        """Sets the size of the window, and which colour scheme is preferred."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )
        self.devtools("Emulation.setTouchEmulationEnabled", enabled=is_phone)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, page: Path) -> None:
        """Shows a file; what was logged before is forgotten."""
        self.log("browser"), self.log("performance")
        self._ask("POST", "/url", {"url": page.as_uri()})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last time."""
        return self._ask("POST", "/se/log", {"type": kind})

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last time, or since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def run(self, script: str, *arguments: Any) -> Any:
        """What a JavaScript function with this body returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, *keys: str) -> None:
        """Presses keys one after the other, wherever the focus is."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def screenshot(self, file: Path, whole: bool = True) -> None:
        """Writes a picture of the whole page, or of what the window shows."""
        taken = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole, **(self._clip() if whole else {}))
        file.write_bytes(base64.b64decode(taken["data"]))

    def _clip(self) -> dict[str, Any]:
        size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

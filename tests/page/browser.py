"""A headless Chromium, driven by its DevTools protocol over a pipe: no port, no driver program, no library.

https://chromedevtools.github.io/devtools-protocol: messages are JSON, each with a NUL byte behind it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
    "--force-color-profile=srgb", "--lang=en-US", "--host-resolver-rules=MAP *.example 127.0.0.1",
)  # fmt: skip
WITHIN: Final = 40.0
"""Seconds for anything; the machine may be busy."""
WATCH: Final = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective + " " + event.blockedURI));
"""


def chromium() -> str:
    """The program; without it a test is skipped and says so, and fails in CI."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    said = "chromium is not installed: apt-get install --no-install-recommends chromium (.ci/run does)"
    if os.environ.get("REQUIRE_CHROMIUM"):
        pytest.fail(said)
    pytest.skip(said)


class Browser:
    """The process, and the messages to and from it."""

    def __init__(self, folder: Path, size: tuple[int, int] = (1280, 900)) -> None:
        requests, to_browser = os.pipe()
        from_browser, answers = os.pipe()
        program = [chromium(), *FLAGS, f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        shell = ["bash", "-c", f'exec "$@" 3<&{requests} 4>&{answers}', "bash", *program]
        self._log = (folder.parent / f"{folder.name}.log").open("wb")
        self._process = subprocess.Popen(
            shell, pass_fds=(requests, answers), stdout=self._log, stderr=self._log, start_new_session=True
        )
        os.close(requests)
        os.close(answers)
        self._write, self._read = to_browser, from_browser
        self._number = 0
        self._unread = b""
        self._begun: list[bytes] = []
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Call a method; returns its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + WITHIN
        while True:
            answer = self._next(end)
            if answer is None:
                raise TimeoutError(f"the browser did not answer {method}")
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def pump(self, seconds: float) -> None:
        """Take in events for a while."""
        end = time.monotonic() + seconds
        while (event := self._next(end)) is not None:
            self.events.append(event)

    def open(self, url: str, *, scripts: tuple[str, ...] = ()) -> Page:
        """A new page with this address."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Network", "Log", "DOM", "Accessibility"):
            page.send(f"{domain}.enable")
        for script in (WATCH, *scripts):
            page.send("Page.addScriptToEvaluateOnNewDocument", source=script)
        page.send("Page.navigate", url=url)
        return page

    def other_tab(self, start: str) -> Page:
        """The tab that has been opened with an address that begins so."""
        end = time.monotonic() + WITHIN
        while time.monotonic() < end:
            for target in self.send("Target.getTargets")["targetInfos"]:
                if target["type"] == "page" and target["url"].startswith(start):
                    session = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
                    return Page(self, session, target["targetId"])
            self.pump(0.05)
        raise AssertionError(f"no tab has been opened with {start}")

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(Exception):
            self.send("Browser.close")
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._log.close()

    def _next(self, end: float) -> dict[str, Any] | None:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            piece = os.read(self._read, 1 << 20)
            if not piece:
                raise EOFError("the browser has ended")
            self._begun.append(piece)  # a message may have many
            if b"\0" in piece:
                self._unread, self._begun = b"".join((self._unread, *self._begun)), []
        line, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._target = target
        self._browser = browser
        self._session = session

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of this tab."""
        return self._browser.send(method, self._session, **parameters)

    def pump(self, seconds: float) -> None:
        """Let the page go on for a while."""
        self._browser.pump(seconds)

    def close(self) -> None:
        """Close the tab."""
        self._browser.send("Target.closeTarget", targetId=self._target)

    def run(self, script: str) -> Any:
        """The value of an expression; a promise's once it is there."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def text(self, selector: str) -> str:
        """What an element shows."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def wait(self, script: str, within: float = WITHIN) -> Any:
        """The value of an expression once it is true; fails with what the page shows."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            self._browser.pump(0.05)
        raise AssertionError(
            f"never: {script}; the page shows:\n{self.run('document.body.innerText')}\n{self.problems()}"
        )

    def wait_text(self, selector: str, words: str, within: float = WITHIN) -> str:
        """What an element shows, once it is seen and has these words."""
        shown = f"[document.querySelector({json.dumps(selector)})].find((at) => at?.checkVisibility())"
        self.wait(f"{shown}?.innerText.includes({json.dumps(words)})", within)
        return self.text(selector)

    def click(self, selector: str) -> None:
        """Press the mouse's button where the element is, as a person does."""
        place = self.run(
            f"(() => {{ const at = document.querySelector({json.dumps(selector)}); at.scrollIntoView({{block: 'center'}});"
            "const box = at.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key by its DOM name."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowDown": 40, "ArrowUp": 38}[key]
        text = {"Enter": "\r", " ": " "}.get(key, "")
        parameters: dict[str, Any] = {
            "key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0,
        }  # fmt: skip
        self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **parameters)
        self.send("Input.dispatchKeyEvent", type="keyUp", **parameters)

    def type(self, text: str) -> None:
        """Type into the element that has the focus."""
        self.send("Input.insertText", text=text)

    def fill(self, selector: str, text: str) -> None:
        """Replace what a field holds."""
        self.run(
            f"(() => {{ const at = document.querySelector({json.dumps(selector)}); at.focus(); at.select?.(); }})()"
        )
        self.type(text)

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a list, as its own event."""
        self.run(
            f"(() => {{ const at = document.querySelector({json.dumps(selector)}); at.value = {json.dumps(value)};"
            "at.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    def give_file(self, selector: str, file: Path) -> None:
        """Choose a file in a field."""
        found = self.send("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.send("DOM.setFileInputFiles", files=[str(file)], objectId=found["result"]["objectId"])

    def focused(self) -> str:
        """The id, or else the tag and text, of the element that has the focus."""
        return str(
            self.run(
                "(() => { const at = document.activeElement; return at.id || `${at.tagName} ${at.innerText ?? ''}`; })()"
            )
        )

    def tree(self) -> list[dict[str, Any]]:
        """What a screen reader meets: the accessibility tree without what it ignores."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        return [node for node in nodes if not node["ignored"]]

    def requested(self) -> list[str]:
        """The URL of every request that this tab has made."""
        return [event["params"]["request"]["url"] for event in self._own("Network.requestWillBeSent")]

    def problems(self) -> list[str]:
        """Violations of the policy, exceptions, and what the browser logs as errors (but answers with an error's status)."""
        exceptions = [json.dumps(event["params"])[:600] for event in self._own("Runtime.exceptionThrown")]
        logged = [event["params"]["entry"] for event in self._own("Log.entryAdded")]
        errors = [entry["text"] for entry in logged if entry["level"] == "error" and entry["source"] != "network"]
        violations = self.run("window.violations ?? []")
        return [*violations, *exceptions, *errors]

    def _own(self, method: str) -> Iterator[dict[str, Any]]:
        self._browser.pump(0.0)
        for event in self._browser.events:
            if event.get("sessionId") == self._session and event["method"] == method:
                yield event

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Show the page on a screen of this size."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = "dark" if dark else "light"
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.send("Emulation.setEmulatedMedia", features=features)

    def picture(self, *, whole: bool = False) -> bytes:
        """A PNG of the screen, or of the whole page."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

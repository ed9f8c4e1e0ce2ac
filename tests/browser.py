"""A page in a real headless Chromium with the network off, spoken to over pipes: no driver and no packages needed."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
QUIET = "quic background-networking component-update sync gpu".split()


class Page:
    """One page; `complaints` collects uncaught errors, console errors and refused requests."""

    def __init__(self, commands: int, answers: int):
        self._commands, self._answers, self._rest, self._count = commands, answers, b"", 0
        self._session: dict[str, str] = {}
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def open(self, path: Path) -> None:
        self.call("Page.navigate", url=path.as_uri())
        loaded = "new Promise((done) => addEventListener('load', () => done(true)))"
        self.run(f"document.readyState === 'complete' || {loaded}")

    def run(self, script: str) -> Any:
        """The value of a script's last expression; a promise is waited for."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params} | self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)
        raise AssertionError(f"the browser does not answer {method}")

    def _messages(self, seconds: float = 60.0) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            while b"\0" in self._rest:
                message, self._rest = self._rest.split(b"\0", 1)
                yield json.loads(message)
            if select.select([self._answers], [], [], 1.0)[0]:
                part = os.read(self._answers, 1 << 20)
                if not part:
                    return
                self._rest += part

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(params["entry"]["text"])
        if event.get("method") == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.complaints.append(str(params["args"]))
        if event.get("method") == "Network.requestWillBeSent" and not params["request"]["url"].startswith("file:"):
            self.complaints.append(f"asked for {params['request']['url']}")


@contextmanager
def browser(profile: Path, width: int = 1200) -> Iterator[Page]:
    """Starts Chromium with an empty profile in the folder `profile`, and ends it; its page is `width` wide."""
    assert CHROMIUM, "no chromium here: install it to run the browser tests"
    to_read, commands = os.pipe()
    answers, to_write = os.pipe()
    flags = "--headless --no-sandbox --no-first-run --remote-debugging-pipe --window-size=1200,720".split()
    flags += [f"--user-data-dir={profile}", *(f"--disable-{what}" for what in QUIET)]
    start = f'exec "$@" 3<&{to_read} 4>&{to_write}'  # the protocol's pipes are numbers 3 and 4
    command, nowhere = ["bash", "-c", start, "chromium", CHROMIUM, *flags], subprocess.DEVNULL
    env = os.environ | {"HOME": str(profile)}
    process = subprocess.Popen(command, pass_fds=(to_read, to_write), stdout=nowhere, stderr=nowhere, env=env)
    os.close(to_read)
    os.close(to_write)
    try:
        page = Page(commands, answers)
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=720, deviceScaleFactor=1, mobile=False)
        yield page
    finally:
        process.terminate()
        process.wait(timeout=20)
        os.close(commands)
        os.close(answers)

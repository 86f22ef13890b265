"""A headless Chromium, spoken to through a pipe by the DevTools protocol: no server, no port, no driver. POSIX only."""

import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

if sys.platform != "win32":
    import fcntl

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
_SECONDS = 60
# Chromium reads commands from file descriptor 3 and answers on 4.
_START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class BrowserError(RuntimeError):
    """The browser is not there, broke down, or did not do what it was told."""


def find() -> str | None:
    """Return the path of a Chromium; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A browser with one page, to be used as a context manager.

    Attributes
    ----------
    events : list of dict
        What the browser has said by itself so far, such as requests and errors, as ``{"method": …, "params": …}``.
    """

    def __init__(self) -> None:
        program = find()
        if program is None:
            raise BrowserError(f"there is no browser; one of {', '.join(NAMES)} is expected on the PATH")
        self.events: list[dict[str, Any]] = []
        self._numbers, self._buffer, self._session = itertools.count(1), b"", ""
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]  # clear of 3 and 4
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *map(str, ends), program, *_FLAGS,
             f"--user-data-dir={self._folder.name}", "about:blank"],
            pass_fds=ends, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)

    def __enter__(self) -> "Chromium":
        try:
            target = self.tell("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its result.

        Raises
        ------
        BrowserError
            If the browser refuses it, has ended, or does not answer within a minute.
        """
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        try:
            os.write(self._out, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise BrowserError("the browser ended") from None
        answer = self._until(lambda said: said.get("id") == number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def wait(self, method: str) -> dict[str, Any]:
        """Wait for an event that has not been heard yet; return its parameters."""
        return self._until(lambda said: said.get("method") == method)["params"]

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression is in the page."""
        found = self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(f"{expression:.60}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def _until(self, wanted: Any) -> dict[str, Any]:
        """Read messages until one is wanted; keep events."""
        end = time.monotonic() + _SECONDS
        while True:
            said = self._read(end)
            if "method" in said:
                self.events.append(said)
            if wanted(said):
                return said

    def _read(self, end: float) -> dict[str, Any]:
        """Return the next message."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._in, 1 << 20) if ready else b""
            if not part:
                raise BrowserError("the browser ended" if ready else f"no answer within {_SECONDS} s")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def _end(self) -> None:
        """End the browser, and all its processes."""
        os.close(self._out)
        os.close(self._in)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()

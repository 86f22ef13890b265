"""Stopping: Ctrl-C, SIGTERM and a terminal that goes away end a command in the same way.

The first signal is a KeyboardInterrupt, upon which a study puts together what is finished. The second, while that
goes on, ends the process on the spot, which is safe: files get their names only once they are whole, and workers
end with their parent.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any, NoReturn

import click

HEEDED = ("SIGINT", "SIGTERM", "SIGHUP")
SAME = 1.0  # seconds; launchers such as timeout pass on a signal that the whole process group had anyway
SHOW_CURSOR = "\x1b[?25h"  # which a progress bar hides


class _Request:
    """The first signal, if there was one."""

    number: int = signal.SIGINT  # which a KeyboardInterrupt stands for
    when: float | None = None


def heed_signals() -> None:
    """Let each of `HEEDED` stop this process, from now on; one that is ignored (nohup, a background job) stays so."""
    for name in HEEDED:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def _on_signal(number: int, frame: Any) -> None:
    """Ask for an end, and the second time, end."""
    now = time.monotonic()
    if _Request.when is None:
        _Request.number, _Request.when = number, now
        raise KeyboardInterrupt
    if now - _Request.when < SAME:
        return
    with suppress(OSError, ValueError):
        show = SHOW_CURSOR if os.isatty(2) else ""
        os.write(2, f"{show}\nStopped at once; the same command goes on from whatever was kept.\n".encode())
    os._exit(128 + _Request.number)


def stopped(what_is_kept: str = "") -> NoReturn:
    """Say so, and exit as the shell has it: 130 after Ctrl-C, 143 after SIGTERM, 129 without a terminal."""
    with suppress(OSError):  # of a terminal that is no longer there
        click.echo(f"\nStopped. {what_is_kept}".rstrip(), err=True)
    sys.exit(128 + _Request.number)

"""How far a long command is, and how long it will still take."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click


@contextmanager
def progress_on_stderr(total: int, what: str = "trajectories") -> Iterator[Callable[[int, float], None]]:
    """Show a bar with the time left on a terminal, a plain line every tenth of the work in a pipe."""
    time_left = TimeLeft()
    if sys.stderr is None or not sys.stderr.isatty():
        shown = -1

        def plain(done: int, share: float) -> None:
            nonlocal shown
            if int(10 * share) > shown:
                shown = int(10 * share)
                line = f"{done} of {total} {what}, {share:.0%} of this run's work, {time_left(share)}"
                with suppress(OSError):  # a log on a full disk, or read by nobody any more, is no reason to stop
                    click.echo(line, err=True)

        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[done]} of {task.fields[n]} {task.fields[what]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=1.0, done=0, n=total, what=what, left=time_left(0))
        yield lambda done, share: bar.update(task, completed=share, done=done, left=time_left(share))


class TimeLeft:
    """The time left, guessed at each finished trajectory and counted down in between.

    rich's own guess looks at the last half minute only, in which nothing may have finished.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._share, self._end = 0.0, 0.0

    def __call__(self, share: float) -> str:
        """Say how long it takes from `share` of the work on, if it goes on as until now."""
        now = time.monotonic()
        if share > self._share:
            self._share, self._end = share, self._start + (now - self._start) / share
        if not self._share:
            return "time left unknown yet"
        seconds = max(round(self._end - now), 0)
        return f"about {seconds} s left" if seconds < 100 else f"about {round(seconds / 60)} min left"

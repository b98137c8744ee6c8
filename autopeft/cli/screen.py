"""What goes to the screen: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDEST = 100
"""Columns of the widest line; tables are made to be read at 80 to 100."""
LOG_SECONDS = 10.0
"""Between lines about progress where there is no terminal."""


def stdout() -> Console:
    """Return the console of answers: as wide as the terminal, at most `WIDEST`."""
    return _console(stderr=False)


def stderr() -> Console:
    """Return the console of all that is no answer."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    wanted = WIDEST if "COLUMNS" not in os.environ and not console.is_terminal else console.width
    console.width = min(wanted, WIDEST)
    return console


def show(answer: Any, render: Callable[[Any], Any], *, as_json: bool) -> None:
    """Print an answer: as one JSON document, or rendered for people."""
    if as_json:
        from autopeft.message import json_of

        text = json_of(answer, indent=2).decode()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        return
    console = stdout()
    if console.is_terminal:
        console.print(render(answer))
        return
    with console.capture() as captured:
        console.print(render(answer))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
    sys.stdout.flush()


@contextlib.contextmanager
def clean_stdout(*, when: bool) -> Iterator[None]:
    """Send to stderr what libraries print meanwhile, so that stdout holds the JSON document alone."""
    if not when:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def counting(stages: Console | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Give a callback (what, done, of all) that keeps one line on stderr up to date.

    Off a terminal it writes a line now and then, so that a log of something long is not silent; what is quick
    leaves none.

    Args:
        stages: where a line goes for each new thing that is done, off a terminal.
    """
    console = stderr()
    if not console.is_terminal:
        log = _Log(stages)
        try:
            yield log.tell
        finally:
            log.close()
        return
    status = console.status("")

    def update(what: str, done: int, total: int) -> None:
        if done >= total:
            status.stop()
            return
        status.update(f"{what} {done}/{total}" if total > 1 else what)
        status.start()

    try:
        yield update
    finally:
        status.stop()


class _Log:
    """What is done, off a terminal: a line for what lasts, and its count now and then."""

    def __init__(self, stages: Console | None) -> None:
        self._stages = stages
        self._doing: str | None = None
        self._began = self._said = time.monotonic()
        self._soon: threading.Timer | None = None

    def tell(self, what: str, done: int, total: int) -> None:
        """Take note of what is done; write it where that is new, or has gone on for a while."""
        now = time.monotonic()
        if what != self._doing:
            self._doing, self._began = what, now
            self.close()
            if self._stages is None:
                self._soon = threading.Timer(LOG_SECONDS, self._write, (what,))
                self._soon.daemon = True
                self._soon.start()
            elif not self._stages.is_terminal:
                self._stages.print(what, soft_wrap=True)
        if done < total > 1 and now - self._said >= LOG_SECONDS:
            self._said = now
            self._write(f"{what} {done}/{total}, {now - self._began:.0f} s")

    def close(self) -> None:
        """Announce nothing any more."""
        if self._soon is not None:
            self._soon.cancel()

    @staticmethod
    def _write(line: str) -> None:
        sys.stderr.write(f"autopeft: {line}\n")
        sys.stderr.flush()

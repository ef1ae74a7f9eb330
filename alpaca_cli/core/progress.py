"""Progress for people and for logs, on stderr; results never pass through here.

On a terminal: rich's live display. Elsewhere: one plain line every few seconds, so that a CI log
stays readable. Stages receive a `Progress` and print nothing on their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

PLAIN_EVERY = 5.0  # seconds between plain lines
RARER = 60.0  # after an hour a log gets a line a minute: a batch may take a day
LIVE_EVERY = 0.25  # seconds between two drawings of a view
# What others write may steer a terminal (escape sequences start with a control character): with
# `str.translate` only newline and tab get through.
CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Progress:
    """Where a stage says what it is doing.

    Args:
        console: a console on stderr.
        quiet: only warnings are shown.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet

    def info(self, text: str) -> None:
        """A plain line, shown unless quiet."""
        if not self.quiet:
            self.console.print(escape(text), soft_wrap=True, highlight=False)

    def warn(self, text: str) -> None:
        """A warning, always shown: the result is right but may surprise."""
        self.console.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True, highlight=False)

    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator[Task]:
        """A piece of work of `total` steps (unknown when None); yields the handle to advance."""
        live = not self.quiet and self.console.is_terminal and not self.console.is_dumb_terminal
        if live:
            with RichProgress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}", style="dim"),
                console=self.console,
            ) as display:
                yield LiveTask(display, label, total)
        else:
            task = PlainTask(self, label, total)
            try:
                yield task
            finally:
                task.close()

    @contextmanager
    def live(self, view: View) -> Iterator[Callable[[], None]]:
        """Show a view while it lasts; yields what to call whenever time may have passed.

        Nothing is drawn from another thread, so a view may read what the caller is changing.
        """
        if not self.quiet and self.console.is_terminal and not self.console.is_dumb_terminal:
            with Live(
                get_renderable=view.panel, console=self.console, auto_refresh=False
            ) as display:
                yield _at_most_every(LIVE_EVERY, display.refresh)
        else:
            say = partial(_say_line, self, view)
            try:
                yield _at_most_every(PLAIN_EVERY, say, 1 / RARER)
            finally:
                say()


class View(Protocol):
    """Work that shows more than one bar: all of it on a terminal, a line in a log."""

    def panel(self) -> RenderableType:
        """What a terminal shows, drawn anew several times a second."""

    def line(self) -> str:
        """The same in one line."""


class Task(Protocol):
    """A running piece of work."""

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Move on by some steps; `note` is a short text beside the bar, kept until the next."""

    def set(self, done: int, note: str | None = None) -> None:
        """Move to a number of steps done."""


def _say_line(progress: Progress, view: View) -> None:
    progress.info(view.line())


def _at_most_every(
    seconds: float, show: Callable[[], None], slower: float = 0.0
) -> Callable[[], None]:
    """A function that calls `show`, but not more often than this.

    Args:
        slower: seconds between two calls for each second that has passed since the first.
    """
    began = shown = time.monotonic()

    def tick() -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= max(seconds, slower * (now - began)):
            show()
            shown = time.monotonic()

    return tick


class LiveTask:
    """A task in rich's live display."""

    def __init__(self, display: RichProgress, label: str, total: int | None) -> None:
        self._display = display
        self._id = display.add_task(escape(label), total=total, note="")

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        self._display.advance(self._id, steps)
        if note is not None:
            self._display.update(self._id, note=escape(note))

    def set(self, done: int, note: str | None = None) -> None:
        self._display.update(self._id, completed=done)
        if note is not None:
            self._display.update(self._id, note=escape(note))


class PlainTask:
    """A task in a log: a line now and then, and one at the end."""

    def __init__(self, progress: Progress, label: str, total: int | None) -> None:
        self._progress, self._label, self._total = progress, label, total
        self._done, self._note = 0, ""
        self._start = self._shown = time.monotonic()

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        self.set(self._done + steps, note)

    def set(self, done: int, note: str | None = None) -> None:
        self._done = done
        if note is not None:
            self._note = note
        if time.monotonic() - self._shown >= PLAIN_EVERY:
            self._show()

    def close(self) -> None:
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        seconds = now - self._start
        parts = [f"{self._label}: {self._done:,}"]
        if self._total:
            parts[0] += f"/{self._total:,}"
            if self._total / 100 <= self._done < self._total:  # earlier it would be a guess
                left = seconds / self._done * (self._total - self._done)
                parts.append(f"about {duration(left)} left")
        parts.append(duration(seconds))
        if self._note:
            parts.append(self._note)
        self._progress.info(" · ".join(parts))
        self._shown = now


def duration(seconds: float) -> str:
    """`7s`, `3m05s`, `2h07m`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"

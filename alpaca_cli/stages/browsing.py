"""`alpaca stats --browse`: examples in the terminal, to read, search and mark.

Marks go into a review file (`alpaca_cli.data.reviews`), each on the disk before the next key is
read. How it looks and which keys there are is the business of `alpaca_cli.stages.browsing_app`;
what can be done with the examples that of `alpaca_cli.stages.browsing_desk`. textual is imported
only here, and only when there is something to browse.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alpaca_cli.core.errors import Terminated, UsageError, missing_extra
from alpaca_cli.core.records import Example
from alpaca_cli.data.lint import Finding


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of it.

    Attributes:
        good, bad, cleared: examples whose mark became this; one that was changed twice counts
            once, and not at all when it ended as it was.
        seen: examples that were shown whole.
        review: the file of the marks; None when there is none.
    """

    good: int
    bad: int
    cleared: int
    seen: int
    review: str | None


def browse(
    sources: Sequence[str], examples: Sequence[Example], findings: Sequence[Finding], review: Path
) -> Tally:
    """Show the examples until the person leaves.

    Args:
        sources: where the examples are from, as people know it.
        findings: what lint found in them.
        review: the file of marks; earlier ones in it are shown, and it is made with the first.

    Raises:
        DataError: a line of the review file is no review.
        Terminated: SIGTERM ended it; every mark is on disk.
    """
    from alpaca_cli.stages.browsing_app import BrowserApp
    from alpaca_cli.stages.browsing_desk import Desk

    desk = Desk(sources, examples, findings, review)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        app = BrowserApp(desk)
        app.run()
    finally:
        signal.signal(signal.SIGTERM, handler)  # the app has one of its own
        desk.close()
    if app.terminated:
        raise Terminated
    if app.failure is not None:
        raise app.failure
    good, bad, cleared = desk.changes()
    written = str(review) if review.is_file() else None
    return Tally(good, bad, cleared, len(desk.seen), written)


def refuse_without_screen() -> None:
    """UsageError where a screen cannot be drawn, or keys cannot be read one by one."""
    if importlib.util.find_spec("textual") is None:
        raise missing_extra("textual", "browse")
    # textual draws on stderr and reads stdin: a pipe from stdout does no harm.
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "--browse needs a terminal: keyboard and screen are not both there",
            hint="run it without pipes; over ssh with -t, in docker with -it",
        )
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        raise UsageError(
            "--browse needs a terminal that can place text: TERM names none",
            hint="set TERM, for example to xterm-256color",
        )

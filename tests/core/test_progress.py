"""Progress where there is no terminal: plain lines, no control codes, nothing when quiet."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from alpaca_cli.core.progress import Progress


def record(*, quiet: bool = False, terminal: bool = False) -> tuple[Progress, StringIO]:
    text = StringIO()
    return Progress(Console(file=text, width=100, force_terminal=terminal), quiet=quiet), text


def test_a_log_gets_one_plain_line_at_the_end_of_quick_work() -> None:
    progress, text = record()
    with progress.task("dedup", total=3) as task:
        for _ in range(3):
            task.advance(note="2 [kept]")
    assert text.getvalue() == "dedup: 3/3 · 0s · 2 [kept]\n"


def test_quiet_shows_warnings_only() -> None:
    progress, text = record(quiet=True)
    with progress.task("dedup") as task:
        task.advance()
    progress.info("nothing")
    progress.warn("odd [data]")
    assert text.getvalue() == "warning: odd [data]\n"


def test_a_terminal_gets_a_live_display() -> None:
    progress, text = record(terminal=True)
    with progress.task("train", total=2) as task:
        task.set(2, note="loss 1.0")
    assert "\x1b[" in text.getvalue()
    assert "train" in text.getvalue()
    assert "loss 1.0" in text.getvalue()

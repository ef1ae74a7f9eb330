"""What a person sees of a generation while it runs: a live panel, or one line in a log.

Only reads what `alpaca_cli.stages.generation` and its parts have counted.
"""

from __future__ import annotations

import time
from collections import deque

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from alpaca_cli.core.progress import duration
from alpaca_cli.stages.generation import Generation

PACE = 120.0  # seconds over which the speed is taken
TOP = 6  # reasons shown


class View:
    """A generation as a panel and as a line.

    Args:
        work: the generation; its figures are read whenever something is drawn.
    """

    def __init__(self, work: Generation) -> None:
        self._work = work
        self._began = time.monotonic()
        self._marks: deque[tuple[float, int, int, float]] = deque()

    def panel(self) -> RenderableType:
        """See `progress.View`."""
        work = self._work
        kept, target = len(work.pool.kept), work.settings.target
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            Text(f"{kept:,} of {target:,} kept", style="bold"),
            ProgressBar(total=target, completed=min(kept, target), width=30),
            Text(f"{kept / target:.0%}"),
            Text(self._time_left()),
        )
        figures = Table.grid(padding=(0, 2))
        for name, value in self._figures():
            figures.add_row(Text(name, style="dim"), Text(value))
        parts: list[RenderableType] = [figures]
        if work.pool.reasons:
            reasons = Table.grid(padding=(0, 2))
            for reason, count in work.pool.reasons.most_common(TOP):
                reasons.add_row(Text(reason.replace("_", " "), style="dim"), Text(f"{count:,}"))
            parts.append(reasons)
        # Not rich's Columns: they take the whole width, and then a typed ^C moves the cursor on.
        beside = Table.grid(padding=(0, 6))
        beside.add_row(*parts)
        body = Group(bar, Text(""), beside)
        return Panel(body, title="generate", title_align="left", expand=False)

    def line(self) -> str:
        """See `progress.View`."""
        work = self._work
        parts = [f"generate: {len(work.pool.kept):,}/{work.settings.target:,}"]
        if left := self._time_left():
            parts.append(left)
        parts += [duration(time.monotonic() - self._began), f"{work.pool.requests:,} requests"]
        parts.append(f"{len(work.pool.rejected):,} rejected")
        if work.dispatcher is not None:
            parts.append(f"{work.dispatcher.in_flight} in flight")
            parts += [value for name, value in self._figures() if name == "endpoint"]
        if work.spending.price is not None:
            parts.append(self._money())
        return " · ".join(parts)

    def _figures(self) -> list[tuple[str, str]]:
        work, pool = self._work, self._work.pool
        recent = pool.recent_yield
        figures = [("requests", f"{pool.requests:,}")]
        if recent is not None:
            figures.append(("kept per request", f"{recent:.1f}"))
        if (dispatcher := work.dispatcher) is not None:
            limits = dispatcher.limits
            figures.append(("in flight", f"{dispatcher.in_flight} of {int(limits.limit)}"))
            if dispatcher.figures.output_tokens:
                figures.append(("tokens per second", f"{self._pace()[1]:,.0f}"))
            if state := dispatcher.state():
                figures.append(("endpoint", state))
        if work.spending.price is not None:
            figures.append(("cost", self._money()))
        if work.judging is not None:
            scored = f"{work.judging.pending:,} replies to score"
            if work.judging.spending.price is not None:
                scored += f", ${work.judging.spending.spent:.4f}"
            figures.append(("judge", scored))
        return figures

    def _pace(self) -> tuple[float, float, float]:
        """Examples kept, tokens written and USD spent per second, of late."""
        work = self._work
        now = time.monotonic()
        tokens = 0 if work.dispatcher is None else work.dispatcher.figures.output_tokens
        self._marks.append((now, len(work.pool.kept), tokens, float(work.spending.spent)))
        while len(self._marks) > 2 and now - self._marks[0][0] > PACE:
            self._marks.popleft()
        before, after = self._marks[0], self._marks[-1]
        seconds = after[0] - before[0]
        if seconds < 1:
            return 0.0, 0.0, 0.0
        kept, written, spent = (after[n] - before[n] for n in (1, 2, 3))
        return kept / seconds, written / seconds, spent / seconds

    def _time_left(self) -> str:
        pace = self._pace()[0]
        left = self._work.settings.target - len(self._work.pool.kept)
        if pace <= 0 or left <= 0 or self._work.dispatcher is None:
            return ""
        return f"about {duration(left / pace)} left"

    def _money(self) -> str:
        spending = self._work.spending
        text = f"${spending.spent:.4f}"
        kept = len(self._work.pool.kept)
        if 0 < kept < self._work.settings.target:
            projected = float(spending.spent) / kept * self._work.settings.target
            text += f", about ${projected:.2f} in the end"
        if spending.limit is not None:
            text += f", at most ${spending.limit}"
        return text

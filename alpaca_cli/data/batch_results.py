"""What the lines of one batch come to: journal rows, requests to ask again, reasons to stop.

A line means the same as a reply online. A refusal is the request's own fault only when the
endpoint answers others: those of the same batch, or, when few are refused, those before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from alpaca_cli.core.errors import AlpacaError, TeacherError, TryAgain
from alpaca_cli.data.batch_files import Result
from alpaca_cli.data.batch_wave import Wave
from alpaca_cli.data.dispatch import REFUSALS, Figures, Work
from alpaca_cli.data.ledger import Row, identity, reply_row
from alpaca_cli.data.prompts import Request
from alpaca_cli.data.spending import Spending
from alpaca_cli.data.teacher import Busy, Refused, Reply, Unsupported


@dataclass
class Results:
    """The results of a wave, as they are read.

    Attributes:
        attempts: how often a request may fail.
        answered: whether the endpoint has answered a request before.
        tries: how often it has failed, by its number, in all waves of this process.
        replies: lines with a reply, those journalled earlier included.
        again: what to ask again, by number, besides what no line tells about.
        changed: how many of these are asked in another way.
        failed: how many of these have failed and may not the next time.
        fatal: why no request will be answered.
        last: what was wrong with the last line without a reply.
    """

    wave: Wave
    work: Work
    spending: Spending
    figures: Figures
    attempts: int
    answered: bool
    tries: Counter[int]
    replies: int = 0
    again: dict[int, Request] = field(default_factory=dict)
    changed: int = 0
    failed: int = 0
    fatal: AlpacaError | None = None
    last: str = ""
    _refused: dict[int, Row] = field(default_factory=dict)

    def rows(self, results: Iterable[Result]) -> list[Row]:
        """Journal rows of some results, without those that have one already."""
        rows: list[Row] = []
        for result in results:
            journalled = result.request.n in self.wave.landed
            self.replies += result.reply is not None
            if result.problem is not None:
                rows += self._problem(result.request, result.problem)
            elif result.reply is not None and not journalled:
                rows.append(self._reply(result.request, result.reply))
        self.wave.landed.update(row["n"] for row in rows)
        return rows

    def _reply(self, request: Request, reply: Reply) -> Row:
        self.spending.add_reply(replace(request.most, batch=True), reply.usage, "batch")
        self.figures.replies += 1
        self.figures.output_tokens += (reply.usage or {}).get("completion_tokens", 0)
        attempts = self.tries[request.n] + 1
        told = {"tier": "batch", "seconds": None, "attempts": attempts, "lost": 0}
        return reply_row(request, reply, {}) | told | _mark(self.wave, request)

    def _problem(self, request: Request, problem: Exception) -> list[Row]:
        """Take a line without a reply: to be asked again, refused for good, or fatal."""
        self.last = str(getattr(problem, "message", problem))
        if isinstance(problem, AlpacaError):
            self.fatal = problem
            return []
        if isinstance(problem, Refused | Unsupported):
            other = self.work.instead(request, problem)
            if other is None:
                self._refuse(request, self.last)
            else:
                self.again[request.n] = other
                self.changed += 1
            return []
        rows = []
        if isinstance(problem, Busy):
            if problem.maybe_billed and request.n not in self.wave.landed:
                rows.append(lost_row(self.wave, request))
                self.spending.add_lost(replace(request.most, batch=True))
            self.tries[request.n] += not problem.overload
            self.failed += not problem.overload
            if (tries := self.tries[request.n]) >= self.attempts:
                self._refuse(request, f"no reply after {tries} attempts; the last: {self.last}")
            else:
                self.again[request.n] = request
        return rows

    def _refuse(self, request: Request, text: str) -> None:
        if request.n not in self.wave.landed:
            row = identity(request, "failed", {}) | {"text": text, "lost": 0}
            self._refused[request.n] = row | _mark(self.wave, request)

    @property
    def refused(self) -> list[Row]:
        """Journal rows of the requests that will not be answered by their own fault."""
        few = self.answered and len(self._refused) < REFUSALS
        return list(self._refused.values()) if self.replies or few else []

    def unanswered(self) -> dict[int, Request]:
        """What another wave is to ask, by number."""
        left = {r.n: r for r in self.wave.left if r.n not in self._refused}
        return left | self.again

    def hopeless(self, status: str) -> AlpacaError | None:
        """Why another wave makes no sense; None when it does.

        Args:
            status: in which the batch has ended.
        """
        wave = self.wave
        if self.fatal is not None:
            return self.fatal
        if status == "cancelled":
            return TryAgain(
                f"batch {wave.id} was cancelled at the provider: {self.replies:,} of "
                f"{len(wave.requests):,} replies are kept",
                hint="the same command asks for the rest in another batch",
            )
        if self.replies or self.changed or self.refused or 0 < self.failed < REFUSALS:
            return None
        if self._refused:
            return TeacherError(
                f"batch {wave.id}: every request was refused; the last: {self.last}",
                hint="look at request 0 with alpaca generate --estimate",
            )
        why = f"; the last: {self.last}" if self.last else ""
        return TryAgain(
            f"batch {wave.id} ({status}) brought no reply{why}",
            hint="everything is kept; the same command later goes on from here",
        )


def lost_row(wave: Wave, request: Request) -> Row:
    """The journal row of a request that may have been billed and has brought nothing."""
    return identity(request, "lost", {}) | {"lost": 1} | _mark(wave, request)


def _mark(wave: Wave, request: Request) -> Row:
    """What tells a journal row as one of a batch, and the most that its request could cost."""
    return {"batch": wave.name, "most": [request.most.prompt, request.most.completion]}

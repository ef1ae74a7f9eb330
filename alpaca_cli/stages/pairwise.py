"""Pairwise judging under way: which verdicts are still to be asked for, and what came back.

    pairs of answers -> eval/judge.jsonl    every attempt and reply, append-only: what was paid for

Each pair is shown in both orders. A reply without a verdict is asked for once more, with a
reminder; after that the pair has none. A verdict is journalled under a hash of the judge and all
that it was shown, so it is never paid for twice: not after `kill -9`, nor when questions or other
models come to be compared later.

`alpaca_cli.data.dispatch` sends and journals; what verdicts add up to is
`alpaca_cli.stages.eval_preferences`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alpaca_cli.core.errors import AlpacaError
from alpaca_cli.core.journal import Journal
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.settings_eval import PairwiseJudge
from alpaca_cli.data.dispatch import Dispatcher
from alpaca_cli.data.ledger import Ledger, Row, checked
from alpaca_cli.data.limits import Limits
from alpaca_cli.data.pairwise import Shown, Verdict, VerdictBuilder, read_verdict
from alpaca_cli.data.prompts import Request
from alpaca_cli.data.signals import Signals
from alpaca_cli.data.spending import Spending
from alpaca_cli.data.teacher import Refused, Unsupported, open_teacher
from alpaca_cli.stages.judging import judges_error, of_judge

JOURNAL = "judge.jsonl"
SECTION = "eval.judge"
ATTEMPTS = 2  # at a verdict: replies without one are asked for once more

Side = Literal["a", "b", "tie"]  # a: the model that is evaluated, b: its opponent


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one question: the evaluated model's, and an opponent's."""

    question: int
    opponent: str
    instruction: str
    input: str
    answer: str
    other: str

    def shown(self, *, model_first: bool) -> Shown:
        """What the judge sees in one of both orders."""
        first, second = (self.answer, self.other) if model_first else (self.other, self.answer)
        return Shown(self.instruction, self.input, first, second)


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judge said of a pair, in sides; None where it has said nothing of use.

    Attributes:
        shown_first, shown_second: with the evaluated model's answer shown first, and second.
        reasons: the judge's words for these two.
        pending: a verdict is still to be asked for.
        identical: the answers are the same text: a tie that nobody is asked about.
    """

    pair: Pair
    shown_first: Side | None
    shown_second: Side | None
    reasons: tuple[str, str] = ("", "")
    pending: bool = False
    identical: bool = False

    @property
    def result(self) -> Side | None:
        """The side that both orders prefer, else a tie; None when an order has no verdict."""
        if self.shown_first is None or self.shown_second is None:
            return None
        return self.shown_first if self.shown_first == self.shown_second else "tie"


@dataclass(slots=True)
class _Asked:
    """What is known of one question to the judge: one pair in one order."""

    verdict: Verdict | None = None
    attempts: int = 0  # that brought a reply, or a refusal
    final: bool = False


class Judging:
    """What is asked of a judge; see `dispatch.Work`.

    Args:
        landed: called when verdicts have come in.

    Attributes:
        replayed, asked: replies taken from the journal, and requests sent since.
        unread: replies and refusals without a verdict.
    """

    def __init__(
        self, settings: PairwiseJudge, pairs: Sequence[Pair], landed: Callable[[], None]
    ) -> None:
        self.build = VerdictBuilder(settings.teacher)
        price = settings.teacher.price
        self.spending = Spending(price, usd=settings.max_cost, name=SECTION)
        self.ledger = Ledger(self.spending)
        self.replayed = self.asked = self.unread = 0
        self._landed = landed
        self._pairs = pairs
        self._known: dict[str, _Asked] = {}
        self._wanted: dict[str, tuple[Pair, bool]] = {}
        for pair in pairs:
            for model_first in (True, False):
                if pair.answer != pair.other:
                    key = self.build.key(pair.shown(model_first=model_first))
                    self._wanted.setdefault(key, (pair, model_first))
        self._queue: deque[str] = deque()
        self._next = 0

    @property
    def wanted(self) -> int:
        """Verdicts that the pairs need."""
        return len(self._wanted)

    @property
    def settled(self) -> int:
        """Those of them that are there, or will not come."""
        return sum(key in self._known and self._known[key].final for key in self._wanted)

    def replay(self, journal: Journal) -> None:
        """Take what was paid for before, and see what is left to ask.

        Raises:
            DataError: the journal is not one of a judge.
        """
        for raw in journal:
            row = checked(raw, journal.path)
            self.ledger.take(row)
            self._next = max(self._next, row.get("n", -1) + 1)
            self.replayed += self._note(row)
        self.ledger.finish()
        self._queue.extend(key for key in self._wanted if not self._state(key).final)

    def _state(self, key: str) -> _Asked:
        return self._known.setdefault(key, _Asked())

    def _note(self, row: Row) -> bool:
        """Take a row's verdict; whether it is about one of the pairs."""
        if row["kind"] not in ("reply", "failed"):
            return False
        state = self._state(row["key"])
        if state.final:
            return False
        state.attempts += 1
        if row["kind"] == "reply":
            state.verdict = read_verdict(row["text"])
        # What an endpoint refuses it will refuse again; a lost connection may come back.
        refused = row["kind"] == "failed" and not row["busy"]
        state.final = state.verdict is not None or refused or state.attempts >= ATTEMPTS
        known = row["key"] in self._wanted
        self.unread += known and state.verdict is None
        return known

    # --- see dispatch.Work ------------------------------------------------------------------------

    def next_request(self) -> Request | None:
        """See `dispatch.Work`."""
        if not self._queue:
            return None
        key = self._queue.popleft()
        self._next += 1
        self.asked += 1
        return self._request(self._next - 1, key)

    def _request(self, n: int, key: str) -> Request:
        pair, model_first = self._wanted[key]
        note = {
            "key": key,
            "question": pair.question,
            "opponent": pair.opponent,
            "model_first": model_first,
        }
        shown = pair.shown(model_first=model_first)
        return self.build(n, shown, self._state(key).attempts + 1, note)

    def instead(self, request: Request, problem: Refused | Unsupported) -> Request | None:
        """See `dispatch.Work`: the next mode of asking where one is not known."""
        if isinstance(problem, Unsupported) and self.build.next_mode(request.mode):
            return self._request(request.n, request.note["key"])
        return None

    async def land(self, rows: list[Row]) -> None:
        """See `dispatch.Work`."""
        for row in rows:
            if self._note(row) and not self._state(row["key"]).final:
                self._queue.append(row["key"])
        self._landed()

    # --- what it comes to -------------------------------------------------------------------------

    def results(self) -> list[Judged]:
        """Every pair with what is known of it, in the order of the pairs."""
        return [self._judged(pair) for pair in self._pairs]

    def _judged(self, pair: Pair) -> Judged:
        if pair.answer == pair.other:
            return Judged(pair, "tie", "tie", identical=True)
        sides: list[Side | None] = []
        reasons, pending = [], False
        for model_first in (True, False):
            state = self._state(self.build.key(pair.shown(model_first=model_first)))
            sides.append(_side(state.verdict, model_first))
            reasons.append("" if state.verdict is None else state.verdict.reason)
            pending |= not state.final
        return Judged(pair, sides[0], sides[1], (reasons[0], reasons[1]), pending)


def _side(verdict: Verdict | None, model_first: bool) -> Side | None:
    """Whose answer was better, from which of the shown ones was."""
    if verdict is None or verdict.better == "tie":
        return None if verdict is None else "tie"
    return "a" if (verdict.better == "1") is model_first else "b"


def judge(
    settings: PairwiseJudge, pairs: Sequence[Pair], path: Path, progress: Progress
) -> tuple[Judging, BaseException | None]:
    """Ask for what the journal at `path` does not have; the verdicts, and what ended it early.

    Raises:
        DataError: the journal is damaged.
        UsageError: the judge's protocol is not chat.
    """
    with Journal(path) as journal:
        work = Judging(settings, pairs, lambda: task.set(work.settled, _cost(work.spending)))
        work.replay(journal)
        ended: BaseException | None = None
        missing = work.wanted - work.settled
        if missing:
            progress.info(
                f"judge: {settings.teacher.model} on {len(pairs):,} pairs of answers, each in both "
                f"orders; {missing:,} verdicts to ask for"
            )
            with progress.task("judging", total=work.wanted) as task:
                task.set(work.settled)
                try:
                    ended = asyncio.run(_ask(work, settings, journal, progress.info))
                except AlpacaError as error:  # no key: what is there is still reported
                    ended = error
    if work.replayed:
        done = "none was asked for again" if work.asked else "nothing was asked for"
        progress.info(f"judge: {work.replayed:,} replies from the journal; {done}")
    return work, None if ended is None else judges_error(ended, SECTION)


async def _ask(
    work: Judging, settings: PairwiseJudge, journal: Journal, say: Callable[[str], None]
) -> BaseException | None:
    teacher = settings.teacher
    async with open_teacher(teacher, settings.concurrency, work.ledger.limit_field) as answer:
        dispatcher = Dispatcher(
            answer,
            journal,
            work.spending,
            Limits(settings.concurrency, teacher.rpm, teacher.tpm),
            attempts=teacher.max_attempts,
            patience=teacher.patience,
            announce=True,
            say=lambda text: say(of_judge(text, SECTION)),
        )
        with Signals(dispatcher.interrupt):
            await dispatcher.run(work)
    return dispatcher.ended_by


def _cost(spending: Spending) -> str:
    return "" if spending.price is None else f"${spending.spent:.4f}"


def about(work: Judging, settings: PairwiseJudge) -> Mapping[str, Any]:
    """The judge and what it took, for the report."""
    spending = work.spending
    priced = spending.price is not None
    return {
        "model": settings.teacher.model,
        "digest": work.build.digest,
        "verdicts": work.wanted,
        "pending": work.wanted - work.settled,
        "unread_replies": work.unread,
        "requests": spending.requests,
        "cost": round(float(spending.spent), 6) if priced else None,
        "guessed": spending.guessed,
    }

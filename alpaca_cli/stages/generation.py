"""One generation under way: which request comes next, and what its reply becomes.

`alpaca_cli.data.dispatch` sends and journals, `alpaca_cli.data.pool` judges; here both meet, in
request order: negotiation of the mode of asking, the window of requests ahead, the judge's scores,
and the moment when there is enough. Files are not written here, but for notes in the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import BudgetStop, DataError, TeacherError
from alpaca_cli.core.journal import Journal
from alpaca_cli.core.records import Example, example_from_row
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_generate import Generate, OpenAITeacher
from alpaca_cli.data.batches import BatchDispatcher
from alpaca_cli.data.demonstrations import Chooser
from alpaca_cli.data.dispatch import GRACE, Dispatcher
from alpaca_cli.data.ledger import Ledger, Row, checked
from alpaca_cli.data.pool import WINDOW, Answer, Pool
from alpaca_cli.data.prompts import SMALLEST, Mode, Request, RequestBuilder, fewer
from alpaca_cli.data.spending import Spending
from alpaca_cli.data.teacher import Refused, Unsupported
from alpaca_cli.stages.judging import Judging

FIRST_YIELD = 0.7  # of the tasks asked for; until the first replies tell better
AHEAD = 8  # times the concurrency: how far requests may run ahead of a reply that is missing
TRIES = 3  # replies without a task, and the next mode of asking is tried
FIGURES = ("kind", "usage", "seconds")  # of an answer that was judged
SURPLUS = 1.05  # of a batch over what is expected to be enough: another would take hours
LEAST_KEPT = 0.5  # examples per request that a batch is expected to bring at least
HOPELESS = 10  # replies without a task from the very first on, and nothing more is sent


def spending_of(settings: Generate) -> Spending:
    """The budget of a recipe, nothing spent."""
    price = settings.teacher.price if isinstance(settings.teacher, OpenAITeacher) else None
    return Spending(
        price,
        usd=settings.max_cost,
        tokens=settings.max_tokens,
        requests=settings.max_requests,
    )


class Generation:
    """The requests still to send, and the pool that their replies go into.

    Attributes:
        replayed, asked: replies taken from the journal, and requests sent since.
        ended_by: what stopped it before the target, or None.
    """

    def __init__(self, recipe: Recipe, seeds: Sequence[Example]) -> None:
        self.settings = recipe.generate
        self.build = RequestBuilder(self.settings)
        self.pool = Pool(self.settings, seeds, self.build.rules)
        self.spending = spending_of(self.settings)
        self.ledger = Ledger(self.spending)
        self.judging: Judging | None = None
        if self.settings.judge is not None:
            self.judging = Judging(self.settings.judge, self.pool, self._advance)
        self.replayed = self.asked = 0
        self.ended_by: BaseException | None = None
        self.dispatcher: Dispatcher | BatchDispatcher | None = None
        self.chooser = Chooser(self.settings.demonstrations, recipe.seed, seeds)
        self._seeds = {str(seed.id): seed for seed in seeds}
        self._next = self._shrink = self._tries = 0
        self._mode = self.build.modes[0]
        self._settled = not isinstance(self.settings.teacher, OpenAITeacher)
        self._last: Mapping[str, Any] = {}  # the answer that was judged last
        self._limit = self.settings.max_requests
        self._batch = self.settings.mode == "batch"
        self._journal: Journal | None = None
        self._say: Callable[[str], None] = lambda text: None

    # --- what was paid for before -----------------------------------------------------------------

    def replay(self, rows: Iterable[Mapping[str, Any]], path: Path) -> None:
        """Take everything that earlier invocations have paid for: the rows of the journal `path`.

        Raises:
            DataError: a row is not one of ours, or answers another request than we would send.
        """
        for raw in rows:
            row = checked(raw, path)
            if row.get("of") == "judge":
                if self.judging is not None:
                    self.judging.take(row)
            else:
                if row["kind"] in ("reply", "failed"):
                    self._check(row, path)
                self.ledger.take(row)
                if row["kind"] == "mode":
                    self._mode, self._tries = row["mode"], 0
            for _ in self._judge():  # at once: not all texts need be in memory
                pass
        self.ledger.finish()
        if self.judging is not None:
            self.judging.ledger.finish()
        self.replayed = len(self.ledger.answers)

    def _check(self, row: Mapping[str, Any], path: Path) -> None:
        shown = [self._seeds.get(name) for name in row["demonstrations"]]
        if None in shown:
            # An example of the pool was shown: which ones are there depends on filters that may
            # have changed since. The reply is worth the same.
            return
        known = [seed for seed in shown if seed is not None]
        request = self.build(row["n"], known, row["mode"], row["shrink"])
        if row.get("request_hash") != request.hash:
            raise DataError(
                f"{path}: request {row['n']}: answers another request",
                hint="--fresh moves the folder aside and starts anew",
            )

    # --- what is asked for ------------------------------------------------------------------------

    def begin(self, journal: Journal, say: Callable[[str], None]) -> None:
        """Get ready to ask: notes go to the journal, and to whoever watches."""
        self._journal, self._say = journal, say
        self._look_at_tries()  # the last process may have been killed just before it did

    @property
    def settled(self) -> bool:
        """Whether it is known how to ask: a reply has held a task."""
        return self._settled

    @property
    def waves(self) -> bool:
        """Whether requests go out in batches."""
        return self._batch

    @property
    def wants_more(self) -> bool:
        return (
            not self.pool.full
            and not self.pool.saturated
            and (self._limit is None or self.pool.requests < self._limit)
        )

    def stop_after(self, requests: int) -> None:
        """Send so many requests more, online, and then no more."""
        self._batch = False  # a batch is nothing to wait for in a hurry
        last = self.pool.requests + requests
        self._limit = last if self._limit is None else min(last, self._limit)

    def next_request(self) -> Request | None:
        """See `dispatch.Work`: wanted while what is under way is not expected to fill the pool."""
        while self._next in self.ledger.answers:
            self._next += 1
        if not self.wants_more or (self._limit is not None and self._next >= self._limit):
            return None
        if not self._settled and self.dispatcher is not None and not self.dispatcher.idle:
            return None  # one at a time until it is known how to ask
        ahead = self._next - self.pool.requests
        if ahead and len(self.pool.kept) + ahead * self._expected() >= self.settings.target:
            return None
        if ahead >= AHEAD * self.settings.concurrency and not (self._batch and self._settled):
            return None
        if self.chooser.needs(self._next) > self.pool.requests:
            return None
        self._next += 1
        self.asked += 1
        return self.request(self._next - 1)

    def _expected(self) -> float:
        """How many examples one more request is expected to add."""
        guess = FIRST_YIELD * max(1, self.settings.tasks_per_request >> self._shrink)
        kept = self.pool.recent_yield
        if not self._batch or not self._settled:
            return guess if kept is None else kept
        # A batch cannot be corrected on the way: the guess stands for replies not seen yet.
        seen = min(WINDOW, self.pool.requests)
        likely = (seen * (kept or 0.0) + (WINDOW - seen) * guess) / WINDOW
        return max(LEAST_KEPT, likely) / SURPLUS

    def request(self, n: int) -> Request:
        """Request n as it would be sent now."""
        shown = fewer(self.chooser(n, self.pool), self._shrink)
        return self.build(n, shown, self._mode, self._shrink)

    def instead(self, request: Request, problem: Refused | Unsupported) -> Request | None:
        """See `dispatch.Work`: another mode of asking, or a smaller request."""
        shown = [self._example(name) for name in request.demonstrations]
        if isinstance(problem, Unsupported):
            if request.mode == self._mode and not self._next_mode(problem.message):
                return None
            return self.build(request.n, shown, self._mode, request.shrink)
        if not problem.too_long or request.shrink >= SMALLEST:
            return None
        shrink = request.shrink + 1
        smaller = self.build(request.n, fewer(shown, 1), self._mode, shrink)
        # Later ones are tried in full: which requests are smaller must not depend on timing.
        if not self._settled:
            self._shrink = shrink
            self._say(
                f"too long for the context ({problem.message}): asking for {smaller.tasks} tasks "
                "at a time from now on; see generate.tasks_per_request and "
                "generate.teacher.max_output_tokens"
            )
        return smaller

    def _example(self, name: str) -> Example:
        """The seed task or kept example of an id that a request has shown."""
        if name in self._seeds:
            return self._seeds[name]
        return example_from_row(next(row for row in self.pool.kept if row["id"] == name))

    def _next_mode(self, why: str) -> bool:
        """Ask in the next mode from now on, and journal it; False when there is none."""
        place = self.build.modes.index(self._mode) + 1
        if place == len(self.build.modes):
            return False
        self._mode = self.build.modes[place]
        self._tries = 0
        if self._journal is not None:
            self._journal.append([{"kind": "mode", "mode": self._mode, "why": why}])
        self._say(f"asking for {_FORMS[self._mode]} from now on: {why}")
        return True

    # --- what comes back --------------------------------------------------------------------------

    async def land(self, rows: list[Row]) -> None:
        """See `dispatch.Work`."""
        for row in rows:
            if row["kind"] != "lost":
                self.ledger.answers.setdefault(row["n"], row)
                if self.judging is not None:
                    # Now, and not when its turn comes: scores may be asked for side by side.
                    self.judging.scores(Answer.from_row(row))
        await self._advance()

    async def _advance(self) -> None:
        """Judge what can be judged, and draw conclusions."""
        for _ in self._judge():
            await asyncio.sleep(0)  # what has arrived meanwhile goes first: it frees the teacher
        if self.dispatcher is None:
            return
        self._look_at_tries()
        if not self._settled and self.pool.unparsed >= HOPELESS:
            self.dispatcher.stop(self._hopeless())
        dispatchers = [self.dispatcher]
        if self.judging is not None and self.judging.dispatcher is not None:
            dispatchers.append(self.judging.dispatcher)
        for dispatcher in dispatchers:
            if self.wants_more:
                dispatcher.wake()
            else:  # what is still in flight is paid for, but no longer needed
                dispatcher.stop(None, GRACE)

    def _look_at_tries(self) -> None:
        if not self._settled and self._tries >= TRIES:
            self._next_mode(f"{TRIES} replies held no task")

    def _judge(self) -> Iterator[None]:
        """Judge in request order, as far as the replies reach without a gap; one at a step."""
        while self.wants_more and (row := self.ledger.answers.get(self.pool.requests)) is not None:
            answer = Answer.from_row(row)
            scores = None if self.judging is None else self.judging.scores(answer)
            if self.judging is not None:
                if scores is None:
                    return  # until the judge has spoken
                self.judging.forget(answer.n)
            self.pool.judge(answer, scores)
            # The rest is in the journal; a run of a million examples could not keep it all.
            self.ledger.answers[answer.n] = {name: row[name] for name in FIGURES if name in row}
            self._last = row
            if not self._settled:
                self._shrink = row["shrink"]
            if not answer.failed:
                self._settled |= self.pool.unparsed == 0
                self._tries += answer.mode == self._mode
            yield

    def _hopeless(self) -> TeacherError:
        row = self._last
        shown = " ".join(str(row["text"]).split())[:200] or "(empty)"
        hint = "try another generate.teacher.protocol, or a model that follows instructions"
        if row.get("finish_reason") == "length":
            hint = (
                "the reply was cut: raise generate.teacher.max_output_tokens, or switch hidden "
                "reasoning off, e.g. generate.teacher.extra_body: {reasoning_effort: none}"
            )
        return TeacherError(
            f"none of the first {self.pool.requests} replies holds a task; the last: {shown}",
            hint=hint,
        )

    # --- how it ends ------------------------------------------------------------------------------

    @property
    def interrupt(self) -> BaseException | None:
        """The signal that came although the target was reached."""
        return self.ended_by if isinstance(self.ended_by, KeyboardInterrupt) else None

    def stopped_by(self, replay: bool) -> BaseException | None:
        """Why the target was not reached; None when nothing was to be asked for."""
        if self.ended_by is not None:
            return self.ended_by
        if replay:
            return None
        if self.pool.saturated:
            most = ", ".join(f"{name} {n}" for name, n in self.pool.reasons.most_common(3))
            return BudgetStop(
                f"generate.min_yield: the last {WINDOW} requests kept only "
                f"{self.pool.recent_yield:.2f} examples each (rejected so far: {most or 'none'}; "
                f"failed requests: {self.pool.failed})",
                hint="raise generate.novelty, or set generate.target to what is there; with other "
                "seeds or another temperature it begins anew (--fresh)",
            )
        return BudgetStop(
            f"generate.max_requests: {self.pool.requests} requests are done",
            hint="a higher generate.max_requests (--limit of alpaca generate) goes on from here",
        )


_FORMS: Mapping[Mode, str] = {
    "json_schema": "JSON by a schema",
    "json_object": "a JSON object",
    "json": "JSON in words alone",
    "text": "numbered text",
    "completion": "a continued text",
}

"""Sends requests to a teacher, many at a time, and makes every reply durable before it is read.

One event loop: requests are launched while they are wanted, affordable and within the endpoint's
limits, retried with full jitter, and their replies go to the journal in groups, one fsync each,
before anyone sees them. What could be billed is in the journal before it is sent, so not even a
`kill -9` makes a budget forget it. Whatever ends the work early (a signal, a refusal, a budget, a
full disk), launching stops, and what is in flight is waited for and kept.

Which replies are good, and when there are enough, is the caller's business; order, too: replies
land as they arrive.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from alpaca_cli.core.errors import AlpacaError, TeacherError, TryAgain
from alpaca_cli.core.journal import Journal
from alpaca_cli.data.ledger import Row, identity, reply_row
from alpaca_cli.data.limits import Limits, Sent
from alpaca_cli.data.prompts import Request
from alpaca_cli.data.spending import Spending
from alpaca_cli.data.teacher import Busy, Refused, Reply, Teacher, Unsupported

GRACE = 20.0  # seconds that a terminated or satisfied run waits for the replies in flight
REFUSALS = 10  # this many in a row are the endpoint's fault, not the requests'
FAILURES = 20  # this many in a row, of whatever kind, and nothing more is sent
STALLED = 30.0  # seconds without a reply that are worth a word, if replies are quicker as a rule
WATCH = 5.0  # seconds between two looks at whether the endpoint is alive


class Work(Protocol):
    """What a dispatcher asks of its caller."""

    def next_request(self) -> Request | None:
        """The next request to send; None when none is wanted for now."""

    def instead(self, request: Request, problem: Refused | Unsupported) -> Request | None:
        """The request to send in place of one that the endpoint cannot take; None for none."""

    async def land(self, rows: list[Row]) -> None:
        """Take journalled rows; long work lets the event loop run in between."""


@dataclass
class Ask:
    """One request on its way to a reply.

    Attributes:
        attempts: those that count; `launched`: all of them.
        lost: attempts that may have been billed without a reply.
        since: when it was first sent.
    """

    request: Request
    attempts: int = 0
    launched: int = 0
    lost: int = 0
    since: float = 0.0


@dataclass
class Figures:
    """What a person wants to see of a dispatcher; all from the beginning of this invocation."""

    replies: int = 0
    retries: int = 0
    output_tokens: int = 0


class Dispatcher:
    """Requests in flight to one teacher.

    Args:
        attempts: how often one request is tried.
        patience: seconds without any reply after which an overloaded endpoint is given up.
        announce: journal what may be billed before it is sent.
        stamp: fields that every journal row of this dispatcher carries.

    Attributes:
        ended_by: what stopped the work before it was done, or None.
    """

    def __init__(
        self,
        teacher: Teacher,
        journal: Journal,
        spending: Spending,
        limits: Limits,
        *,
        attempts: int,
        patience: float,
        announce: bool,
        say: Callable[[str], None],
        stamp: Mapping[str, Any] | None = None,
    ) -> None:
        self.ended_by: BaseException | None = None
        self.limits, self.figures = limits, Figures()
        self._teacher, self._journal, self._spending = teacher, journal, spending
        self._attempts, self._patience, self._say = attempts, patience, say
        self._announces = announce
        self._stamp = dict(stamp or {})
        self._tasks: dict[asyncio.Task[None], Ask] = {}
        self._held: Ask | None = None  # wanted, but not affordable while others are in flight
        self._waiting: list[tuple[float, int, int, Ask]] = []  # for their next attempt, by time
        self._landed: list[Row] = []
        self._refused: list[Row] = []
        self._answered = self._saving = False
        self._failures = 0  # in a row
        self._news = asyncio.Event()
        self._stopping = False
        self._quiet_since = 0.0  # since when nothing was answered although something was asked
        self._overloaded_since: float | None = None
        self._said_stalled = False
        self._timer: asyncio.TimerHandle | None = None
        self._latency = 0.0  # of a usual reply: an average that follows
        self._output = 0.0  # tokens of a usual reply, likewise
        self._jitter = random.Random()  # decides when a retry is sent, never what is kept

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered yet."""
        return len(self._tasks)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, nor waiting to be, nor about to land."""
        return not (self._tasks or self._landed or self._waiting or self._held or self._saving)

    def state(self) -> str:
        """What is unusual about the endpoint now, in a few words; empty when nothing is."""
        parts = []
        if (pause := self.limits.paused_until - time.monotonic()) > 0:
            parts.append(f"resting {pause:.0f} s")
        if self.limits.overloads:
            parts.append(f"{self.limits.overloads:,} times too busy")
        if self._failures:
            parts.append(f"{self._failures} failures in a row")
        if self._waiting:
            parts.append(f"{len(self._waiting)} to try again")
        return ", ".join(parts)

    def wake(self) -> None:
        """Look again whether a request is wanted."""
        self._news.set()

    async def run(self, work: Work, done: Callable[[], bool] = lambda: True) -> None:
        """Work until no request is wanted any more, or something stops it (see `ended_by`).

        Args:
            done: asked when nothing is under way; False waits for `wake`.
        """
        self._work = work
        loop = asyncio.get_running_loop()
        self._quiet_since = loop.time()
        watch = loop.create_task(self._watch())
        try:
            while await self._step(done):
                pass
        finally:
            watch.cancel()
        if self._refused:
            # Nothing of them is under way, and they may be answered another time.
            rows = [row | {"kind": "lost"} for row in self._refused]
            if self.ended_by is None:
                self.stop(self._all_refused())
            await self._write(rows)

    async def _step(self, done: Callable[[], bool]) -> bool:
        self._launch()
        if not self.idle or (not self._stopping and not done()):
            await self._news.wait()
            self._news.clear()
            await self._save()
        elif self._refused and self._answered and not self._stopping:
            rows, self._refused = self._refused, []
            await self._write(rows)
        else:
            return False
        return True

    def stop(self, reason: BaseException | None, grace: float | None = None) -> None:
        """Launch nothing more; after `grace` seconds give up on what is in flight."""
        if self.ended_by is None:
            self.ended_by = reason
        self._stopping = True
        for ask in [self._held, *(waiting[3] for waiting in self._waiting)]:
            if ask is not None:
                self._give_up(ask)
        self._held, self._waiting = None, []
        self._news.set()
        if grace is not None:
            asyncio.get_running_loop().call_later(grace, self._abandon)

    def interrupt(self, interrupt: KeyboardInterrupt, grace: float | None) -> None:
        """Stop for a signal: see `alpaca_cli.data.signals`. A second one waits for nothing."""
        if isinstance(self.ended_by, KeyboardInterrupt):
            self._abandon()
            return
        if self._tasks:
            limit = "" if grace is None else f"up to {grace:.0f} s "
            self._say(
                f"stopping: waiting {limit}for {len(self._tasks)} replies that are under way and "
                "may be paid for; Ctrl-C again stops at once"
            )
        self.ended_by = interrupt
        self.stop(interrupt, grace)

    def _abandon(self) -> None:
        for task in self._tasks:
            task.cancel()

    # --- sending ----------------------------------------------------------------------------------

    def _launch(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping and len(self._tasks) < int(self.limits.limit):
            now = loop.time()
            ask = self._next(now)
            if ask is None:
                return
            tokens = self._expected_tokens(ask.request)
            if (wait := self.limits.wait(now, tokens)) > 0:
                self._held = ask
                self._wake_in(wait)
                return
            if not self._spending.reserve(ask.request.most):
                self._held = ask
                if not self._tasks:
                    self.stop(self._spending.exhausted(ask.request.most))
                return
            if not self._announce(ask):
                return
            ask.since = ask.since or now
            task = loop.create_task(self._attempt(ask, self.limits.sent(now, tokens)))
            self._tasks[task] = ask
            task.add_done_callback(self._done)

    def _next(self, now: float) -> Ask | None:
        """What to send next: what was held back, a retry that is due, a new request."""
        held, self._held = self._held, None
        if held is not None:
            return held
        if self._waiting and self._waiting[0][0] <= now:
            return heapq.heappop(self._waiting)[3]
        if self._waiting:
            self._wake_in(self._waiting[0][0] - now)
        request = self._work.next_request()
        return None if request is None else Ask(request)

    def _wake_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._timer is not None and loop.time() < self._timer.when() <= due:
            return  # an earlier look decides anew
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(due, self._news.set)

    def _expected_tokens(self, request: Request) -> float:
        reply = 1.2 * self._output or request.tasks * 125.0
        return request.likely_prompt_tokens + reply

    def _announce(self, ask: Ask) -> bool:
        """Journal what may be billed before it is sent; False when that cannot be done."""
        ask.launched += 1
        if not self._announces:
            return True
        most = ask.request.most
        row = {"n": ask.request.n, "kind": "sent", "attempt": ask.launched, **self._stamp}
        try:
            row |= {"most": [most.prompt, most.completion], "lost": ask.lost}
            self._journal.append([row], sync=False)
        except AlpacaError as error:
            self._spending.release(most)
            self.stop(error)
            return False
        return True

    def _done(self, task: asyncio.Task[None]) -> None:
        ask = self._tasks.pop(task)
        if task.cancelled():  # before it began: nothing was sent
            self._spending.release(ask.request.most)
            self._give_up(ask)
        elif (error := task.exception()) is not None:
            self.stop(error)
        self._news.set()
        self._launch()

    # --- what comes back --------------------------------------------------------------------------

    async def _attempt(self, ask: Ask, sent: Sent) -> None:
        loop = asyncio.get_running_loop()
        most = ask.request.most
        try:
            reply = await self._teacher(ask.request)
        except asyncio.CancelledError:
            self._lose(ask)
            self._give_up(ask)
        except Busy as busy:
            self._failed(ask, busy, sent)
        except (Refused, Unsupported) as problem:
            self._spending.release(most)
            self.limits.replied(loop.time(), sent, 0, {})
            self._refuse(ask, problem)
        except AlpacaError as error:
            self._spending.release(most)
            self.stop(error)
            self._give_up(ask)
        else:
            self._spending.release(most)
            self._spending.add_reply(most, reply.usage, reply.tier)
            self._take(ask, reply, sent, loop.time())

    def _take(self, ask: Ask, reply: Reply, sent: Sent, now: float) -> None:
        usage = reply.usage or {}
        tokens = usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0) or sent.tokens
        self.limits.replied(now, sent, tokens, reply.limits)
        seconds = now - sent.at
        self._latency = seconds if not self._latency else 0.9 * self._latency + 0.1 * seconds
        output = float(usage.get("completion_tokens", 0))
        self._output = output if not self._output else 0.9 * self._output + 0.1 * output
        self.figures.replies += 1
        self.figures.output_tokens += int(output)
        self._alive(now)
        self._landed.append(reply_row(ask.request, reply, self._stamp) | {
            "seconds": round(now - ask.since, 3), "attempts": ask.launched, "lost": ask.lost,
        })  # fmt: skip

    def _alive(self, now: float) -> None:
        self._failures = 0
        self._quiet_since, self._overloaded_since = now, None
        if self._said_stalled:
            self._say("replies are coming again")
            self._said_stalled = False

    def _failed(self, ask: Ask, busy: Busy, sent: Sent) -> None:
        """An attempt that another one may cure."""
        now = asyncio.get_running_loop().time()
        most = ask.request.most
        if busy.maybe_billed:
            self._lose(ask)
        else:
            self._spending.release(most)
        if busy.overload:
            # This attempt's own task is still in the list.
            flying = len(self._tasks) - 1
            if self._overloaded_since is None:
                self._overloaded_since = now
            self.limits.overloaded(now, flying, self._latency, busy.wait, sent, busy.limits)
        else:
            self._failures += 1
            ask.attempts += 1
        self.figures.retries += 1
        rest = max(busy.wait or 0.0, self.limits.paused_until - now if busy.overload else 0.0)
        if self._stopping:
            self._give_up(ask)
        elif rest + now - (self._overloaded_since or now) > self._patience:
            self.stop(_try_again(f"the teacher has no room: {busy.message} (rest: {rest:.0f} s)"))
            self._give_up(ask)
        elif self._failures >= FAILURES:
            self.stop(_try_again(f"{FAILURES} attempts in a row failed; the last: {busy.message}"))
            self._give_up(ask)
        elif ask.attempts >= self._attempts:
            failed = f"no reply after {ask.attempts} attempts; the last: {busy.message}"
            self._land_failed(ask, failed, busy=True)
        else:
            wait = busy.wait
            if wait is None:  # full jitter, Brooker 2015
                wait = self._jitter.uniform(0, min(60, 0.5 * 2**ask.attempts))
            due = now if busy.overload else now + wait  # overload pauses everything
            heapq.heappush(self._waiting, (due, ask.request.n, ask.launched, ask))

    def _lose(self, ask: Ask) -> None:
        """Count an attempt that may have been billed and brought nothing."""
        ask.lost += 1
        self._spending.release(ask.request.most)
        self._spending.add_lost(ask.request.most)

    def _refuse(self, ask: Ask, problem: Refused | Unsupported) -> None:
        """A request that the endpoint will not answer as it is."""
        other = None if self._stopping else self._work.instead(ask.request, problem)
        if other is None:
            self._land_failed(ask, problem.message, busy=False)
            return
        ask.request = other
        now = asyncio.get_running_loop().time()
        heapq.heappush(self._waiting, (now, other.n, ask.launched, ask))

    def _land_failed(self, ask: Ask, text: str, *, busy: bool) -> None:
        row = identity(ask.request, "failed", self._stamp)
        self._refused.append(row | {"text": text, "lost": ask.lost, "busy": busy})
        self._news.set()

    def _give_up(self, ask: Ask) -> None:
        """Journal that nothing of a request is under way any more, and what it may have cost."""
        if ask.launched:
            row = identity(ask.request, "lost", self._stamp)
            self._landed.append(row | {"lost": ask.lost})

    # --- keeping ----------------------------------------------------------------------------------

    async def _save(self) -> None:
        """Journal what has landed, then hand it over."""
        rows, self._landed = self._landed, []
        answered = any(row["kind"] == "reply" for row in rows)
        self._answered |= answered
        # A refusal is the request's own fault only when the endpoint answers others after it.
        if answered:
            rows += self._refused
            self._refused = []
        elif len(self._refused) >= REFUSALS and not self._stopping:
            self.stop(self._all_refused())
        await self._write(rows)

    async def _write(self, rows: list[Row]) -> None:
        if not rows:
            return
        self._saving = True
        try:
            # In a thread: a slow disk must not hold up the replies that arrive meanwhile.
            await asyncio.to_thread(self._journal.append, rows)
        except AlpacaError as error:
            self.stop(error)
        else:
            await self._work.land(rows)
        finally:
            self._saving = False

    def _all_refused(self) -> AlpacaError:
        last = self._refused[-1]
        if last["busy"]:
            return _try_again(str(last["text"]))
        return TeacherError(
            f"the teacher refused {len(self._refused)} requests in a row; the last: {last['text']}",
            hint="look at request 0 with alpaca generate --estimate",
        )

    async def _watch(self) -> None:
        """Say so when the endpoint has gone quiet."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH)
            quiet = loop.time() - self._quiet_since
            if not self._tasks:
                self._quiet_since = loop.time()
            elif quiet > max(STALLED, 3 * self._latency) and not self._said_stalled:
                self._said_stalled = True
                self._say(
                    f"no reply for {quiet:.0f} s: {len(self._tasks)} requests are waiting "
                    f"(generate.teacher.timeout gives each its time)"
                )


def _try_again(message: str) -> TryAgain:
    return TryAgain(message, hint="everything is kept; the same command later goes on from here")

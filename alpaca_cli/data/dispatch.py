"""Sends requests to a teacher, many at a time, and makes every reply durable before it is read.

One event loop: requests are launched while they are wanted and affordable, retried with full
jitter, and their replies go to the journal in groups, one fsync each, before anyone sees them.
Whatever ends the work early (a signal, a refusal, a budget, a full disk), launching stops, and
what is in flight is waited for and kept.

Which replies are good, and when there are enough, is the caller's business; order, too: replies
land as they arrive.
"""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from alpaca_cli.core.errors import AlpacaError, TeacherError, Terminated, TryAgain
from alpaca_cli.core.journal import Journal
from alpaca_cli.data.prompts import Request
from alpaca_cli.data.spending import Spending
from alpaca_cli.data.teacher import Busy, Refused, Teacher

GRACE = 20.0  # seconds that an interrupted run waits for the replies in flight
LONGEST_WAIT = 600.0  # seconds; an endpoint that asks for more is asked again another day
REFUSALS = 10  # this many in a row are the endpoint's fault, not the requests'
Row = dict[str, Any]


class Work(Protocol):
    """What a dispatcher asks of its caller."""

    def next_request(self) -> Request | None:
        """The next request to send; None when none is wanted for now."""

    async def land(self, rows: list[Row]) -> None:
        """Take journalled rows; long work lets the event loop run in between."""


class Dispatcher:
    """Requests in flight to one teacher.

    Args:
        attempts: how often one request is tried.

    Attributes:
        ended_by: what stopped the work before it was done, or None.
        in_flight: requests sent and not answered yet.
    """

    def __init__(
        self,
        teacher: Teacher,
        journal: Journal,
        spending: Spending,
        *,
        concurrency: int,
        attempts: int,
        say: Callable[[str], None],
    ) -> None:
        self.ended_by: BaseException | None = None
        self._teacher, self._journal, self._spending = teacher, journal, spending
        self._concurrency, self._attempts, self._say = concurrency, attempts, say
        self._tasks: dict[asyncio.Task[Row | None], Request] = {}
        self._held: Request | None = None  # wanted, but not affordable while others are in flight
        self._landed: list[Row] = []
        self._refused: list[Row] = []
        self._answered = False
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        # Jitter decides when a retry is sent, never what is kept.
        self._jitter = random.Random()

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    async def run(self, work: Work) -> None:
        """Work until no request is wanted any more, or something stops it (see `ended_by`)."""
        self._work = work
        with _signals(self._interrupt):
            while True:
                self._launch()
                if self._tasks or self._landed:
                    await self._news.wait()
                    self._news.clear()
                    await self._save()
                elif self._refused and self._answered and not self._stopping.is_set():
                    rows, self._refused = self._refused, []
                    await self._write(rows)
                else:
                    break
            if self._refused and self.ended_by is None:
                self.stop(self._all_refused())

    def stop(self, reason: BaseException | None, grace: float | None = None) -> None:
        """Launch nothing more; after `grace` seconds give up on what is in flight."""
        if self.ended_by is None:
            self.ended_by = reason
        self._stopping.set()
        if grace is not None:
            asyncio.get_running_loop().call_later(grace, self._abandon)

    def _interrupt(self, interrupt: KeyboardInterrupt) -> None:
        if isinstance(self.ended_by, KeyboardInterrupt):
            self._abandon()
            return
        if self._tasks:
            self._say(
                f"stopping: waiting up to {GRACE:.0f} s for {len(self._tasks)} replies that are "
                "under way; Ctrl-C again stops at once"
            )
        self.ended_by = interrupt
        self.stop(interrupt, GRACE)

    def _abandon(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _launch(self) -> None:
        while not self._stopping.is_set() and len(self._tasks) < self._concurrency:
            request = self._held or self._work.next_request()
            self._held = None
            if request is None:
                return
            if not self._spending.reserve(request):
                self._held = request
                if not self._tasks:
                    self.stop(self._spending.exhausted())
                return
            task = asyncio.get_running_loop().create_task(self._ask(request))
            self._tasks[task] = request
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Row | None]) -> None:
        request = self._tasks.pop(task)
        row = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.stop(error)
        elif not task.cancelled():
            row = task.result()
        self._spending.settle(request, row)
        if row is not None:
            self._landed.append(row)
        self._news.set()
        self._launch()

    async def _ask(self, request: Request) -> Row | None:
        """The journal row for one request, after as many attempts as it takes.

        None when there is nothing to journal: no attempt was answered, none can have been billed.
        """
        started = time.monotonic()
        lost = 0  # attempts that may have been billed without a reply
        attempt = 0
        row: Row = {"n": request.n, "kind": "reply", "request_hash": request.hash}
        while True:
            attempt += 1
            try:
                reply = await self._teacher(request)
            except Busy as busy:
                lost += busy.maybe_billed
                if not await self._retry(request, attempt, busy):
                    return row | {"kind": "lost", "lost": lost} if lost else None
            except Refused as refused:
                return row | {"kind": "failed", "text": refused.message, "lost": lost}
            except asyncio.CancelledError:
                return row | {"kind": "lost", "lost": lost + 1}
            except AlpacaError as error:
                self.stop(error)
                return row | {"kind": "lost", "lost": lost} if lost else None
            else:
                return row | {
                    "text": reply.text,
                    "finish_reason": reply.finish_reason,
                    "model": reply.model,
                    "usage": reply.usage,
                    "seconds": round(time.monotonic() - started, 3),
                    "attempts": attempt,
                    "lost": lost,
                }

    async def _retry(self, request: Request, attempt: int, busy: Busy) -> bool:
        """Wait for the next attempt; False when there is to be none."""
        if self._stopping.is_set():
            return False
        if attempt >= self._attempts:
            self.stop(_try_again(f"no reply after {attempt} attempts; the last: {busy.message}"))
            return False
        if (busy.wait or 0) > LONGEST_WAIT:
            self.stop(_try_again(f"the teacher asks for {busy.wait:.0f} s of rest: {busy.message}"))
            return False
        if busy.maybe_billed and not self._spending.reserve(request):
            self.stop(self._spending.exhausted())
            return False
        if busy.wait is not None:
            wait = busy.wait * self._jitter.uniform(1, 1.1)
        else:
            wait = self._jitter.uniform(0, min(60, 0.5 * 2**attempt))  # full jitter, Brooker 2015
        try:
            await asyncio.wait_for(self._stopping.wait(), wait)
        except TimeoutError:
            return True
        return False

    async def _save(self) -> None:
        """Journal what has landed, then hand it over."""
        rows, self._landed = self._landed, []
        answered = any(row["kind"] == "reply" for row in rows)
        self._answered |= answered
        # A refusal is the request's own fault only when the endpoint answers others after it.
        self._refused += [row for row in rows if row["kind"] == "failed"]
        rows = [row for row in rows if row["kind"] != "failed"]
        if answered:
            rows += self._refused
            self._refused = []
        elif len(self._refused) >= REFUSALS:
            self.stop(self._all_refused())
        await self._write(rows)

    async def _write(self, rows: list[Row]) -> None:
        if not rows:
            return
        try:
            # In a thread: a slow disk must not hold up the replies that arrive meanwhile.
            await asyncio.to_thread(self._journal.append, rows)
        except AlpacaError as error:
            self.stop(error)
        else:
            await self._work.land(rows)

    def _all_refused(self) -> TeacherError:
        return TeacherError(
            f"the teacher refused {len(self._refused)} requests in a row; the last: "
            f"{self._refused[-1]['text']}",
            hint="look at request 0 with alpaca generate --estimate",
        )


def _try_again(message: str) -> TryAgain:
    return TryAgain(message, hint="everything is kept; the same command later goes on from here")


@contextmanager
def _signals(interrupt: Callable[[KeyboardInterrupt], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `interrupt` inside the event loop instead of raising anywhere."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change what a signal does
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loop.add_signal_handler(signal.SIGINT, lambda: interrupt(KeyboardInterrupt()))
    loop.add_signal_handler(signal.SIGTERM, lambda: interrupt(Terminated()))
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)

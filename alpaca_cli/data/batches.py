"""Sends requests through the Batch API, in waves: files of requests, answered within a day.

A wave is collected before another is submitted, and a batch that an earlier process has left open
before anything else is asked, in whatever mode. How an endpoint is asked is found out online, by
the ordinary dispatcher, which this one holds: a batch would take hours to tell. Rows of replies
are the same as online, so both ways continue each other.

How one batch travels is known in `alpaca_cli.data.batch_wave`; which replies are good, and when
there are enough, is the caller's business.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from alpaca_cli.core.errors import AlpacaError, TeacherError, UsageError
from alpaca_cli.core.journal import Journal
from alpaca_cli.core.settings_generate import Batch
from alpaca_cli.data.batch_client import BatchClient, Entry, StoppedEarly
from alpaca_cli.data.batch_files import (
    MOST_BYTES,
    load_requests,
    read_results,
    save_requests,
    upload_line,
)
from alpaca_cli.data.batch_results import Results, lost_row
from alpaca_cli.data.batch_wave import Wave
from alpaca_cli.data.dispatch import Dispatcher, Figures, Work
from alpaca_cli.data.endpoint import Endpoint
from alpaca_cli.data.ledger import Ledger, Row
from alpaca_cli.data.limits import Limits
from alpaca_cli.data.prompts import Request
from alpaca_cli.data.spending import Most, Spending, cost
from alpaca_cli.data.teacher import Refused, Unsupported

GROUP = 256  # results that are journalled with one fsync
BREATH = 64  # requests built before anything else may happen
TASK_TOKENS = 125  # of a usual task, for the price that is told beforehand


class BatchDispatcher:
    """Batches of one endpoint; the same face as `dispatch.Dispatcher`.

    Args:
        online: asks until `settled`, or everything when there are to be no waves.
        ledger: knows the batches that are still open.
        settled: whether it is known how to ask.
        waves: False: only collect what is open, then go on online.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        online: Dispatcher,
        journal: Journal,
        spending: Spending,
        ledger: Ledger,
        settings: Batch,
        *,
        settled: Callable[[], bool],
        waves: bool,
        say: Callable[[str], None],
    ) -> None:
        self.ended_by: BaseException | None = None
        self._endpoint, self._online = endpoint, online
        self._journal, self._spending, self._ledger = journal, spending, ledger
        self._settings, self._settled, self._waves, self._say = settings, settled, waves, say
        self._client = BatchClient(endpoint)
        self._folder = journal.path.parent / "batches"
        self._wave: Wave | None = None
        self._again: dict[int, Request] = {}  # were in a batch, and have no reply
        self._tries: Counter[int] = Counter()
        self._stopping = self._asking_online = False
        self._news = asyncio.Event()

    # --- what others see --------------------------------------------------------------------------

    @property
    def figures(self) -> Figures:
        """See `dispatch.Figures`."""
        return self._online.figures

    @property
    def limits(self) -> Limits:
        """What may be under way."""
        return Limits(self._settings.max_requests) if self._wave else self._online.limits

    @property
    def in_flight(self) -> int:
        """Requests that are in a batch or were sent, and are not answered yet."""
        return self._online.in_flight if self._wave is None else len(self._wave.left)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, nor waiting to be."""
        return self._wave is None and not self._again and self._online.idle

    def state(self) -> str:
        """How far the batch is, in a few words."""
        if self._wave is None:
            return self._online.state()
        failures = self._client.failures
        return self._wave.state() + (f", {failures} failures in a row" if failures else "")

    def wake(self) -> None:
        """Look again whether a request is wanted."""
        self._news.set()
        self._online.wake()

    def stop(self, reason: BaseException | None, grace: float | None = None) -> None:
        """Submit nothing more; what an ended batch has brought is still journalled."""
        if self.ended_by is None:
            self.ended_by = reason
        self._stopping = True
        if reason is not None:
            self._client.stop()
        if self._asking_online:
            self._online.stop(reason, grace)
        self._news.set()

    def interrupt(self, interrupt: KeyboardInterrupt, grace: float | None) -> None:
        """Stop for a signal: at once, for a batch goes on without us."""
        if self._asking_online:
            self._online.interrupt(interrupt, grace)
        elif self._wave is not None and self._wave.id is not None:
            self._say(
                f"batch {self._wave.id} goes on at the provider; the same command collects it"
            )
        self.ended_by = interrupt
        self._stopping = True
        self._client.stop()
        self._news.set()

    # --- one wave after the other -----------------------------------------------------------------

    async def run(self, work: Work, done: Callable[[], bool] = lambda: True) -> None:
        """Work until no request is wanted any more, or something stops it (see `ended_by`).

        Args:
            done: asked when nothing is under way; False waits for `wake`.
        """
        self._work = work
        try:
            for row in self._ledger.open_batches:
                await self._resume(dict(row))
            while not self._stopping and await self._settle(done):
                while not (done() or self._stopping):
                    await self._news.wait()
                    self._news.clear()
                wave = await self._gather()
                if wave is None:
                    break
                await self._carry(wave)
        except StoppedEarly:
            pass
        except AlpacaError as error:
            self.stop(error)
        self._wave = None

    async def _settle(self, done: Callable[[], bool]) -> bool:
        """Ask online as long as that is needed; whether waves may follow."""
        if self._waves and self._settled():
            return True
        work = self._work
        if self._waves:
            work = _Until(work, self._settled)
            self._say(
                "the first request goes online, at the full price: its reply tells how this "
                "endpoint is asked"
            )
        self._asking_online = True
        await self._online.run(work, done)
        self._asking_online = False
        if self._online.ended_by is not None:
            self.ended_by = self._online.ended_by
            return False
        return self._waves and self._settled()

    async def _gather(self) -> Wave | None:
        """The next wave, reserved and journalled; None when there is nothing to ask."""
        name, limit_field = uuid.uuid4().hex, self._endpoint.limit_field
        requests: dict[int, Request] = {}
        reserved: list[Most] = []
        size = 0
        while len(requests) < self._settings.max_requests and not self._stopping:
            request = self._next()
            if request is None:
                break
            most = replace(request.most, batch=True)
            size += len(upload_line(name, request, limit_field))
            if size > MOST_BYTES or not self._spending.reserve(most):
                self._again[request.n] = request
                if not requests:
                    self.stop(self._spending.exhausted(most))
                elif size <= MOST_BYTES:
                    self._say("the next batch is as large as the budget allows at its worst case")
                break
            requests[request.n] = request
            reserved.append(most)
            if len(requests) % BREATH == 0:
                await asyncio.sleep(0)
        if not requests or self._stopping:
            return None
        path = self._folder / f"{name}.jsonl"
        row = {
            "kind": "batch",
            "name": name,
            "state": "intent",
            "base_url": self._client.base_url,
            "requests": len(requests),
            "sha256": await asyncio.to_thread(save_requests, path, requests.values()),
            "limit_field": limit_field,
        }
        wave = Wave(row, requests, self._client, self._journal, fresh=True)
        wave.reserved = reserved
        await wave.mark()
        return wave

    def _next(self) -> Request | None:
        if self._again:
            return self._again.pop(min(self._again))
        return self._work.next_request()

    async def _resume(self, row: Row) -> None:
        """Go on with a batch that an earlier process has left open."""
        path = self._folder / f"{row['name']}.jsonl"
        given_up = path.with_suffix(".given-up")
        way_out = f"to pay for its requests again instead: touch {given_up}"
        if row["base_url"] != self._client.base_url and not given_up.exists():
            raise UsageError(
                f"{path}: this batch is open at {row['base_url']}, not at {self._client.base_url}",
                hint=f"set generate.teacher.base_url back to collect it; {way_out}",
            )
        requests = load_requests(path, row["sha256"])
        landed = self._ledger.landed.get(row["name"], ())
        wave = Wave(row, requests, self._client, self._journal, landed=landed)
        if given_up.exists():
            await self._give_up(wave)
            return
        shown = f"batch {wave.id}" if wave.id else "a batch that may have been submitted"
        self._say(f"{shown} is still open: it is collected before anything else is asked")
        for most in (replace(request.most, batch=True) for request in wave.left):
            if self._spending.reserve(most):
                wave.reserved.append(most)
        try:
            await self._carry(wave)
        except TeacherError as error:
            hint = f"{error.hint}; {way_out}" if error.hint else way_out
            raise TeacherError(str(error), hint=hint) from error

    async def _give_up(self, wave: Wave) -> None:
        """Count what is left of a wave as billed and lost, as the run's owner has decided."""
        left = wave.left
        for request in left:
            self._spending.add_lost(replace(request.most, batch=True))
        await self._write([lost_row(wave, request) for request in left])
        await wave.mark(state="done", status="given up")
        self._say(f"batch {wave.id or wave.name} was given up: {len(left):,} requests are lost")

    async def _carry(self, wave: Wave) -> None:
        """Take a wave from whatever state to its end."""
        self._wave = wave
        try:
            if wave.id is None:
                await wave.submit(self._settings.poll, self._say)
                if wave.fresh:
                    self._say(
                        f"batch {wave.id}: {len(wave.requests):,} requests submitted"
                        f"{self._likely_cost(wave)}"
                    )
            batch = await wave.ended(self._settings.poll)
            if batch["status"] == "failed":
                await wave.mark(state="done", status="failed")
                raise wave.failure(batch)
            await self._collect(wave, batch)
        finally:
            for most in wave.reserved:
                self._spending.release(most)
        self._wave = None

    def _likely_cost(self, wave: Wave) -> str:
        price = self._endpoint.settings.price
        if price is None:
            return ""
        usages = (
            {
                "prompt_tokens": request.likely_prompt_tokens,
                "completion_tokens": request.tasks * TASK_TOKENS,
            }
            for request in wave.requests.values()
        )
        usd = sum(float(cost(price, usage, "batch")) for usage in usages)
        return f", about ${usd:.2g}" if usd < 1 else f", about ${usd:,.2f}"

    # --- what comes back --------------------------------------------------------------------------

    async def _collect(self, wave: Wave, batch: Entry) -> None:
        """Journal every result of a batch that has ended."""
        found = Results(
            wave,
            self._work,
            self._spending,
            self.figures,
            self._endpoint.settings.max_attempts,
            any(row["kind"] == "reply" for row in self._ledger.answers.values()),
            self._tries,
        )
        counts = batch.get("request_counts") or {}
        for kind, least in (("output", counts.get("completed") or 0), ("error", 0)):
            file_id = batch.get(f"{kind}_file_id")
            if file_id is None:
                continue
            get = partial(self._client.download, str(file_id), least, self._folder)
            with await self._client.patiently(get) as file:
                results = read_results(
                    file, wave.name, wave.requests, self._endpoint, wave.limit_field
                )
                while group := list(islice(results, GROUP)):
                    await self._write(found.rows(group))
                    if isinstance(self.ended_by, KeyboardInterrupt):
                        raise StoppedEarly
        await self._conclude(wave, batch["status"], found)

    async def _conclude(self, wave: Wave, status: str, found: Results) -> None:
        """Close a wave, and see whether another makes sense."""
        refused = found.refused
        await self._write(refused)
        counts = {"replies": found.replies, "refused": len(refused)}
        await wave.mark(state="done", status=status, **counts)
        if wave.fresh:  # what was left open is no more under way than what was never asked
            self._again |= found.unanswered()
        self._say(
            f"batch {wave.id}: {status}, {found.replies:,} of {len(wave.requests):,} answered"
        )
        if (reason := found.hopeless(status)) is not None:
            self.stop(reason)

    async def _write(self, rows: list[Row]) -> None:
        if rows:
            await asyncio.to_thread(self._journal.append, rows)
            await self._work.land(rows)


@dataclass(frozen=True, slots=True)
class _Until:
    """Work that is over, for who asks online, as soon as it is known how to ask."""

    work: Work
    settled: Callable[[], bool]

    def next_request(self) -> Request | None:
        return None if self.settled() else self.work.next_request()

    def instead(self, request: Request, problem: Refused | Unsupported) -> Request | None:
        return self.work.instead(request, problem)

    async def land(self, rows: list[Row]) -> None:
        await self.work.land(rows)

"""One batch on its way: submitted once, whatever happens in between.

    intent      its requests are in a file of ours, and nothing has left this machine
    uploaded    the provider has the file
    submitted   it has the batch, too
    done        every reply is in the journal, or the batch came to nothing

Each state is journalled before the next step is taken. Where a step may or may not have been
taken (a crash, a timeout), the provider is asked what it has, by the name that file and batch
carry; only what it does not have is sent again.

What the replies mean is not known here: see `alpaca_cli.data.batches`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from alpaca_cli.core.errors import AlpacaError, TeacherError, TryAgain
from alpaca_cli.core.journal import Journal
from alpaca_cli.data.batch_client import BatchClient, Entry
from alpaca_cli.data.batch_files import upload_line, url_of
from alpaca_cli.data.prompts import Request
from alpaca_cli.data.spending import Most

ENDED = ("completed", "failed", "expired", "cancelled")
Row = dict[str, Any]


class Wave:
    """The requests of one batch, and how far it has come.

    Args:
        row: its last journal row; `intent` of a new one is not journalled yet.
        fresh: made by this process, so that nobody else can have sent it.

    Attributes:
        requests: by their numbers, in the order of their lines.
        landed: numbers of those that have a journal row.
        reserved: the worst cases set aside for it.
    """

    def __init__(
        self,
        row: Row,
        requests: dict[int, Request],
        client: BatchClient,
        journal: Journal,
        *,
        landed: Iterable[int] = (),
        fresh: bool = False,
    ) -> None:
        self.row, self.requests, self.fresh = row, requests, fresh
        self.landed = set(landed)
        self.reserved: list[Most] = []
        self._client, self._journal = client, journal
        self._seen: Entry = {}

    @property
    def name(self) -> str:
        """What we call it, and what the provider finds it by."""
        return str(self.row["name"])

    @property
    def id(self) -> str | None:
        """What the provider calls it, once it has it."""
        return self.row.get("batch_id")

    @property
    def limit_field(self) -> str:
        """The name of the length limit with which its requests are sent."""
        return str(self.row["limit_field"])

    @property
    def left(self) -> list[Request]:
        """Those of its requests that have no journal row."""
        return [request for n, request in self.requests.items() if n not in self.landed]

    def state(self) -> str:
        """How far it is, in a few words."""
        total = len(self.requests)
        if self.id is None:
            return f"submitting a batch of {total:,}"
        counts = self._seen.get("request_counts") or {}
        done = (counts.get("completed") or 0) + (counts.get("failed") or 0)
        return f"batch {self.id}: {done:,} of {total:,} done ({self._seen.get('status', 'sent')})"

    async def mark(self, **changes: Any) -> None:
        """Journal a new state."""
        row = self.row | changes
        await asyncio.to_thread(self._journal.append, [row])
        self.row = row

    async def submit(self, poll: float, say: Callable[[str], None]) -> None:
        """Make sure that the provider has the batch, once.

        Args:
            poll: seconds until what may have been sent is listed if it was.

        Raises:
            TeacherError: it was refused.
            TryAgain: the provider does not work for now.
        """
        looks, sends = not self.fresh, False
        if looks and not await self._client.patiently(self._found):
            await self._client.rest(poll)

        async def attempt() -> None:
            nonlocal looks, sends
            sends = False
            if self.id is None and not (looks and await self._found()):
                looks = sends = True
                await self._send()

        try:
            await self._client.patiently(attempt, least=poll)
        except TeacherError:
            if sends:  # refused outright, so there is none
                await self.mark(state="done", status="refused")
            raise
        if not sends:
            say(f"batch {self.id} had been submitted: it is not submitted again")

    async def _send(self) -> None:
        if self.row.get("file_id") is None:
            lines = (
                upload_line(self.name, request, self.limit_field)
                for request in self.requests.values()
            )
            file_id = await self._client.upload(self._filename, b"".join(lines))
            await self.mark(state="uploaded", file_id=file_id)
        url = url_of(next(iter(self.requests.values())))
        batch_id = await self._client.create(self.row["file_id"], url, self.name)
        await self.mark(state="submitted", batch_id=batch_id)

    @property
    def _filename(self) -> str:
        return f"alpaca-{self.name}.jsonl"

    async def _found(self) -> bool:
        """Whether the provider has the batch; that, or that it has the file, is journalled."""
        if self.row.get("file_id") is None:
            file_id = await self._client.find_file(self._filename)
            if file_id is not None:
                await self.mark(state="uploaded", file_id=file_id)
        batch_id = await self._client.find_batch(self.name, self.row.get("file_id"))
        if batch_id is not None:
            await self.mark(state="submitted", batch_id=batch_id)
        return batch_id is not None

    async def ended(self, poll: float) -> Entry:
        """The batch, once it has ended; looks every `poll` seconds."""
        while True:
            self._seen = await self._client.patiently(lambda: self._client.look(str(self.id)))
            if self._seen["status"] in ENDED:
                return self._seen
            await self._client.rest(poll)

    def failure(self, batch: Entry) -> AlpacaError:
        """Why the provider did not take the file; nothing was worked on."""
        errors = (batch.get("errors") or {}).get("data") or [{}]
        numbers, told = list(self.requests), []
        for error in errors[:3]:
            line = error.get("line")
            whose = f"request {numbers[line - 1]}: " if line and line <= len(numbers) else ""
            told.append(f"{whose}{error.get('message')} ({error.get('code')})")
        message = f"batch {self.id} failed: {'; '.join(told)}"
        if any("limit" in str(error.get("code")) for error in errors):
            hint = "later, or with a lower generate.batch.max_requests, it may be taken"
            return TryAgain(message, hint=hint)
        return TeacherError(message, hint="check generate.teacher, or set generate.mode to online")

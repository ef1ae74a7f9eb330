"""What the rows of a generation's journal come to: replies by request, and what they have cost.

    sent      an attempt goes out, with the most that it can be billed for, and how many before it
              may have been billed in vain
    reply     its answer; failed: there will be none; lost: nothing is under way any more
    mode      from here on tasks are asked for in another mode, and why
    batch     the state of a batch at the provider (see `alpaca_cli.data.batches`)

`reply`, `failed` and `lost` close the attempts that their own process has sent, and tell how many
of these may have been billed in vain. Attempts that nothing closes were in flight when a process
was killed: they count at their worst case, so that a budget holds over any number of crashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError
from alpaca_cli.data.prompts import Request
from alpaca_cli.data.spending import Most, Spending
from alpaca_cli.data.teacher import Reply

Row = dict[str, Any]
CLOSING = ("reply", "failed", "lost")


class Ledger:
    """Takes the rows of one asker, in their order.

    Args:
        spending: counts what they have cost.

    Attributes:
        answers: the first `reply` or `failed` row of each request.
        limit_field: what the endpoint calls the bound on a reply's length, when it has answered.
        batches: the last row of each batch, by its name.
        landed: numbers of the requests of each batch that have a row, by its name.
        killed: attempts that were in flight when a process was killed.
    """

    def __init__(self, spending: Spending) -> None:
        self.answers: dict[int, Row] = {}
        self.limit_field: str | None = None
        self.batches: dict[str, Row] = {}
        self.landed: dict[str, set[int]] = {}
        self.killed = 0
        self._spending = spending
        self._open: dict[int, tuple[Most, int]] = {}  # dearest attempt, lost before the last

    @property
    def open_batches(self) -> list[Row]:
        """The last rows of batches that may still bring replies."""
        return [row for row in self.batches.values() if row["state"] != "done"]

    def take(self, row: Row) -> None:
        """Count one row."""
        kind = row["kind"]
        if kind == "sent":
            if row["attempt"] == 1:
                self._killed(row["n"])
            most, _ = self._open.get(row["n"], (Most(0, 0), 0))
            prompt, completion = row["most"]
            most = Most(max(most.prompt, prompt), max(most.completion, completion))
            self._open[row["n"]] = most, row.get("lost", 0)
        elif kind == "batch":
            self.batches[row["name"]] = row
        elif kind in CLOSING:
            self._close(row)

    def _close(self, row: Row) -> None:
        if "batch" in row:  # announced as a whole; an attempt still open is an earlier process's
            self._killed(row["n"])
            self.landed.setdefault(row["batch"], set()).add(row["n"])
            prompt, completion = row["most"]
            most = Most(prompt, completion, batch=True)
        else:
            most, _ = self._open.pop(row["n"], (Most(0, 0), 0))
        if row["lost"]:
            self._spending.add_lost(most, row["lost"])
        if row["kind"] == "reply":
            self._spending.add_reply(most, row["usage"], row["tier"])
            self.limit_field = row["limit_field"] or self.limit_field
        if row["kind"] != "lost":
            self.answers.setdefault(row["n"], row)

    def _killed(self, n: int) -> None:
        if n in self._open:
            most, lost = self._open.pop(n)
            self.killed += 1
            self._spending.add_lost(most, lost + 1)

    def finish(self) -> None:
        """Count what was in flight when the last process was killed."""
        for n in list(self._open):
            self._killed(n)


# What a row must have, beside its kind.
_NEEDED: Mapping[str, frozenset[str]] = {
    "sent": frozenset({"n", "attempt", "most"}),
    "reply": frozenset(
        {"n", "request_hash", "mode", "shrink", "tasks", "demonstrations", "text", "usage", "tier",
         "limit_field", "lost"}
    ),
    "failed": frozenset(
        {"n", "request_hash", "mode", "shrink", "tasks", "demonstrations", "text", "lost"}
    ),
    "lost": frozenset({"n", "lost"}),
    "mode": frozenset({"mode"}),
    "batch": frozenset({"name", "state"}),
}  # fmt: skip


def checked(row: Any, path: Path) -> Row:
    """The row, if it is one of a generation's journal.

    Raises:
        DataError: it is not.
    """
    if isinstance(row, dict):
        needed = _NEEDED.get(str(row.get("kind")))
        if needed is not None and row.keys() >= needed:
            known: Row = row
            return known
    raise DataError(
        f"{path}: not a row of this journal: {str(row)[:100]}",
        hint="--fresh moves the folder aside and starts anew",
    )


def identity(request: Request, kind: str, stamp: Mapping[str, Any]) -> Row:
    """The fields by which a journal row tells what it is about."""
    row = {
        "n": request.n,
        "kind": kind,
        **stamp,
        "request_hash": request.hash,
        "mode": request.mode,
        "shrink": request.shrink,
        "tasks": request.tasks,
        "demonstrations": list(request.demonstrations),
        **request.note,
    }
    return row | {"opening": request.opening} if request.opening else row


def reply_row(request: Request, reply: Reply, stamp: Mapping[str, Any]) -> Row:
    """The journal row of a reply."""
    return identity(request, "reply", stamp) | {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "usage": reply.usage,
        "tier": reply.tier,
        "limit_field": reply.limit_field,
    }

"""What the rows of a generation's journal come to: replies by request, and what they have cost.

    sent      an attempt goes out, with the most that it can be billed for
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
from alpaca_cli.data.spending import Most, Spending

Row = Mapping[str, Any]
CLOSING = ("reply", "failed", "lost")
KINDS = ("sent", *CLOSING, "mode", "batch")


class Ledger:
    """Takes the rows of one asker, in their order.

    Args:
        spending: counts what they have cost.

    Attributes:
        answers: the first `reply` or `failed` row of each request.
        mode: the mode of asking that the rows have arrived at, None for the first.
        limit_field: what the endpoint calls the bound on a reply's length, when it has answered.
        batches: the last row of each batch, by its name.
        killed: attempts that were in flight when a process was killed.
    """

    def __init__(self, spending: Spending) -> None:
        self.answers: dict[int, Row] = {}
        self.mode: str | None = None
        self.limit_field: str | None = None
        self.batches: dict[str, Row] = {}
        self.killed = 0
        self._spending = spending
        self._open: dict[int, list[Most]] = {}

    def take(self, row: Row) -> None:
        """Count one row."""
        kind = row["kind"]
        if kind == "sent":
            if row["attempt"] == 1:
                self._killed(row["n"])
            self._open.setdefault(row["n"], []).append(Most(*row["most"]))
        elif kind == "mode":
            self.mode = row["mode"]
        elif kind == "batch":
            self.batches[row["name"]] = row
        else:
            self._close(row)

    def _close(self, row: Row) -> None:
        sent = self._open.pop(row["n"], None)
        most = sent[-1] if sent else Most(0, 0)
        if "most" in row:  # of a batch, which is announced as a whole
            prompt, completion = row["most"]
            most = Most(prompt, completion, batch=True)
        if row["lost"]:
            self._spending.add_lost(most, row["lost"])
        if row["kind"] == "reply":
            self._spending.add_reply(most, row["usage"], row["tier"])
            self.limit_field = row["limit_field"] or self.limit_field
        if row["kind"] != "lost":
            self.answers.setdefault(row["n"], row)

    def _killed(self, n: int) -> None:
        for most in self._open.pop(n, []):
            self.killed += 1
            self._spending.add_lost(most)

    def finish(self) -> None:
        """Count what was in flight when the last process was killed."""
        for n in list(self._open):
            self._killed(n)


def checked(row: Any, path: Path) -> Row:
    """The row, if it is one of a generation's journal.

    Raises:
        DataError: it is not.
    """
    if isinstance(row, dict) and row.get("kind") in KINDS:
        numbered = row["kind"] not in ("mode", "batch")
        if isinstance(row.get("n"), int) or not numbered:
            return row
    raise DataError(f"{path}: not a row of this journal: {str(row)[:100]}")

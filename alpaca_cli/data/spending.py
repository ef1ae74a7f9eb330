"""What a run has cost, and a limit that it never passes.

Before a request is sent, its worst case is reserved; when its reply is there, what it did cost
takes the reservation's place. So even with every request in flight turning out as dear as it can,
the sum stays within the limit. Spending is summed over the journal, so it survives restarts; only
replies in flight at the instant of a `kill -9` are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alpaca_cli.core.errors import BudgetStop
from alpaca_cli.core.settings_generate import Price
from alpaca_cli.data.prompts import Request

MILLION = 1_000_000


class Spending:
    """USD spent, and reserved for requests in flight.

    Args:
        price: None when it is not known; then nothing is counted.
        limit: USD, or None.

    Attributes:
        spent: USD of everything journalled.
        guessed: replies without usage, counted at their worst case.
    """

    def __init__(self, price: Price | None, limit: float | None) -> None:
        self.price, self.limit = price, limit
        self.spent = 0.0
        self.guessed = 0
        self._reserved: dict[int, float] = {}

    def reserve(self, request: Request) -> bool:
        """Set the worst case of one attempt aside; False when the limit does not allow it."""
        if self.price is None:
            return True
        worst = self.worst_case(request)
        total = self.spent + sum(self._reserved.values()) + worst
        if self.limit is not None and total > self.limit:
            return False
        self._reserved[request.n] = self._reserved.get(request.n, 0.0) + worst
        return True

    def settle(self, request: Request, row: Mapping[str, Any] | None) -> None:
        """Replace what was reserved for a request by what its journal row has cost."""
        self._reserved.pop(request.n, None)
        if row is not None:
            self.add(request, row)

    def add(self, request: Request, row: Mapping[str, Any]) -> None:
        """Count a journal row; attempts that may have been billed count at their worst case."""
        if self.price is None:
            return
        self.spent += row.get("lost", 0) * self.worst_case(request)
        if row["kind"] == "reply":
            usage = row["usage"]
            if usage is None:
                self.guessed += 1
                self.spent += self.worst_case(request)
            else:
                self.spent += cost(self.price, usage)

    def worst_case(self, request: Request) -> float:
        """USD that one attempt can cost at most.

        A token is at least one byte of the prompt; the few that a chat template adds are far
        fewer than the bytes that longer tokens save.
        """
        if self.price is None:
            return 0.0
        sent, received = len(request.text.encode()), request.body.get("max_output_tokens", 0)
        return float(sent * self.price.input + received * self.price.output) / MILLION

    def exhausted(self) -> BudgetStop:
        """The error for a limit that does not allow another request."""
        return BudgetStop(
            f"generate.max_cost: ${self.spent:.4f} of ${self.limit:g} is spent, and one more "
            "request could pass it",
            hint="everything is kept; a higher --max-cost goes on from here",
        )


def cost(price: Price, usage: Mapping[str, int]) -> float:
    """USD of one reply; hidden reasoning is part of the completion tokens."""
    cached = usage.get("cached_tokens", 0)
    cached_price = price.input if price.cached_input is None else price.cached_input
    fresh = usage["prompt_tokens"] - cached
    total = fresh * price.input + cached * cached_price + usage["completion_tokens"] * price.output
    return total / MILLION

"""What a run has cost in dollars, tokens and requests, and limits that it never passes.

Before a request is sent, its worst case is reserved; when its reply is there, what it did cost
takes the reservation's place. So even with every request in flight turning out as dear as it can,
the sums stay within the limits. Sums are exact decimals: what a provider bills by the token is
not rounded here.

Who sends what, and the journal that the sums are rebuilt from, are not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from alpaca_cli.core.errors import BudgetStop
from alpaca_cli.core.settings_generate import Price

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Most:
    """The most that one attempt can be billed for, in tokens; `batch`: by the Batch API."""

    prompt: int
    completion: int
    batch: bool = False

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion


class Spending:
    """What is spent, and what is reserved for requests in flight.

    Args:
        price: None when it is not known; then no dollars are counted.
        usd, tokens, requests: the limits; None for none.
        name: the recipe's section, for messages.

    Attributes:
        spent: USD of everything journalled.
        tokens, requests: the same in tokens and attempts that were billed or may have been.
        guessed: attempts without usage, counted at their worst case.
    """

    def __init__(
        self,
        price: Price | None,
        *,
        usd: float | None = None,
        tokens: int | None = None,
        requests: int | None = None,
        name: str = "generate",
    ) -> None:
        self.price, self.name = price, name
        self.spent = Decimal(0)
        self.tokens = self.requests = self.guessed = 0
        self.limit = None if usd is None else Decimal(str(usd))
        self._most_tokens, self._most_requests = tokens, requests
        self._reserved_usd = Decimal(0)
        self._reserved_tokens = self._reserved_requests = 0

    def reserve(self, most: Most) -> bool:
        """Set the worst case of one attempt aside; False when a limit does not allow it."""
        if self._short_of(most) is not None:
            return False
        self._reserve(most, 1)
        return True

    def release(self, most: Most, attempts: int = 1) -> None:
        """Give back what was reserved for attempts."""
        self._reserve(most, -attempts)

    def _reserve(self, most: Most, attempts: int) -> None:
        self._reserved_usd += attempts * self.worst_case(most)
        self._reserved_tokens += attempts * most.tokens
        self._reserved_requests += attempts

    def add_lost(self, most: Most, attempts: int = 1) -> None:
        """Count attempts that may have been billed and whose usage is not known."""
        self.guessed += attempts
        self.requests += attempts
        self.tokens += attempts * most.tokens
        self.spent += attempts * self.worst_case(most)

    def add_reply(self, most: Most, usage: Mapping[str, int] | None, tier: str | None) -> None:
        """Count a reply; one without usage at its worst case."""
        if usage is None:
            self.add_lost(most)
            return
        self.requests += 1
        self.tokens += usage["prompt_tokens"] + usage["completion_tokens"]
        if self.price is not None:
            self.spent += cost(self.price, usage, "batch" if most.batch else tier)

    def worst_case(self, most: Most) -> Decimal:
        """USD that one attempt can cost at most.

        A request of the tier `flex` may be served, and billed, as an ordinary one.
        """
        if self.price is None:
            return Decimal(0)
        dearest = max(self.price.input, self.price.cache_write or 0, self.price.cached_input or 0)
        full = most.prompt * _exact(dearest) + most.completion * _exact(self.price.output)
        return full * (_exact(self.price.batch) if most.batch else 1) / MILLION

    def _short_of(self, most: Most) -> str | None:
        """The limit that does not allow another attempt, as its recipe key."""
        worst = self.worst_case(most)
        if self.limit is not None and self.spent + self._reserved_usd + worst > self.limit:
            return "max_cost"
        tokens = self.tokens + self._reserved_tokens + most.tokens
        if self._most_tokens is not None and tokens > self._most_tokens:
            return "max_tokens"
        requests = self.requests + self._reserved_requests + 1
        if self._most_requests is not None and requests > self._most_requests:
            return "max_requests"
        return None

    def exhausted(self, most: Most) -> BudgetStop:
        """The error for a limit that does not allow another attempt."""
        key = self._short_of(most)
        told = {
            "max_cost": f"${self.spent:.4f} of ${self.limit} is spent, and one more request "
            f"could cost ${self.worst_case(most):.4f}",
            "max_tokens": f"{self.tokens:,} of {self._most_tokens or 0:,} tokens are used, and "
            f"one more request could take {most.tokens:,}",
            "max_requests": f"{self.requests:,} requests are done",
        }[key or "max_requests"]
        flag = "--limit" if key == "max_requests" else f"--{(key or '').replace('_', '-')}"
        higher = f"a higher {self.name}.{key or 'max_requests'}"
        if self.name == "generate":  # `alpaca run` has no such flags
            higher += f" ({flag} of alpaca generate)"
        return BudgetStop(
            f"{self.name}.{key}: {told}",
            hint=f"everything is kept; {higher} goes on from here",
        )


def cost(price: Price, usage: Mapping[str, int], tier: str | None = None) -> Decimal:
    """USD of one reply, by the tier that it names (`batch` for the Batch API).

    Hidden reasoning is part of the completion tokens; tokens read from and written to a cache are
    parts of the prompt tokens.
    """
    cached, written = usage.get("cached_tokens", 0), usage.get("cache_write_tokens", 0)
    cached_price = price.input if price.cached_input is None else price.cached_input
    write_price = price.input if price.cache_write is None else price.cache_write
    total = (
        max(0, usage["prompt_tokens"] - cached - written) * _exact(price.input)
        + cached * _exact(cached_price)
        + written * _exact(write_price)
        + usage["completion_tokens"] * _exact(price.output)
    )
    share = {"batch": price.batch, "flex": price.flex}.get(tier or "", 1.0)
    return total * _exact(share) / MILLION


def _exact(price: float) -> Decimal:
    """The decimal that a person wrote: 0.1, not the binary fraction next to it."""
    return Decimal(str(price))

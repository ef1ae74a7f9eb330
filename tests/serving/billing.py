"""What the test server worked on, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from typing import Any

FIRST, STEP = 1024, 128  # tokens: the shortest prompt that is cached, and the steps beyond


@dataclass(frozen=True)
class Billed:
    """One request that was worked on, whether or not the answer reached anyone.

    Attributes:
        number: of the request in `server.asked`; of a batch's line, among all lines worked on.
        sha: of the body, as `Asked.sha`.
        cached_tokens, written_tokens: the part of `prompt_tokens` that was read from and written
            to the cache.
        tier: the `service_tier` that the reply names.
        custom_id: of a batch's line; None online.
        delivered: whether the whole body of the answer was handed to the socket. Answers to a
            batch never are: they lie in a file.
    """

    number: int
    path: str
    sha: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    written_tokens: int = 0
    tier: str | None = None
    custom_id: str | None = None
    delivered: bool = False

    @property
    def batch(self) -> bool:
        """Whether it came in a batch."""
        return self.custom_id is not None

    def cost(self, price: Mapping[str, float]) -> Decimal:
        """USD, exactly.

        Args:
            price: USD per million tokens of `input`, `output` and, where they are not the
                price of the input, `cached_input` and `cache_write`; shares `batch` and `flex`.
        """
        plain = self.prompt_tokens - self.cached_tokens - self.written_tokens
        parts = [
            (plain, price["input"]),
            (self.cached_tokens, price.get("cached_input", price["input"])),
            (self.written_tokens, price.get("cache_write", price["input"])),
            (self.completion_tokens, price["output"]),
        ]
        share = Decimal(1)
        if self.batch:
            share *= Decimal(str(price.get("batch", 1)))
        if self.tier == "flex":
            share *= Decimal(str(price.get("flex", 1)))
        return share * sum(tokens * Decimal(str(usd)) for tokens, usd in parts) / 1_000_000


def cost(ledger: Iterable[Billed], price: Mapping[str, float]) -> Decimal:
    """USD for all of it, exactly."""
    return sum((entry.cost(price) for entry in ledger), Decimal(0))


class PromptCache:
    """The prefixes of earlier prompts, in words."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def __call__(self, prompt: str) -> tuple[int, int]:
        """Tokens of the longest prefix that was there, and those that are there from now on."""
        tokens = prompt.split()
        found = length = 0
        for length in range(FIRST, len(tokens) + 1, STEP):
            key = sha256(" ".join(tokens[:length]).encode()).digest()
            if key in self._seen:
                found = length
            self._seen.add(key)
        return found, length - found


def usage(
    prompt: int, completion: int, cached: int | None, written: int | None, reasoning: int
) -> dict[str, Any]:
    """The `usage` of a reply; None where the server does not count."""
    told: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    counted = {"cached_tokens": cached, "cache_write_tokens": written}
    if details := {name: tokens for name, tokens in counted.items() if tokens is not None}:
        told["prompt_tokens_details"] = details
    if reasoning:
        told["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return told

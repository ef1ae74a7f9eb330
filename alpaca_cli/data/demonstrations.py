"""Which tasks a request shows: drawn by hashes of its number, never by timing or shared state.

Seed tasks come first; kept examples may stand beside them, as in self-instruct. Where the draw
depends on what a run has kept (examples of the pool, or seeds weighted by their yield), it sees
the pool as it was a fixed number of requests earlier, so that requests may be in flight together
and still are the same in every run.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.records import Example, example_from_row
from alpaca_cli.core.settings_generate import Demonstrations


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request: the tasks it showed and asked for, and how many were kept."""

    demonstrations: tuple[str, ...]
    asked: int
    kept: int


class History(Protocol):
    """The part of a pool that draws depend on."""

    @property
    def kept(self) -> Sequence[Mapping[str, Any]]: ...

    @property
    def outcomes(self) -> Sequence[Outcome]: ...


@dataclass
class _Seen:
    """What the first requests of a run have kept: a view that moves forward only."""

    requests: int = 0
    kept: int = 0
    asked_of: dict[str, int] = field(default_factory=dict)
    kept_of: dict[str, int] = field(default_factory=dict)


class Chooser:
    """Draws the demonstrations of request n.

    Args:
        seed: the recipe's `seed`.
        seeds: the seed tasks, each with its own id.

    Attributes:
        too_long: seed tasks that are never shown because of `max_words`.

    Raises:
        UsageError: every seed task is too long to be shown.
    """

    def __init__(self, settings: Demonstrations, seed: int, seeds: Sequence[Example]) -> None:
        self._settings, self._seed = settings, seed
        self._seeds = [example for example in seeds if _words(example) <= settings.max_words]
        self.too_long = len(seeds) - len(self._seeds)
        if seeds and not self._seeds and settings.seed:
            raise UsageError(
                f"generate.demonstrations.max_words: all {len(seeds)} seed tasks have more than "
                f"{settings.max_words} words",
                hint="raise it, or shorten the seeds",
            )
        self._seen = _Seen()

    def needs(self, n: int) -> int:
        """How many requests must have been judged before request n can be built."""
        return max(0, n - self._settings.window + 1) if self._settings.from_pool else 0

    def __call__(self, n: int, history: History) -> list[Example]:
        """The tasks that request n shows; n may not fall when draws depend on the pool."""
        if self._settings.from_pool:
            self._advance(self.needs(n), history)
        if self._settings.weighting == "yield":
            shown = heapq.nsmallest(
                self._settings.seed, self._seeds, key=lambda example: self._weighted(n, example)
            )
        else:
            # A hash, and not `random.sample`: its order is the same in every Python version.
            shown = heapq.nsmallest(
                self._settings.seed, self._seeds, key=lambda e: self._hash(f"{n}:{e.id}")
            )
        return shown + self._from_pool(n, history)

    def _hash(self, text: str) -> bytes:
        return blake2b(f"{self._seed}:{text}".encode(), digest_size=8).digest()

    def _number(self, text: str) -> int:
        return int.from_bytes(self._hash(text))

    def _weighted(self, n: int, example: Example) -> float:
        """Weighted sampling without replacement: the smallest -ln(u)/w. Source: Efraimidis and
        Spirakis 2006. The weight is the share of the tasks asked for with this seed that were
        kept, as if one more request had kept everything: so a new seed gets its chance."""
        name = str(example.id)
        uniform = (self._number(f"{n}:{name}") + 1) / 2**64
        asked, kept = self._seen.asked_of.get(name, 0), self._seen.kept_of.get(name, 0)
        return -math.log(uniform) * (asked + 20) / (kept + 20)

    def _from_pool(self, n: int, history: History) -> list[Example]:
        shown: dict[int, Example] = {}
        for draw in range(4 * self._settings.pool):
            if len(shown) == self._settings.pool or not self._seen.kept:
                break
            place = self._number(f"{n}:pool:{draw}") % self._seen.kept
            example = example_from_row(history.kept[place])
            if _words(example) <= self._settings.max_words:
                shown.setdefault(place, example)
        return list(shown.values())

    def _advance(self, requests: int, history: History) -> None:
        """Move the view to what the first `requests` requests have kept."""
        seen = self._seen
        for outcome in history.outcomes[seen.requests : requests]:
            seen.kept += outcome.kept
            for name in outcome.demonstrations:
                seen.asked_of[name] = seen.asked_of.get(name, 0) + outcome.asked
                seen.kept_of[name] = seen.kept_of.get(name, 0) + outcome.kept
        seen.requests = max(seen.requests, requests)


def _words(example: Example) -> int:
    return sum(len(text.split()) for text in (example.instruction, example.input, example.output))

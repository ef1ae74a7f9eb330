"""How much of an endpoint is used within its limits, on a clock that no one waits for.

Requests that are really sent within limits are in `tests/stages/test_generate_limits.py`.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import pytest

from alpaca_cli.data.limits import START, Limits, Sent, Told

TOKENS = 2000  # of every request


class Model(Protocol):
    """An endpoint; `ask` returns whether there is room, and else the rest that it asks for."""

    def ask(self, now: float) -> tuple[bool, float | None]: ...

    def done(self) -> None: ...

    def told(self, now: float) -> Mapping[str, Told]: ...


@dataclass
class Slots:
    """Works on so many requests at once, and tells nothing."""

    slots: Callable[[float], int]
    busy: int = 0

    def ask(self, now: float) -> tuple[bool, float | None]:
        free = self.busy < self.slots(now)
        self.busy += free
        return free, None

    def done(self) -> None:
        self.busy -= 1

    def told(self, now: float) -> Mapping[str, Told]:
        return {}


@dataclass
class LeakyBucket:
    """OpenAI's: so many a period, filling evenly; `each`: what a request takes."""

    capacity: float
    period: float = 60
    unit: str = "requests"
    each: float = 1
    level: float = math.nan
    at: float = 0

    def _level(self, now: float) -> float:
        flowed = (now - self.at) * self.capacity / self.period
        full = math.isnan(self.level)
        self.level = self.capacity if full else min(self.capacity, self.level + flowed)
        self.at = now
        return self.level

    def ask(self, now: float) -> tuple[bool, float | None]:
        if self._level(now) < self.each:
            return False, math.ceil((self.each - self.level) * self.period / self.capacity)
        self.level -= self.each
        return True, None

    def done(self) -> None: ...

    def told(self, now: float) -> Mapping[str, Told]:
        missing = self.capacity - self._level(now)
        reset = missing * self.period / self.capacity
        return {self.unit: Told(self.capacity, math.floor(self.level), reset)}


@dataclass
class FixedWindow:
    """So many from one full minute to the next; `rest`: whether it says how long to wait."""

    capacity: int
    period: float = 60
    rest: bool = True
    used: dict[int, int] = field(default_factory=dict)

    def ask(self, now: float) -> tuple[bool, float | None]:
        window = int(now // self.period)
        if self.used.get(window, 0) >= self.capacity:
            return False, (window + 1) * self.period - now if self.rest else None
        self.used[window] = self.used.get(window, 0) + 1
        return True, None

    def done(self) -> None: ...

    def told(self, now: float) -> Mapping[str, Told]:
        window = int(now // self.period)
        left = self.capacity - self.used.get(window, 0)
        return {"requests": Told(self.capacity, left, (window + 1) * self.period - now)}


class Simulation:
    """An asker that always wants more, as in `data.dispatch`, against a model of an endpoint.

    Args:
        seconds: when it ends.
        latency: of a reply, give or take a fifth; refusals take 0.05 s.
        told_late: quotas are those of the reply's time, and not of the request's.

    Attributes:
        replies, refused, sent: when.
    """

    def __init__(
        self,
        model: Model,
        limits: Limits,
        seconds: float,
        *,
        latency: float = 10,
        told_late: bool = False,
    ) -> None:
        self.replies: list[float] = []
        self.refused: list[float] = []
        self.sent: list[float] = []
        self._model, self._limits = model, limits
        self._latency, self._late = latency, told_late
        self._random, self._order = random.Random(1), count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._flying, self._wake = 0, math.inf
        self._launch(0)
        while self._events and self._events[0][0] < seconds:
            now, _, what = heapq.heappop(self._events)
            what(now)
            if what != self._awake or self._wake == math.inf:
                self._launch(now)

    @property
    def share_refused(self) -> float:
        return len(self.refused) / len(self.sent)

    def _later(self, at: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at, next(self._order), what))

    def _awake(self, now: float) -> None:
        if now == self._wake:  # else an earlier look was due meanwhile
            self._wake = math.inf

    def _launch(self, now: float) -> None:
        while self._flying < int(self._limits.limit):
            if (wait := self._limits.wait(now, TOKENS)) > 0:
                if now + wait < self._wake:
                    self._wake = now + wait
                    self._later(self._wake, self._awake)
                return
            self.sent.append(now)
            self._flying += 1
            self._send(now, self._limits.sent(now, TOKENS))

    def _send(self, now: float, sent: Sent) -> None:
        room, rest = self._model.ask(now)
        told = self._model.told(now)

        def replied(then: float) -> None:
            self._flying -= 1
            self._model.done()
            self.replies.append(then)
            news = self._model.told(then) if self._late else told
            self._limits.replied(then, sent, TOKENS, news)

        def refused(then: float) -> None:
            self._flying -= 1
            self.refused.append(then)
            self._limits.overloaded(then, self._flying, self._latency, rest, sent, told)

        if room:
            self._later(now + self._latency * self._random.uniform(0.8, 1.2), replied)
        else:
            self._later(now + 0.05, refused)


def limits_of(concurrency: int, rpm: int | None = None, tpm: int | None = None) -> Limits:
    return Limits(concurrency, rpm, tpm, random.Random(2))


@pytest.mark.parametrize("concurrency", [64, 256])
@pytest.mark.parametrize("latency", [1.0, 10.0])
def test_a_cap_that_is_not_told_is_found(concurrency: int, latency: float) -> None:
    got = Simulation(Slots(lambda now: 16), limits_of(concurrency), 1200, latency=latency)
    assert len(got.replies) >= 0.9 * 16 * 1200 / latency
    # The first round goes out before anything is known; after it, few are refused.
    assert len(got.refused) < min(concurrency, START) + 0.03 * len(got.sent)


def test_a_cap_that_falls_is_followed() -> None:
    got = Simulation(Slots(lambda now: 64 if now < 300 else 16), limits_of(64), 1800)
    assert len(got.replies) >= 0.93 * (64 * 300 + 16 * 1500) / 10
    assert got.share_refused < 0.03


def test_a_cap_that_rises_is_used() -> None:
    got = Simulation(Slots(lambda now: 16 if now < 300 else 64), limits_of(64), 1800)
    assert len(got.replies) >= 0.9 * (16 * 300 + 64 * 1500) / 10
    assert got.share_refused < 0.01


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("rpm", "latency"), [(60, 10.0), (500, 1.0)])
def test_a_told_bucket_of_requests_is_used_up(rpm: int, latency: float, late: bool) -> None:
    got = Simulation(LeakyBucket(rpm), limits_of(64), 1200, latency=latency, told_late=late)
    assert len(got.replies) >= 0.97 * rpm / 60 * (1200 - latency)
    assert got.share_refused < 0.03


@pytest.mark.parametrize("late", [False, True])
def test_a_told_bucket_of_tokens_is_used_up(late: bool) -> None:
    bucket = LeakyBucket(200_000, unit="tokens", each=2000)
    got = Simulation(bucket, limits_of(64), 1200, told_late=late)
    assert len(got.replies) >= 0.97 * (100 + 100 / 60 * 1190)
    assert got.share_refused < 0.03


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize(("rpm", "latency"), [(60, 10.0), (500, 1.0)])
def test_a_fixed_window_is_used_up(rpm: int, latency: float, rest: bool) -> None:
    got = Simulation(FixedWindow(rpm, rest=rest), limits_of(64), 1195, latency=latency)
    assert len(got.replies) >= 0.9 * rpm / 60 * 1200
    assert got.share_refused < 0.03


@pytest.mark.parametrize("model", [LeakyBucket(1000, 86_400), FixedWindow(1000, 86_400)])
def test_a_daily_quota_is_used_up_and_then_hardly_asked(model: Model) -> None:
    got = Simulation(model, limits_of(64), 7200)
    assert len(got.replies) >= 990
    assert len(got.refused) <= 3


@pytest.mark.parametrize(("rpm", "tpm"), [(60, None), (None, 120_000)])
def test_no_more_is_sent_than_the_recipe_allows(rpm: int | None, tpm: int | None) -> None:
    """Both allow one request of 2,000 tokens a second, and five seconds' worth at once."""
    got = Simulation(Slots(lambda now: 1000), limits_of(64, rpm, tpm), 1200)
    assert len(got.replies) >= 0.98 * 1190
    for first, sent in enumerate(got.sent):
        within = [at for at in got.sent[first : first + 100] if at < sent + 60 - 1e-6]
        assert len(within) <= 60 + 5

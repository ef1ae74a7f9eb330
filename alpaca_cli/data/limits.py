"""How fast requests may be sent: what the endpoint can take, what it says, what the recipe allows.

Three limits, all of which must agree before a request goes out: a number of requests in flight
that falls when the endpoint says "too many" and rises again with the replies: fast to where it
fell, slowly past it; quotas of requests and tokens per minute, from the recipe or told by the
endpoint in `x-ratelimit-…` headers; and a pause after every "too many".

Nothing is sent here and no clock is read: times are seconds on the caller's monotonic clock.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

START = 256  # in flight at first: more only as replies come, twice as many in each round trip
CUT = 0.8  # what a "too many" leaves of the limit; 0.8 kept more of a server busy than 0.5
BACK = 4  # round trips until the limit is again where it was cut
LONGEST_PAUSE = 60.0  # seconds, when the endpoint does not say how long


@dataclass(frozen=True, slots=True)
class Told:
    """One quota as an endpoint tells it in the headers of a reply.

    Attributes:
        limit, remaining: requests or tokens.
        reset: seconds until it is whole again.
    """

    limit: float
    remaining: float
    reset: float


def told_limits(headers: Mapping[str, str]) -> dict[str, Told]:
    """The quotas in a reply's headers, by what they count: `requests`, `tokens`.

    Source: OpenAI's `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`; a reset is a Go
    duration, or a plain number of seconds elsewhere.
    """
    found = {}
    for unit in ("requests", "tokens"):
        limit = _number(headers.get(f"x-ratelimit-limit-{unit}", ""))
        remaining = _number(headers.get(f"x-ratelimit-remaining-{unit}", ""))
        reset = go_duration(headers.get(f"x-ratelimit-reset-{unit}", ""))
        if limit is not None and remaining is not None and reset is not None and limit > 0:
            found[unit] = Told(limit, remaining, reset)
    return found


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,15}(\.\d+)?", text.strip()) else None


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s)")


def go_duration(text: str) -> float | None:
    """Seconds of `6m0s`, `1.5s`, `120ms` or a plain number; None for anything else."""
    text = text.strip()
    if (seconds := _number(text)) is not None:
        return seconds
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class Quota:
    """A bucket that requests take from and that fills at a steady rate.

    Args:
        capacity: what it holds at most.
        rate: what flows in per second.

    Attributes:
        taken: everything ever taken.
    """

    def __init__(self, capacity: float, rate: float) -> None:
        self.taken = 0.0
        self._capacity, self._rate = capacity, rate
        self._level, self._at = capacity, -math.inf
        self._newest = -1.0

    def wait(self, now: float, amount: float) -> float:
        """Seconds until so much may be taken; more than the bucket holds counts as all of it."""
        missing = min(amount, self._capacity) - self._now(now)
        return 0.0 if missing <= 1e-9 else missing / self._rate

    def take(self, now: float, amount: float) -> None:
        """Take an amount, which may be negative: what was estimated too high."""
        self._level = min(self._capacity, self._now(now) - amount)
        self.taken += amount

    def learn(self, now: float, told: Told, taken_then: float, seconds: float) -> None:
        """Correct the level by what the endpoint told with a reply.

        Args:
            taken_then: `taken` when that request was sent; the endpoint's figure is of that time.
            seconds: how long ago that was.

        The rate follows from the figures: what is missing flows in until the reset. So quotas per
        minute and per day are both understood.
        """
        if taken_then < self._newest:
            return  # a later request has told already
        self._newest = taken_then
        used = told.limit - told.remaining
        if used > 0 and told.reset > 0:
            self._rate = used / told.reset
        self._capacity = told.limit
        refilled = min(told.limit, told.remaining + self._rate * seconds)
        self._level, self._at = refilled - (self.taken - taken_then), now

    def _now(self, now: float) -> float:
        if self._at == -math.inf:
            self._at = now
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now
        return self._level


BURST = 5.0  # seconds' worth of a recipe's quota that may go out at once


@dataclass(frozen=True, slots=True)
class Sent:
    """What a request took when it was sent.

    Attributes:
        at: when.
        tokens: the estimate.
        taken: what the told quotas had given out before, by unit.
    """

    at: float
    tokens: float
    taken: Mapping[str, float]


class Limits:
    """All limits of one endpoint.

    Args:
        concurrency: the highest number of requests in flight.
        rpm, tpm: the recipe's quotas a minute.
        jitter: decides when something is sent, never what is kept.

    Attributes:
        limit: requests that may be in flight now.
        paused_until: nothing is sent before.
        overloads: how often the endpoint said "too many".
    """

    def __init__(
        self,
        concurrency: int,
        rpm: int | None = None,
        tpm: int | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self.limit = float(min(concurrency, START))
        self.paused_until = -math.inf
        self.overloads = 0
        self._ceiling = self._threshold = self._top = float(concurrency)
        self._trips = 0.0  # round trips since the limit was at the threshold
        self._hold_until = -math.inf
        self._rounds = 0  # cuts since the last reply
        self._own = {
            unit: Quota(max(1.0, quota * BURST / 60), quota / 60)
            for unit, quota in (("requests", rpm), ("tokens", tpm))
            if quota is not None
        }
        self._told: dict[str, Quota] = {}
        self._jitter = jitter or random.Random()

    def wait(self, now: float, tokens: float) -> float:
        """Seconds until a request of so many tokens may go out, in-flight requests apart."""
        amounts = {"requests": 1.0, "tokens": tokens}
        waits = [
            quota.wait(now, amounts[unit])
            for quotas in (self._own, self._told)
            for unit, quota in quotas.items()
        ]
        return max(0.0, self.paused_until - now, *waits)

    def sent(self, now: float, tokens: float) -> Sent:
        """Count a request that goes out now."""
        taken = {unit: quota.taken for unit, quota in self._told.items()}
        self._take(now, 1.0, tokens)
        return Sent(now, tokens, taken)

    def _take(self, now: float, requests: float, tokens: float) -> None:
        for quotas in (self._own, self._told):
            for unit, quota in quotas.items():
                quota.take(now, requests if unit == "requests" else tokens)

    def replied(self, now: float, sent: Sent, tokens: float, told: Mapping[str, Told]) -> None:
        """Count a reply: one more may be in flight, and the estimate is replaced by `tokens`."""
        self._rounds = 0
        if self.limit < self._threshold:
            self.limit += 1  # slow start: doubles in every round trip
        else:
            # CUBIC, RFC 9438, in round trips: flat around the limit at which it was too many.
            self._trips += 1 / self.limit
            grown = self._top * (1 + (1 - CUT) * (self._trips / BACK - 1) ** 3)
            self.limit = max(self.limit, grown)
        self.limit = min(self.limit, self._ceiling)
        self._take(now, 0.0, tokens - sent.tokens)
        self._learn(now, sent, told)

    def overloaded(
        self,
        now: float,
        in_flight: int,
        latency: float,
        wait: float | None,
        sent: Sent,
        told: Mapping[str, Told],
    ) -> None:
        """Take back a request for which the endpoint had no room.

        Args:
            in_flight: requests that it is still working on.
            latency: seconds that a reply usually takes; 0 when that is not known.
            wait: seconds of rest that it asked for.
        """
        self.overloads += 1
        self._take(now, 0.0, -sent.tokens)
        self._learn(now, sent, told)
        if now >= self._hold_until:
            if self._rounds == 0:  # else it is the same shortage as before the last pause
                self._cut(in_flight)
            self._rounds += 1
            self._hold_until = now + min(10.0, max(0.2, latency / 2))
        # What is still in flight is what the endpoint had room for.
        self.limit = max(1.0, min(self.limit, float(in_flight)))
        if wait is None and (resets := _until_reset(told, sent.tokens)):
            wait = resets
        if wait is None:
            usual = min(1.0, latency or 1.0) * 2.0 ** (self._rounds - 1)
            wait = self._jitter.uniform(0.5, 1) * min(LONGEST_PAUSE, usual)
        else:
            wait *= self._jitter.uniform(1, 1.1)
        self.paused_until = max(self.paused_until, now + wait)

    def _cut(self, in_flight: int) -> None:
        # What is in flight tells the room there is, unless it is little by chance.
        full = in_flight >= CUT * self.limit
        known = min(float(in_flight), self.limit)
        self._top = known if full else max(self.limit, self._threshold)
        self._threshold = self.limit = max(1.0, self._top * CUT)
        self._trips = 0.0

    def _learn(self, now: float, sent: Sent, told: Mapping[str, Told]) -> None:
        for unit, quota in told.items():
            if unit not in self._told:
                self._told[unit] = Quota(quota.limit, quota.limit / 60)
            taken = sent.taken.get(unit, 0.0)
            self._told[unit].learn(now, quota, taken, now - sent.at)


def _until_reset(told: Mapping[str, Told], tokens: float) -> float:
    """Seconds until the quotas that are used up are whole again; 0 when none is."""
    amounts = {"requests": 1.0, "tokens": tokens}
    return max(
        (quota.reset for unit, quota in told.items() if quota.remaining < amounts[unit]),
        default=0.0,
    )

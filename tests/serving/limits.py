"""Rate limits as OpenAI documents them: buckets that fill evenly, told in headers."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from tests.serving.wire import Fault, error


class Bucket:
    """So many a period, at any rate; full at first."""

    def __init__(self, capacity: int, period: float, now: float) -> None:
        self.capacity, self.rate = capacity, capacity / period
        self._level, self._at = float(capacity), now

    def level(self, now: float) -> float:
        """What can be taken."""
        self._level = min(self.capacity, self._level + (now - self._at) * self.rate)
        self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        """Take so much, or what there is."""
        self._level = max(0.0, self.level(now) - amount)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until so much can be taken."""
        return max(0.0, amount - self.level(now)) / self.rate


class Limiter:
    """Requests and tokens per minute.

    Args:
        minute: seconds that a minute has.
        clock: seconds, from anywhere.
    """

    def __init__(
        self,
        rpm: int | None,
        tpm: int | None,
        minute: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = {"requests": rpm, "tokens": tpm}
        self._clock, self._lock, now = clock, threading.Lock(), clock()
        self._buckets = {
            kind: Bucket(limit, minute, now) for kind, limit in limits.items() if limit is not None
        }

    def refusal(self, tokens: int) -> Fault | None:
        """Take one request and its tokens, or the 429 that says how long to wait."""
        wanted = {"requests": 1, "tokens": tokens}
        with self._lock:
            now = self._clock()
            waits = {kind: bucket.wait(wanted[kind], now) for kind, bucket in self._buckets.items()}
            refused = max(waits, key=lambda kind: waits[kind], default="")
            if not refused or waits[refused] <= 0:
                for kind, bucket in self._buckets.items():
                    bucket.take(wanted[kind], now)
                return None
            if refused == "tokens" and waits.get("requests") == 0:
                self._buckets["requests"].take(1, now)  # "unsuccessful requests contribute"
            bucket = self._buckets[refused]
            used = bucket.capacity - math.floor(bucket.level(now))
        short = "RPM" if refused == "requests" else "TPM"
        limit = f"on {refused} per min ({short}): Limit {bucket.capacity}"
        if wanted[refused] > bucket.capacity:
            message = (
                f"Request too large {limit}, Requested {wanted[refused]}. The input or output "
                "tokens must be reduced in order to run successfully."
            )
            return error(429, message, code="rate_limit_exceeded", kind=refused)
        wait = waits[refused]
        message = (
            f"Rate limit reached {limit}, Used {used}, Requested {wanted[refused]}. "
            f"Please try again in {duration(wait)}."
        )
        told = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
        return error(429, message, code="rate_limit_exceeded", kind=refused, headers=told)

    def headers(self) -> dict[str, str]:
        """What every reply tells of the limits that there are."""
        told = {}
        with self._lock:
            now = self._clock()
            for kind, bucket in self._buckets.items():
                told[f"x-ratelimit-limit-{kind}"] = str(bucket.capacity)
                told[f"x-ratelimit-remaining-{kind}"] = str(math.floor(bucket.level(now)))
                told[f"x-ratelimit-reset-{kind}"] = duration(bucket.wait(bucket.capacity, now))
        return told


def duration(seconds: float) -> str:
    """Seconds as Go prints them, rounded up to a millisecond: `120ms`, `7.66s`, `6m0s`."""
    thousandths = math.ceil(seconds * 1000 - 1e-6)
    if thousandths < 1000:
        return f"{thousandths}ms"
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text

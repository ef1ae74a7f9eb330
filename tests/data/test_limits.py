"""Limits of sending, in literal figures.

Whole endpoints are simulated in `tests/data/test_limits_simulated.py`.
"""

from __future__ import annotations

import random

import pytest

from alpaca_cli.data.limits import Limits, Quota, Told, go_duration, told_limits

# --- what is told ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360), ("1h2m3s", 3723), ("7.66s", 7.66), ("120ms", 0.12), ("250us", 0.00025),
        ("8µs", 8e-6), ("5ns", 5e-9), ("60", 60), ("0.5", 0.5), (" 1s ", 1), ("0s", 0),
        ("", None), ("soon", None), ("-1s", None), ("1s ago", None), ("1 s", None), ("s", None),
        ("1d", None), ("nan", None), ("inf", None), ("1e3", None),
    ],
)  # fmt: skip
def test_go_duration(text: str, seconds: float | None) -> None:
    assert go_duration(text) == (None if seconds is None else pytest.approx(seconds))


def test_told_limits() -> None:
    headers = {
        "x-ratelimit-limit-requests": "5000",
        "x-ratelimit-remaining-requests": "4999",
        "x-ratelimit-reset-requests": "12ms",
        "x-ratelimit-limit-tokens": "2000000",
        "x-ratelimit-remaining-tokens": "1998000.5",
        "x-ratelimit-reset-tokens": "1m0.5s",
    }
    assert told_limits(headers) == {
        "requests": Told(5000, 4999, 0.012),
        "tokens": Told(2_000_000, 1_998_000.5, 60.5),
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"x-ratelimit-limit-requests": "0"},
        {"x-ratelimit-limit-requests": "many"},
        {"x-ratelimit-limit-requests": ""},
        {"x-ratelimit-remaining-requests": "-1"},
        {"x-ratelimit-reset-requests": "tomorrow"},
        {"x-ratelimit-limit-requests": "9" * 400},
    ],
)
def test_a_quota_that_makes_no_sense_is_none(changed: dict[str, str]) -> None:
    headers = {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "1s",
    }
    assert set(told_limits(headers)) == {"requests"}
    assert told_limits(headers | changed) == {}


# --- one bucket -----------------------------------------------------------------------------------


def test_a_quota_gives_what_it_holds_and_then_what_flows_in() -> None:
    quota = Quota(capacity=3, rate=0.5)
    for _ in range(3):
        assert quota.wait(100, 1) == 0
        quota.take(100, 1)
    assert quota.wait(100, 1) == 2
    assert quota.wait(101, 1) == 1
    assert quota.wait(102, 1) == 0
    quota.take(102, 1)
    assert quota.wait(103, 2) == 3
    quota.take(103, -1)
    assert quota.wait(103, 2) == 1, "what was taken too much is given back"
    assert quota.taken == 3
    assert quota.wait(1e6, 3) == 0
    assert quota.wait(1e6, 100) == 0, "more than it holds is all of it: else it never could go"


def test_a_quota_learns_level_and_pace() -> None:
    quota = Quota(capacity=60, rate=1)
    quota.take(0, 1)  # the request that brings the news
    quota.take(1, 1)
    quota.learn(2, Told(limit=10, remaining=4, reset=3), taken_then=1, seconds=2)
    # 4 were left; in 2 s 2 · 6/3 flowed in; since then one went out.
    assert quota.wait(2, 7) == 0
    assert quota.wait(2, 9) == pytest.approx(1)
    assert quota.wait(2, 99) == pytest.approx(1.5), "it holds 10 now"


def test_a_quota_of_a_day_fills_as_slowly() -> None:
    quota = Quota(capacity=1000, rate=1000 / 60)
    quota.take(0, 1)
    quota.learn(1, Told(limit=1000, remaining=0, reset=36_000), taken_then=1, seconds=0)
    assert quota.wait(1, 1) == pytest.approx(36)
    assert quota.wait(1, 1000) == pytest.approx(36_000)


def test_older_news_do_not_count() -> None:
    quota = Quota(capacity=100, rate=1)
    quota.take(0, 2)
    quota.learn(1, Told(100, 50, 50), taken_then=2, seconds=0)
    quota.learn(1, Told(100, 99, 1), taken_then=1, seconds=0)
    assert quota.wait(1, 51) == pytest.approx(1)


# --- the number in flight -------------------------------------------------------------------------


def reply(limits: Limits, now: float, times: int = 1) -> None:
    for _ in range(times):
        limits.replied(now, limits.sent(now, 0), 0, {})


def overload(limits: Limits, now: float, in_flight: int, wait: float | None = None) -> None:
    limits.overloaded(now, in_flight, 10.0, wait, limits.sent(now, 0), {})


def test_more_than_a_few_are_reached_in_round_trips() -> None:
    assert Limits(8).limit == 8
    limits = Limits(1024)
    seen = [limits.limit]
    while limits.limit < 1024:
        reply(limits, 1, times=int(limits.limit))
        seen.append(limits.limit)
    assert seen == [256, 512, 1024]
    reply(limits, 1, times=500)
    assert limits.limit == 1024


def test_too_many_cuts_once_in_a_while_and_comes_back() -> None:
    limits = Limits(20)
    overload(limits, 100, in_flight=19)
    assert limits.limit == pytest.approx(0.8 * 19)
    overload(limits, 100, in_flight=18)
    assert limits.limit == pytest.approx(0.8 * 19), "the same burst is cut once"
    overload(limits, 101, in_flight=10)
    assert limits.limit == 10, "what is still in flight is what there was room for"
    assert limits.overloads == 3
    trips = 0
    while limits.limit < 18.9:
        reply(limits, 200, times=int(limits.limit))
        trips += 1
    assert 3 <= trips <= 5
    reply(limits, 200, times=20)
    assert limits.limit < 19.2, "near the limit that was too many it goes slowly"
    reply(limits, 200, times=100)
    assert limits.limit == 20, "and then on to the recipe's"


def test_it_pauses_as_long_as_it_is_told() -> None:
    limits = Limits(20, jitter=random.Random(0))
    overload(limits, 100, in_flight=5, wait=7)
    assert 7 <= limits.wait(100, 0) <= 7.7
    assert limits.wait(108, 0) == 0


def test_it_pauses_longer_and_longer_when_it_is_told_nothing() -> None:
    limits = Limits(20, jitter=random.Random(0))
    now, pauses = 0.0, []
    for _ in range(9):
        overload(limits, now, in_flight=0)
        pauses.append(limits.wait(now, 0))
        now += 100
    for pause, full in zip(pauses, (1, 2, 4, 8, 16, 32, 60, 60, 60), strict=True):
        assert full / 2 <= pause <= full
    reply(limits, now)
    overload(limits, now, in_flight=0)
    assert limits.wait(now, 0) <= 1, "a reply forgives"
    assert limits.limit >= 1


def test_a_used_up_quota_tells_the_pause_when_nothing_else_does() -> None:
    limits = Limits(20)
    told = {"requests": Told(100, 0, 40), "tokens": Told(9000, 9000, 0)}
    limits.overloaded(0, 3, 1.0, None, limits.sent(0, 10), told)
    assert 40 <= limits.wait(0, 10) <= 44


def test_the_estimate_of_tokens_is_replaced_by_what_they_were() -> None:
    limits = Limits(20, tpm=6000)  # 500 at once, then 100 a second
    sent = limits.sent(0, 500)
    assert limits.wait(0, 100) == pytest.approx(1)
    limits.replied(0, sent, 100, {})
    assert limits.wait(0, 100) == 0
    sent = limits.sent(0, 400)
    limits.overloaded(0, 1, 1.0, 0.0, sent, {})
    assert limits.wait(0, 400) == 0, "a request for which there was no room has used nothing"

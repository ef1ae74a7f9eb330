"""What replies cost, exactly; and limits that hold however the requests in flight turn out."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.settings_generate import Price
from alpaca_cli.data.spending import Most, Spending, cost

PRICE = Price(input=2, cached_input=0.5, cache_write=2.5, output=8, batch=0.5, flex=0.4)


@pytest.mark.parametrize(
    ("usage", "tier", "usd"),
    [
        ({"prompt_tokens": 1_000_000, "completion_tokens": 0}, None, "2"),
        ({"prompt_tokens": 1, "completion_tokens": 1}, None, "0.00001"),
        ({"prompt_tokens": 1000, "completion_tokens": 100}, "default", "0.0028"),
        ({"prompt_tokens": 1000, "completion_tokens": 100}, "flex", "0.00112"),
        ({"prompt_tokens": 1000, "completion_tokens": 100}, "batch", "0.0014"),
        ({"prompt_tokens": 1000, "completion_tokens": 100, "cached_tokens": 800}, None, "0.0016"),
        (
            {
                "prompt_tokens": 1000,
                "completion_tokens": 100,
                "cached_tokens": 200,
                "cache_write_tokens": 300,
            },
            None,
            "0.00265",
        ),
        # Hidden reasoning is part of the completion, not something besides.
        (
            {"prompt_tokens": 0, "completion_tokens": 100, "reasoning_tokens": 90},
            "priority",
            "0.0008",
        ),
    ],
)
def test_the_cost_of_a_reply(usage: dict[str, int], tier: str | None, usd: str) -> None:
    assert cost(PRICE, usage, tier) == Decimal(usd)


def test_cached_tokens_cost_the_input_price_when_no_other_is_known() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 0, "cached_tokens": 9}
    assert cost(Price(input=3, output=1), usage) == Decimal("0.00003")


def test_sums_are_exact() -> None:
    spending = Spending(Price(input=0.1, output=0.2), usd=1)
    for _ in range(1000):
        spending.add_reply(Most(1, 1), {"prompt_tokens": 1, "completion_tokens": 1}, None)
    assert spending.spent == Decimal("0.0003")


def test_a_limit_is_reached_to_the_last_token_and_not_passed() -> None:
    most = Most(100, 900)
    caps_for_three: list[dict[str, Any]] = [{"usd": 0.003}, {"tokens": 3000}, {"requests": 3}]
    for limits in caps_for_three:
        spending = Spending(Price(input=1, output=1), **limits)
        assert [spending.reserve(most) for _ in range(4)] == [True, True, True, False]
        spending.release(most)
        assert spending.reserve(most), "what is given back can be taken again"


def test_what_a_reply_has_cost_takes_the_place_of_its_worst_case() -> None:
    spending = Spending(Price(input=1, output=1), tokens=2000)
    most = Most(100, 900)
    assert spending.reserve(most)
    assert spending.reserve(most)
    spending.release(most)
    spending.add_reply(most, {"prompt_tokens": 100, "completion_tokens": 0}, None)
    assert not spending.reserve(most)
    spending.release(most)
    spending.add_reply(most, None, None)
    assert (spending.tokens, spending.requests, spending.guessed) == (1100, 2, 1)
    assert spending.reserve(Most(0, 900))


@pytest.mark.parametrize(
    ("limits", "message", "hint"),
    [
        ({"usd": 0.001}, r"generate\.max_cost: \$0\.0000 of \$0\.001 .* \$0\.0019", "-cost"),
        ({"tokens": 500}, r"generate\.max_tokens: 0 of 500 tokens .* could take 1,000", "-tokens"),
        ({"requests": 0}, r"generate\.max_requests: 0 requests are done", "--limit"),
    ],
)  # fmt: skip
def test_which_limit_it_was_is_told(limits: dict[str, Any], message: str, hint: str) -> None:
    spending = Spending(Price(input=1, output=2), **limits)
    most = Most(100, 900)
    assert not spending.reserve(most)
    with pytest.raises(Exception, match=message) as raised:
        raise spending.exhausted(most)
    assert hint in str(getattr(raised.value, "hint", ""))


tokens = st.integers(0, 5000)
prices = st.builds(
    Price,
    input=st.sampled_from([0, 0.1, 0.15, 3, 15.0]),
    cached_input=st.sampled_from([None, 0, 0.075, 20]),
    cache_write=st.sampled_from([None, 0, 3.75]),
    output=st.sampled_from([0, 0.6, 1e-7, 75]),
    batch=st.sampled_from([1.0, 0.5]),
    flex=st.sampled_from([1.0, 0.5]),
)
caps = st.fixed_dictionaries(
    {},
    optional={
        "usd": st.floats(1e-6, 0.5),
        "tokens": st.integers(0, 50_000),
        "requests": st.integers(0, 10),
    },
)


@given(prices, caps, st.lists(st.tuples(tokens, tokens), max_size=30), st.integers(0, 2**32))
def test_no_order_of_events_passes_a_limit(
    price: Price, limits: dict[str, Any], requests: list[tuple[int, int]], seed: int
) -> None:
    """A biller counts by itself; each reply costs up to its worst case, some are lost."""
    chance = random.Random(seed)
    spending = Spending(price, **limits)
    billed_usd, billed_tokens, billed_requests = Decimal(0), 0, 0
    flying: list[Most] = []
    for prompt, completion in requests:
        if flying and chance.random() < 0.5:
            most = flying.pop(chance.randrange(len(flying)))
            spending.release(most)
            fate = chance.choice(["reply", "reply", "no usage", "lost", "refused"])
            if fate == "refused":
                continue
            cached = chance.randint(0, most.prompt)
            usage = {
                "prompt_tokens": most.prompt,
                "completion_tokens": chance.choice([most.completion, most.completion // 3]),
                "cached_tokens": cached,
                "cache_write_tokens": chance.randint(0, most.prompt - cached),
            }
            tier = chance.choice([None, "flex", "default"])
            billed_usd += cost(price, usage, tier)
            billed_tokens += most.prompt + usage["completion_tokens"]
            billed_requests += 1
            if fate == "lost":
                spending.add_lost(most)
            else:
                spending.add_reply(most, None if fate == "no usage" else usage, tier)
        most = Most(prompt, completion)
        if spending.reserve(most):
            flying.append(most)
        # Every request in flight may yet turn out as dear as it can.
        usd = billed_usd + sum(map(spending.worst_case, flying))
        assert "usd" not in limits or usd <= Decimal(str(limits["usd"]))
        due = billed_tokens + sum(most.tokens for most in flying)
        assert "tokens" not in limits or due <= limits["tokens"]
        assert "requests" not in limits or billed_requests + len(flying) <= limits["requests"]
    assert spending.spent >= billed_usd
    assert spending.tokens >= billed_tokens

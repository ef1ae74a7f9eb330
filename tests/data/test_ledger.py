"""What the rows of a journal come to, wherever a process was killed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.settings_generate import Price
from alpaca_cli.data.ledger import Ledger, checked
from alpaca_cli.data.spending import Spending

USAGE = {"prompt_tokens": 10, "completion_tokens": 5}
Row = dict[str, Any]


def sent(n: int, attempt: int = 1, lost: int = 0, most: tuple[int, int] = (40, 60)) -> Row:
    return {"kind": "sent", "n": n, "attempt": attempt, "lost": lost, "most": list(most)}


def reply(n: int, lost: int = 0, usage: Row | None = USAGE) -> Row:
    told = {"usage": usage, "tier": None, "limit_field": "max_tokens", "text": "x"}
    return {"kind": "reply", "n": n, "lost": lost, **told}


def closing(kind: str, n: int, lost: int = 0) -> Row:
    return {"kind": kind, "n": n, "lost": lost, "text": ""}


def taken(*rows: Row) -> tuple[Ledger, Spending]:
    spending = Spending(Price(input=1, output=1))
    ledger = Ledger(spending)
    for row in rows:
        ledger.take(row)
    ledger.finish()
    return ledger, spending


@pytest.mark.parametrize(
    ("rows", "requests", "tokens", "killed"),
    [
        ([], 0, 0, 0),
        ([sent(0), reply(0)], 1, 15, 0),
        ([sent(0), reply(0, usage=None)], 1, 100, 0),
        # Refused, or given up after "too many requests": nothing was worked on.
        ([sent(0), closing("failed", 0)], 0, 0, 0),
        ([sent(0), sent(0, 2), sent(0, 3), reply(0)], 1, 15, 0),
        ([sent(0), sent(0, 2, lost=1), reply(0, lost=1)], 2, 115, 0),
        ([sent(0), closing("lost", 0, lost=1)], 1, 100, 0),
        # In flight when the process was killed.
        ([sent(0), sent(1), reply(1)], 2, 115, 1),
        ([sent(0), sent(0, 2), sent(0, 3)], 1, 100, 1),
        ([sent(0), sent(0, 2, lost=1), sent(0, 3, lost=2)], 3, 300, 1),
        # Killed, and asked again by the next process; killed again.
        ([sent(0), sent(0), reply(0)], 2, 115, 1),
        ([sent(0), sent(0), sent(0), sent(0, 2, lost=1)], 4, 400, 3),
        # Made smaller after a refusal: what was lost may have been the dearest.
        ([sent(0), sent(0, 2, 1, (20, 30)), reply(0, lost=1)], 2, 115, 0),
        ([sent(0), sent(0, 2, 1, (20, 30))], 2, 200, 1),
    ],
)
def test_what_rows_come_to(rows: list[Row], requests: int, tokens: int, killed: int) -> None:
    ledger, spending = taken(*rows)
    assert (spending.requests, spending.tokens, ledger.killed) == (requests, tokens, killed)
    assert spending.spent * 1_000_000 == tokens


def test_the_first_answer_counts_and_every_one_is_paid() -> None:
    second = reply(3) | {"text": "second"}
    ledger, spending = taken(sent(3), reply(3), sent(3), second)
    assert ledger.answers[3]["text"] == "x"
    assert spending.requests == 2


def test_what_was_found_out_about_the_endpoint_is_remembered() -> None:
    ledger, _ = taken(
        sent(0),
        {"kind": "mode", "mode": "json_object", "why": "400"},
        sent(0, 2),
        {"kind": "mode", "mode": "text", "why": "400"},
        sent(0, 3),
        reply(0),
        sent(1),
        reply(1) | {"limit_field": None},
    )
    assert ledger.limit_field == "max_tokens"
    assert set(ledger.answers) == {0, 1}


def test_the_last_word_on_a_batch_counts() -> None:
    submitted = {"kind": "batch", "name": "b1", "state": "submitted"}
    ledger, spending = taken(submitted, submitted | {"state": "done"})
    assert ledger.batches == {"b1": submitted | {"state": "done"}}
    assert spending.requests == 0


@pytest.mark.parametrize("row", [None, 5, [], {}, {"kind": "news"}, {"kind": "reply"}, {"n": 1}])
def test_what_is_no_row_is_refused(row: Any) -> None:
    with pytest.raises(DataError, match=r"journal\.jsonl: not a row of this journal"):
        checked(row, Path("journal.jsonl"))


def lives(chance: random.Random) -> tuple[list[Row], int]:
    """The rows of some processes, each killed but the last, and the attempts really billed."""
    rows: list[Row] = []
    answered: set[int] = set()
    billed = 0
    for _ in range(chance.randint(1, 4)):
        flying: dict[int, tuple[int, int]] = {}  # attempts and lost ones
        for _ in range(chance.randint(0, 12)):
            n = chance.randint(0, 4)
            attempts, lost = flying.get(n, (0, 0))
            if n in answered:
                continue
            if attempts == 0:
                flying[n] = 1, 0
                rows.append(sent(n))
                continue
            fate = chance.choice(["reply", "lost reply", "busy", "failed", "given up"])
            billed += fate in ("reply", "lost reply")
            lost += fate == "lost reply"
            if fate in ("lost reply", "busy"):
                flying[n] = attempts + 1, lost
                rows.append(sent(n, attempts + 1, lost))
                continue
            kind = {"reply": "reply", "failed": "failed"}.get(fate, "lost")
            rows.append(reply(n, lost) if kind == "reply" else closing(kind, n, lost))
            answered |= {n} if kind != "lost" else set()
            del flying[n]
        billed += sum(chance.random() < 0.5 for _ in flying)  # killed with these under way
    return rows, billed


@given(st.integers(0, 2**32))
def test_never_less_than_was_billed(seed: int) -> None:
    rows, billed = lives(random.Random(seed))
    _, spending = taken(*rows)
    assert spending.requests >= billed
    in_flight = sum(row["kind"] == "sent" and row["attempt"] == 1 for row in rows)
    assert spending.requests <= billed + in_flight, "at most one attempt of each ask is in doubt"

"""Gates: how they are written, which figures they find, and what they say when one fails."""

from __future__ import annotations

from typing import Any

import pytest

from alpaca_cli.core.errors import UsageError
from alpaca_cli.stages.eval_gates import check_gates, parse_gates, refuse

REPORT: dict[str, Any] = {
    "model": "train/final",
    "exact_match": 0.61,
    "exact_match_interval": [0.5, 0.7],
    "rouge_l": None,
    "by_family": {"sort": {"exact_match": 0.4, "n": 10}},
    "pairwise": {"gpt-4.1": {"win_rate": 0.2}, "gpt-4": {"win_rate": 0.9}},
}


def passed(*texts: str) -> list[bool]:
    return [each["passed"] for each in check_gates(parse_gates(texts, REPORT), REPORT)]


def test_comparisons_and_paths() -> None:
    assert passed("exact_match >= 0.61", "exact>=0.6", "exact_match < .61e1") == [True] * 3
    assert passed("exact_match > 0.61", "exact_match <= 0.5", "exact_match == 0") == [False] * 3
    assert passed("by_family.sort.exact_match>=0.4", "by_family.sort.n == 10") == [True] * 2
    assert passed("exact_match_interval.0 >= 0.5", "exact_match_interval.1 < 0.7") == [True, False]
    assert passed("pairwise.gpt-4.1.win_rate < 0.5", "pairwise.gpt-4.win_rate > 0.5") == [True] * 2
    assert passed("exact_match >= -1") == [True]


def test_what_was_not_measured_does_not_pass() -> None:
    [result] = check_gates(parse_gates(["rouge_l >= 0"], REPORT), REPORT)
    assert (result["value"], result["passed"]) == (None, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exact_match", "is no comparison"),
        ("exact_match => 1", "is no comparison"),
        ("exact_match >= a lot", "is no comparison"),
        ("exact_mach >= 1", 'no figure "exact_mach", did you mean "exact_match"'),
        ("by_family.sortt.n > 1", 'no figure "sortt.n", did you mean "sort"'),
        ("by_family.sort > 1", "by_family.sort is not a single number"),
        ("model > 1", "model is not a single number"),
        ("exact_match.x > 1", 'nothing below that number to call "x"'),
        ("exact_match_interval.2 > 1", 'no figure "2"'),
    ],
)
def test_a_gate_on_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        passed(text)


def test_the_error_lists_every_gate() -> None:
    gates = parse_gates(["exact >= 0.5", "rouge_l >= 0.5", "exact >= 0.7"], REPORT)
    error = refuse(check_gates(gates, REPORT))
    assert error is not None
    assert str(error).splitlines()[0] == "2 of 3 gates failed:"
    assert [line.split()[-1] for line in str(error).splitlines()[1:]] == [
        "passed", "FAILED", "FAILED",
    ]  # fmt: skip
    assert "not measured" in str(error)
    assert refuse(check_gates(gates[:1], REPORT)) is None

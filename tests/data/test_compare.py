"""Comparison: intervals and p against published figures and exact sums, and what is compared."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.intervals import wilson_interval
from alpaca_cli.core.records import Example
from alpaca_cli.core.stats_report import (
    Change,
    Comparison,
    Distribution,
    Group,
    LintRule,
    Report,
    report_from,
)
from alpaca_cli.data.compare import (
    PAIR_RULES,
    compare,
    difference_interval,
    exact_p,
    holm,
)
from alpaca_cli.data.lint import lint
from tests.data.reports import make_report, synthetic_rows

REPORT = make_report(synthetic_rows(600), verdict=False)
assert REPORT.tokens is not None
assert REPORT.contamination is not None


def by_figure(found: Comparison) -> dict[str, Change]:
    changes = {change.figure: change for change in found.changes}
    assert len(changes) == len(found.changes)
    return changes


def with_rule(report: Report, rule: str, count: int) -> Report:
    share = round(count / report.examples, 6)
    return replace(report, lint={**report.lint, rule: LintRule("warning", "", count, share, [])})


# Newcombe (1998), table II, method 10: a, b, m, n as printed, and the limits.
NEWCOMBE = [
    ((56, 70), (48, 80), 0.0524, 0.3339),
    ((9, 10), (3, 10), 0.1705, 0.8090),
    ((6, 7), (2, 7), 0.0582, 0.8062),
    ((5, 56), (0, 29), -0.0381, 0.1926),
    ((0, 10), (0, 20), -0.1611, 0.2775),
    ((0, 10), (0, 10), -0.2775, 0.2775),
    ((10, 10), (0, 20), 0.6791, 1.0000),
    ((10, 10), (0, 10), 0.6075, 1.0000),
]


@pytest.mark.parametrize(("first", "second", "low", "high"), NEWCOMBE)
def test_intervals_are_the_published_ones(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    found = difference_interval(second, first)
    assert [round(end, 4) for end in found] == [low, high]


def test_wilson_solves_its_equation() -> None:
    # The ends are where |p̂ - p| is 1.96 standard errors *of p*.
    for count, total in ((1, 29), (15, 148), (81, 263), (199, 200)):
        for end in wilson_interval(count, total):
            error = math.sqrt(end * (1 - end) / total)
            assert abs(count / total - end) == pytest.approx(1.959964 * error, rel=1e-5)
    assert wilson_interval(0, 20)[0] == 0
    assert wilson_interval(20, 20)[1] == 1


def fisher_by_sums(before: tuple[int, int], after: tuple[int, int]) -> Fraction:
    """The definition in exact fractions."""
    hits, everything = before[0] + after[0], before[1] + after[1]
    table = {
        k: Fraction(
            math.comb(before[1], k) * math.comb(after[1], hits - k), math.comb(everything, hits)
        )
        for k in range(max(0, hits - after[1]), min(hits, before[1]) + 1)
    }
    return sum((p for p in table.values() if p <= table[before[0]]), Fraction(0))


def test_fisher_on_his_tea_tasting() -> None:
    # R: fisher.test(matrix(c(3, 1, 1, 3), 2)) and scipy's documentation of fisher_exact.
    assert exact_p((3, 4), (1, 4)) == pytest.approx(0.4857142857)
    assert exact_p((8, 10), (1, 6)) == pytest.approx(0.0349650350)


@given(
    totals=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    parts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_p_is_the_exact_sum(totals: tuple[int, int], parts: tuple[float, float]) -> None:
    before, after = ((round(p * n), n) for p, n in zip(parts, totals, strict=True))
    expected = float(fisher_by_sums(before, after))
    assert exact_p(before, after) == pytest.approx(expected, rel=1e-9)
    assert exact_p(after, before) == pytest.approx(expected, rel=1e-9)


def test_p_of_large_sets_is_near_the_normal_one() -> None:
    before, after = (5_200, 52_000), (5_400, 52_000)
    pooled = 10_600 / 104_000
    z = (200 / 52_000) / math.sqrt(pooled * (1 - pooled) * 2 / 52_000)
    assert exact_p(before, after) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.05)
    assert exact_p((0, 52_000), (26_000, 52_000)) == 0.0


def test_holm_as_worked_by_hand() -> None:
    # 0.01·4, 0.013·3 (raised to the one before), 0.02·2 (the same), 0.9·1
    assert holm([0.02, 0.9, 0.01, 0.013]) == pytest.approx([0.04, 0.9, 0.04, 0.04])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_two_equal_sets_have_not_moved() -> None:
    found = compare(REPORT, REPORT)
    assert found.source == REPORT.source
    assert found.examples == 600
    assert found.changes
    assert all(change.difference == 0 and not change.moved for change in found.changes)
    assert {change.p for change in found.changes} == {None, 1.0}


def test_a_planted_change_is_found_first_and_alone() -> None:
    before = with_rule(REPORT, "refusal", 30)
    found = compare(with_rule(REPORT, "refusal", 75), before)
    first, *others = found.changes
    assert (first.figure, first.before, first.after) == ("lint.refusal.share", 0.05, 0.125)
    assert first.moved
    assert first.difference == 0.075
    low, high = difference_interval((30, 600), (75, 600))
    assert (first.low, first.high) == (round(low, 6), round(high, 6))
    tested = sum(change.p is not None for change in found.changes)
    assert first.p == pytest.approx(tested * exact_p((30, 600), (75, 600)))
    assert not any(change.moved for change in others)


def test_the_order() -> None:
    after = with_rule(with_rule(REPORT, "refusal", 200), "truncated", 60)
    after = replace(after, with_input_share=0.35, with_input=210)
    changes = compare(after, REPORT).changes
    kinds = [(not change.moved, change.p is None) for change in changes]
    assert kinds == sorted(kinds)
    assert [change.figure for change in changes if change.moved] == [
        "lint.refusal.share",
        "lint.truncated.share",
    ]
    assert changes[2].figure == "with_input_share"


def test_what_is_nowhere_is_left_out() -> None:
    nowhere = [rule for rule, found in REPORT.lint.items() if not found.count]
    assert nowhere
    changes = by_figure(compare(REPORT, REPORT))
    for rule in nowhere:
        assert f"lint.{rule}.share" not in changes
    some = by_figure(compare(with_rule(REPORT, nowhere[0], 1), REPORT))
    assert some[f"lint.{nowhere[0]}.share"].p == 1.0


def distribution(mean: float, sd: float, count: int) -> Distribution:
    return Distribution(
        count, mean * count, mean, sd, mean, mean, mean, mean, mean, mean, mean, mean, []
    )


def with_output_words(found: Distribution) -> Report:
    lengths = replace(REPORT.lengths["output"], words=found)
    return replace(REPORT, lengths={**REPORT.lengths, "output": lengths})


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        # The small set has the larger spread: Welch's error.
        ((60.0, 40.0, 400), (66.0, 30.0, 900), math.sqrt(40**2 / 400 + 30**2 / 900)),
        # It has the smaller one: that of the pooled variance, 1384.82.
        ((60.0, 30.0, 400), (66.0, 40.0, 900), math.sqrt(1384.8228 * (1 / 400 + 1 / 900))),
    ],
)
def test_means_by_the_larger_error(
    before: tuple[float, float, int], after: tuple[float, float, int], error: float
) -> None:
    found = compare(
        with_output_words(distribution(*after)), with_output_words(distribution(*before))
    )
    change = by_figure(found)["lengths.output.words.mean"]
    assert change.low == pytest.approx(6 - 1.959964 * error, abs=1e-4)
    assert change.high == pytest.approx(6 + 1.959964 * error, abs=1e-4)
    tested = sum(one.p is not None for one in found.changes)
    assert change.p == pytest.approx(min(1, tested * math.erfc(6 / error / math.sqrt(2))), rel=1e-4)
    median = by_figure(found)["lengths.output.words.median"]
    assert (median.difference, median.low, median.p, median.moved) == (6, None, None, False)


def test_few_numbers_have_no_noise_that_is_known() -> None:
    few, many = distribution(5, 1, 29), distribution(500, 1, 30)
    change = by_figure(compare(with_output_words(few), with_output_words(many)))
    assert change["lengths.output.words.mean"].p is None
    enough = replace(few, count=30)
    change = by_figure(compare(with_output_words(enough), with_output_words(many)))
    assert change["lengths.output.words.mean"].moved


def test_numbers_that_are_all_equal_differ_or_do_not() -> None:
    five, six = (with_output_words(distribution(mean, 0, 100)) for mean in (5, 6))
    assert by_figure(compare(five, five))["lengths.output.words.mean"].p == 1.0
    assert by_figure(compare(six, five))["lengths.output.words.mean"].moved


def test_what_depends_on_pairs_never_moves() -> None:
    rule = PAIR_RULES[0]
    after = with_rule(REPORT, rule, 500)
    after = replace(after, duplicates={"rows": Group(500, 0.833333, [])})
    before = replace(with_rule(REPORT, rule, 1), duplicates={"rows": Group(1, 0.001667, [])})
    changes = by_figure(compare(after, before))
    for figure in (f"lint.{rule}.share", "duplicates.rows.share", "neighbours.above_share"):
        assert (changes[figure].p, changes[figure].moved) == (None, False)
    assert changes["duplicates.rows.share"].difference == 0.831666


def test_the_rules_of_pairs_are_those_that_name_another_row() -> None:
    found = lint(
        [
            Example("Write a short poem about the sea in spring.", "", "Blue."),
            Example("Write a short poem about the sea in spring.", "", "Grey."),
            Example("Write a short poem about the sea in winter.", "", "White."),
        ]
    )
    assert {one.rule for one in found if one.other_row is not None} == {*PAIR_RULES}


@given(refusals=st.integers(0, 600), words=st.floats(1, 500))
def test_swapping_turns_the_signs(refusals: int, words: float) -> None:
    after = with_rule(with_output_words(distribution(words, 20, 300)), "refusal", refusals)
    there, back = by_figure(compare(after, REPORT)), by_figure(compare(REPORT, after))
    assert there.keys() == back.keys()
    for figure, change in there.items():
        other = back[figure]
        assert (change.before, change.after) == (other.after, other.before)
        assert change.difference == -other.difference
        assert change.moved == other.moved
        if change.p is not None and change.low is not None and other.high is not None:
            assert change.p == pytest.approx(other.p, rel=1e-6)
            assert change.low == pytest.approx(-other.high, abs=2e-6)


def test_a_language_of_one_set_is_none_of_the_other() -> None:
    russian = {**REPORT.languages.output, "ru": Group(60, 0.1, [])}
    after = replace(REPORT, languages=replace(REPORT.languages, output=russian))
    for found, sign in ((compare(after, REPORT), 1), (compare(REPORT, after), -1)):
        change = by_figure(found)["languages.output.ru.share"]
        assert (change.difference, change.moved) == (sign * 0.1, True)


def test_first_words_that_are_not_listed_are_unknown() -> None:
    words = dict(list(REPORT.openings.first_words.items())[1:])
    fewer = replace(REPORT, openings=replace(REPORT.openings, first_words=words))
    missing = REPORT.openings.first_words.keys() - words.keys()
    assert f"openings.first_words.{missing.pop()}.share" not in by_figure(compare(REPORT, fewer))


@pytest.mark.parametrize(
    ("other", "gone", "stays"),
    [
        (
            replace(REPORT, languages=replace(REPORT.languages, method="script")),
            "languages.",
            "task_types.",
        ),
        (
            replace(REPORT, tokens=replace(REPORT.tokens, tokenizer="x")),
            "lengths.output.tokens",
            "lengths.output.words",
        ),
        (
            replace(REPORT, tokens=replace(REPORT.tokens, max_length=9)),
            "tokens.over",
            "tokens.lengths",
        ),
        (replace(REPORT, tokens=None), "tokens.", "lengths.output.tokens"),
        (
            replace(REPORT, neighbours=replace(REPORT.neighbours, threshold=0.5)),
            "neighbours.",
            "seeds.",
        ),
        (
            replace(REPORT, contamination=replace(REPORT.contamination, files=["x"])),
            "contamination.",
            "lint.",
        ),
        (
            replace(REPORT, openings=replace(REPORT.openings, method="en_core_web_sm")),
            "openings.entropy",
            "openings.first_words",
        ),
        (replace(REPORT, groups={}), "groups.", "task_types."),
    ],
)
def test_what_was_measured_otherwise_is_left_out(other: Report, gone: str, stays: str) -> None:
    for found in (compare(REPORT, other), compare(other, REPORT)):
        figures = list(by_figure(found))
        assert not [figure for figure in figures if figure.startswith(gone)]
        assert [figure for figure in figures if figure.startswith(stays)]


def test_a_stored_report_compares_like_a_new_one() -> None:
    assert compare(REPORT, report_from(asdict(REPORT))) == compare(REPORT, REPORT)


def test_p_values_are_ordered_like_the_evidence() -> None:
    values = [exact_p((10, 1000), (10 + more, 1000)) for more in range(0, 40, 4)]
    assert all(first > second for first, second in pairwise(values))

"""Lengths, histograms, repeats, groups and neighbours are what one counts by hand."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.records import Example
from alpaca_cli.core.stats_report import Bin, sample
from alpaca_cli.data.measures import (
    distribution,
    groups,
    histogram,
    length_edges,
    lengths,
    neighbours,
    read_words,
    repeated,
)


def test_words_of_any_script() -> None:
    words = read_words([Example("It's 3 o'clock.", "", "写一首诗")])
    assert words == {
        "instruction": [["it", "s", "3", "o", "clock"]],
        "input": [[]],
        "output": [["写", "一", "首", "诗"]],
    }


def test_equal_words_are_one_object() -> None:
    words = read_words([Example("colour wheel", "", "colour wheel"), Example("colour", "", "x")])
    assert words["instruction"][0][0] is words["output"][0][0] is words["instruction"][1][0]


def test_empty_inputs_have_no_length() -> None:
    examples = [Example("Add two numbers.", " ", "3"), Example("Add.", "1 2", "3", id="b")]
    found = lengths(examples, read_words(examples))
    assert (found["input"].words.count, found["input"].words.mean) == (1, 2)
    assert (found["input"].characters.max, found["instruction"].characters.total) == (3, 20)
    assert found["instruction"].words.count == 2
    assert [shown.row for shown in found["instruction"].longest] == [1, 2]
    assert found["instruction"].longest[1] == sample(2, "b", "Add.", "words: 1")
    assert "input" not in lengths(examples[:1], read_words(examples[:1]))


def test_tokens_are_those_of_the_rows_that_count() -> None:
    examples = [Example("a", "", "x"), Example("b", "in", "y")]
    tokens = {"instruction": [7, 9], "input": [0, 4], "output": [1, 1]}
    found = lengths(examples, read_words(examples), tokens)
    assert found["input"].tokens is not None
    assert (found["input"].tokens.count, found["input"].tokens.total) == (1, 4)


def test_quantiles_are_values_that_occur() -> None:
    found = distribution([5, 1, 2, 4, 3, 100])
    assert found is not None
    assert (found.p5, found.p25, found.median, found.p75, found.p95) == (1, 2, 3, 5, 100)
    assert (found.count, found.total, found.min, found.max) == (6, 115, 1, 100)
    assert found.mean == 19.166667
    assert distribution([]) is None


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200))
def test_figures_of_lengths_against_the_standard_library(values: list[int]) -> None:
    found = distribution(values)
    assert found is not None
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    sd = statistics.stdev(values) if len(values) > 1 else 0
    assert found.sd == pytest.approx(sd, abs=1e-5)
    assert sum(value <= found.median for value in values) >= len(values) / 2
    assert sum(value < found.median for value in values) < len(values) / 2
    assert len(found.histogram) <= 29
    assert sum(bar.count for bar in found.histogram) == len(values)


def test_a_histogram_counts_each_value_once() -> None:
    bins = histogram([0.0, 0.05, 0.1, 0.95, 1.0], [0, 0.1, 0.5, 0.9, 1])
    assert [found.count for found in bins] == [2, 1, 0, 2]
    assert histogram([], [0, 1]) == []


def test_values_beyond_the_edges_widen_the_outer_bars() -> None:
    bins = histogram([1, 2, 900], [0, 2, 4])
    assert bins[-1] == Bin(2, 900, 2)
    assert histogram([-3, 1], [0, 2, 4])[0] == Bin(-3, 2, 2)


def test_edges_are_round_and_leave_the_tail_to_the_last_bar() -> None:
    assert length_edges([*range(100)] * 10 + [5000]) == [*range(0, 105, 5)]


def test_repeats_name_the_first_row() -> None:
    rows = [Example("a b", "", "x"), Example("c", "", "x"), Example("a b", "", "x"),
            Example("a b", "i", "x")]  # fmt: skip
    found = repeated(rows)
    assert {name: group.count for name, group in found.items()} == {
        "rows": 1, "instructions": 2, "outputs": 3,
    }  # fmt: skip
    assert found["rows"].rows == [sample(3, None, "a b", "as row 1")]
    assert found["rows"].share == 0.25


def test_groups_come_from_meta_and_the_self_instruct_format() -> None:
    rows = [
        Example("a", extra={"is_classification": True}),
        Example("b", meta={"category": "maths", "family": "sums"}),
        Example("c", extra={"category": "maths"}),
        Example("d"),
    ]
    found = groups(rows)
    counts = {kind: {name: one.count for name, one in named.items()} for kind, named in
              found.items()}  # fmt: skip
    assert counts == {"category": {"maths": 2, "classification": 1}, "family": {"sums": 1}}
    assert list(found["category"]) == ["maths", "classification"], "the largest first"
    assert [shown.row for shown in found["category"]["maths"].rows] == [2, 3]


def test_neighbours_above_the_threshold_and_the_nearest_of_them() -> None:
    scores = [0.2, 0.9, 0.7, 0.0, 0.95]
    found = neighbours("output", 0.7, scores, lambda place: sample(place + 1, None, "t"))
    assert (found.key, found.measured, found.above, found.above_share) == ("output", 5, 2, 0.4)
    assert [shown.row for shown in found.nearest] == [5, 2, 3, 1], "nothing in common is not near"
    assert found.scores is not None
    assert [bar.count for bar in found.scores.histogram if bar.count] == [1, 1, 1, 1, 1]
    assert neighbours("output", 0.7, [], lambda place: sample(1, None, "")).scores is None

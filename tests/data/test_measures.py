"""Lengths, histograms, openings and counts are what one counts by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.records import Example
from alpaca_cli.data.measures import (
    groups,
    histogram,
    length_edges,
    quantiles,
    repeated,
    word_lengths,
    words,
)
from alpaca_cli.data.openings import opening, openings


def test_words_of_any_script() -> None:
    assert words("It's 3 o'clock.") == 5
    assert words("写一首诗") == 4


def test_empty_inputs_have_no_length() -> None:
    examples = [Example("Add two numbers.", "", "3"), Example("Add.", "1 2", "3")]
    assert word_lengths(examples) == {"instruction": [3, 1], "input": [2], "output": [1, 1]}


def test_quantiles_are_values_that_occur() -> None:
    found = quantiles([5, 1, 2, 4, 3, 100])
    assert found == {
        "mean": 19.167, "min": 1, "p5": 1, "p25": 2, "median": 3, "p75": 5, "p95": 100, "max": 100,
    }  # fmt: skip
    assert quantiles([]) == {}


def test_a_histogram_counts_each_value_once() -> None:
    bins = histogram([0.0, 0.05, 0.1, 0.95, 1.0], [0, 0.1, 0.5, 0.9, 1])
    assert [found["count"] for found in bins] == [2, 1, 0, 2]
    assert histogram([], [0, 1]) == []


def test_values_beyond_the_edges_widen_the_last_bin() -> None:
    bins = histogram([1, 2, 900], [0, 2, 4])
    assert bins[-1] == {"from": 2, "to": 900, "count": 2}


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200))
def test_every_length_is_in_the_histogram(values: list[int]) -> None:
    edges = length_edges(values)
    assert len(edges) <= 30
    assert sum(found["count"] for found in histogram(values, edges)) == len(values)


def test_repeats() -> None:
    rows = [Example("a b", "", "x"), Example("a b", "", "x"), Example("a b", "i", "x")]
    assert repeated(rows) == {"rows": 1, "instructions": 2, "outputs": 2}


def test_groups_come_from_meta_and_the_self_instruct_format() -> None:
    rows = [
        Example("a", meta={"category": "maths", "family": "sums"}),
        Example("b", extra={"category": "maths"}),
        Example("c", extra={"is_classification": True}),
        Example("d"),
    ]
    assert groups(rows) == {
        "category": {"maths": 2, "classification": 1},
        "family": {"sums": 1},
    }


@pytest.mark.parametrize(
    ("instruction", "found"),
    [
        ("Write a short story about a fox.", ("write", "story")),
        ("Please rewrite the following sentence in the passive voice.", ("rewrite", "sentence")),
        ("Given a list of numbers, compute their sum.", ("compute", "sum")),
        ("Create a survey that asks about food.", ("create", "survey")),
        ("Give me 3 reasons to travel.", ("give", "reasons")),
        ("Explain why the sky is blue.", ("explain", None)),
        ("Can you suggest a name?", ("can …?", None)),
        ("In Python, how would you sort a list?", ("how …?", None)),
        ("What is the capital of France", ("what …?", None)),
        ("The capital of France", None),
        ("请写一首关于春天的诗。", ("写一", None)),
        ("日本の首都はどこですか。", None),
        ("", None),
    ],
)
def test_openings_by_rule(instruction: str, found: tuple[str, str | None] | None) -> None:
    assert opening(instruction) == found


def test_the_most_frequent_openings_come_first() -> None:
    instructions = ["Write a poem.", "Write a poem.", "Write an essay.", "Name a bird.", "Birds"]
    assert openings(instructions, top=1) == {
        "recognised": 4,
        "total": 5,
        "verbs": [{"verb": "write", "count": 3, "objects": [["poem", 2], ["essay", 1]]}],
    }

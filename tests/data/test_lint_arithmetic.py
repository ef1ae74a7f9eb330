"""Sums that do not compute are found; what only looks like one, or is rounded, is left alone."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.records import Example
from alpaca_cli.data.lint_arithmetic import wrong_sum


def wrong(output: str, instruction: str = "Solve the task.") -> str:
    return wrong_sum(Example(instruction, "", output))


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("17 + 25 = 43", "17 + 25 = 43, and it is 42"),
        ("So she has 17 + 25 = 43 apples.", "17 + 25 = 43 apples, and it is 42"),
        ("She has 5 apples + 3 apples = 9 apples", "5 apples + 3 apples = 9 apples, and it is 8"),
        ("12 × 4 = 46", "12 × 4 = 46, and it is 48"),
        ("12 x 4 = 46", "12 * 4 = 46, and it is 48"),
        ("12x4=46", "12 * 4 = 46, and it is 48"),
        ("The cost is $3.50 * 4 = $15.00.", "$3.50 * 4 = $15.00, and it is 14"),
        ("1,200 + 350 = 1,650", "1,200 + 350 = 1,650, and it is 1,550"),
        ("(2 + 3) * 4 = 24", "(2 + 3) * 4 = 24, and it is 20"),
        ("2 + 3 * 4 = 20", "2 + 3 * 4 = 20, and it is 14"),
        ("2^10 = 1000", "2^10 = 1000, and it is 1,024"),
        ("5² + 12² = 144", "5^2 + 12^2 = 144, and it is 169"),
        ("10 / 4 = 2.6", "10 / 4 = 2.6, and it is 2.5"),
        ("1/2 + 1/3 = 2/5", "1/2 + 1/3 = 2/5, and it is 0.8333"),
        ("20% of 50 = 15", "20% of 50 = 15, and it is 10"),
        ("30 / 120 = 30%", "30 / 120 = 30%, and it is 0.25"),
        ("-3 + 5 = 3", "-3 + 5 = 3, and it is 2"),
        ("1. 3 + 4 = 8", "3 + 4 = 8, and it is 7"),
        ("- 3 + 4 = 8", "- 3 + 4 = 8, and it is 7"),
        ("**3 + 4 = 8**", "3 + 4 = 8, and it is 7"),
        ("x = 3 + 4 = 8", "3 + 4 = 8, and it is 7"),
        ("3 + 4 = 7 + 2 = 9 = 4 + 6", "3 + 4 = 7 + 2, and it is 7"),
        (r"\(3 \times 4 = 14\)", "3 * 4 = 14, and it is 12"),
        (r"\frac{1}{2} + \frac{1}{4} = \frac{2}{6}", "((1)/(2)) + ((1)/(4)) = ((2)/(6))"),
        ("所以3+4=8。", "3+4 = 8, and it is 7"),
        ("5个 + 3个 = 9个", "5个 + 3个 = 9个, and it is 8"),
    ],
)  # fmt: skip
def test_wrong_sums(output: str, reason: str) -> None:
    assert wrong(output).startswith(reason)


@pytest.mark.parametrize(
    "output",
    [
        "17 + 25 = 42",
        "10 / 3 = 3.33",
        "10 / 3 = 3",
        "2 / 3 = 0.66",
        "0.33 * 300 = 100",
        "33.3 + 33.3 + 33.3 = 100",
        "30 / 120 = 25%",
        "30 / 120 * 100 = 25%",
        "100 + 20% = 100 + 20 = 120",
        "20% + 30% = 50%",
        "2(3 + 4) = 14",
        "-18 / -2 = 9",
        "She is 9 because - 18 / -2 = 9",
        "x + 3 = 5",
        "2x + 3 = 11",
        "2L + 11 = 35",
        "3y - 2 = 10",
        "f(2) + 1 = 9",
        "sqrt(16) + 1 = 5",
        "√9 + 1 = 4",
        "5! / 4 = 30",
        "|-5| + 3 = 8",
        "sin 30 + 1 = 1.5",
        "1 kg + 500 g = 1500 g",
        "1 hour + 30 minutes = 90 minutes",
        "2 feet * 12 = 24 inches",
        "5 * 200,000 = 1 million",
        "5 * 3 = $15,000",
        "100 * 0.75 = $0.75",
        "3万 + 2 = 5",
        "3,5 + 2 = 5,5",
        "1 1/2 + 2 = 3 1/2",
        "1/4 cup + 1 and 1/4 cup = 1.5 cups",
        "10 / 1/3 = 30",
        "17 / 5 = 3 remainder 2",
        "17 / 5 = 3 R 2",
        "about 31 * 3 = 100",
        "4.6 * 3 = 14 (rounded up)",
        "3 + 4 == 8",
        "3 + 4 != 8",
        "total += 3 + 4 = 8",
        "10:30 - 9:15 = 1:15",
        "0900 - 0130 = 0730",
        "2H2 + O2 = 2H2O",
        "Q: 1/4 = 68",
        "On days 1-2 = 96",
        "It is false that 3 + 4 = 8.",
        "[1, 2] + 3 = 6",
        "a[1] + 3 = 6",
        "2的3次方 + 1 = 9",
        ".8 + . 84 + .82 = 2.46",
        "8 = 8",
        "1 / 0 = 0",
        "2^1000 = 5",
        "x" * 50,
        "",
    ],
)
def test_right_sums_and_what_is_none(output: str) -> None:
    assert wrong(output) == ""


def test_what_the_question_says_is_not_the_answers_fault() -> None:
    assert wrong("The sum 3 + 4 = 8 is given.", "Is 3+4=8?") == ""
    assert wrong("101 + 11 = 1000", "Add the binary numbers 101 and 11.") == ""
    assert wrong("101 + 11 = 1000", "Add the numbers 101 and 11.") != ""


OPERATORS = {"+": "+", "-": "-", "*": "*", "×": "*", "/": "/", "÷": "/"}


@given(
    st.lists(st.integers(1, 999), min_size=2, max_size=4),
    st.randoms(use_true_random=False),
    st.integers(1, 9),
)
def test_every_exact_sum_is_right_and_every_changed_one_wrong(
    numbers: list[int], draw: random.Random, by: int
) -> None:
    written, plain = str(numbers[0]), f"Fraction({numbers[0]})"
    for number in numbers[1:]:
        sign = draw.choice([sign for sign in OPERATORS if OPERATORS[sign] != "/"])
        written += f" {sign} {number}"
        plain += f" {OPERATORS[sign]} Fraction({number})"
    value = eval(plain, {"Fraction": Fraction})  # numbers and operators of our own
    assert wrong(f"It is {written} = {value}.") == ""
    assert wrong(f"It is {written} = {value + by * 7}.") != ""


@given(st.integers(1, 9999), st.integers(1, 99), st.integers(0, 4))
def test_a_rounded_or_cut_quotient_is_right(dividend: int, divisor: int, digits: int) -> None:
    value = Fraction(dividend, divisor)
    cut = Fraction(int(value * 10**digits), 10**digits)
    for shown in (round(value, digits), cut):
        assert wrong(f"{dividend} / {divisor} = {float(shown):.{digits}f}") == ""

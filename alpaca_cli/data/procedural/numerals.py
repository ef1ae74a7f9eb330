"""Values about numbers as such: comparing, ordering, continuing and writing them.

Knows no phrasings. Lists never hold ties and are never already in order, so that every
question has one answer and no answer repeats its input.
"""

from __future__ import annotations

from random import Random

from alpaca_cli.data.procedural.lexicon import lexicon, number_word

ROMAN = ((50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))
IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def comparison(rng: Random) -> dict[str, str]:
    """Two different numbers up to 20."""
    a, b = rng.sample(range(1, 21), 2)
    return {
        "a": str(a),
        "b": str(b),
        "larger": str(max(a, b)),
        "smaller": str(min(a, b)),
        "sign": ">" if a > b else "<",
    }


def extremes(rng: Random) -> dict[str, str]:
    """Three or four different numbers of one digit."""
    numbers = rng.sample(range(1, 10), rng.randint(3, 4))
    return {"list": _line(numbers), "largest": str(max(numbers)), "smallest": str(min(numbers))}


def parity(rng: Random) -> dict[str, str]:
    """A number from 1 to 99."""
    n = rng.randint(1, 99)
    even = n % 2 == 0
    return {
        "n": str(n),
        "parity": "even" if even else "odd",
        "is_even": "yes" if even else "no",
        "is_odd": "no" if even else "yes",
    }


def roman(rng: Random) -> dict[str, str]:
    """A number from 1 to 50 and its Roman numeral."""
    n = rng.randint(1, 50)
    numeral, rest = "", n
    for value, letters in ROMAN:
        while rest >= value:
            numeral, rest = numeral + letters, rest - value
    return {"n": str(n), "roman": numeral, "name": rng.choice(lexicon().names)}


def number_words(rng: Random) -> dict[str, str]:
    """A number from 2 to 99 in digits and in words."""
    n = rng.randint(2, 99)
    return {"n": str(n), "words": number_word(n), "name": rng.choice(lexicon().names)}


def ordinal(rng: Random) -> dict[str, str]:
    """A number from 1 to 31 as 3rd and as third."""
    n = rng.randint(1, 31)
    suffix = "th" if 10 < n < 14 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    head, dash, last = number_word(n).rpartition("-")
    if last in IRREGULAR_ORDINALS:
        last = IRREGULAR_ORDINALS[last]
    else:
        last = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return {
        "n": str(n),
        "short": f"{n}{suffix}",
        "long": head + dash + last,
        "name": rng.choice(lexicon().names),
    }


def sequence(rng: Random) -> dict[str, str]:
    """Four terms of an sequence with a fixed step, and the next two."""
    step = rng.choice((1, 2, 3, 5, 10))
    start = rng.randint(1, 15)
    terms = [start + step * i for i in range(6)]
    return {
        "terms": _line(terms[:4]),
        "next": str(terms[4]),
        "two": _line(terms[4:]),
    }


def sort_three(rng: Random) -> dict[str, str]:
    """Three different numbers of one digit, out of order."""
    return _sorted(rng, 3, range(1, 10))


def sort_six(rng: Random) -> dict[str, str]:
    """Six different numbers below 100, out of order."""
    return _sorted(rng, 6, range(1, 100))


def _sorted(rng: Random, count: int, pool: range) -> dict[str, str]:
    numbers = rng.sample(pool, count)
    while numbers in (sorted(numbers), sorted(numbers, reverse=True)):
        rng.shuffle(numbers)
    return {
        "list": _line(numbers),
        "up": _line(sorted(numbers)),
        "down": _line(sorted(numbers, reverse=True)),
    }


def _line(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))

"""Values for sums in digits, in words and in small stories.

Ranges are small on purpose (sums to 18, tables to 10): what a tiny model can learn by heart
or nearly so. The two `large_` generators are the honest exception. Knows no phrasings.
"""

from __future__ import annotations

from random import Random

from alpaca_cli.data.procedural.lexicon import lexicon, number_word, plural

# (many of the bigger unit, many of the smaller unit, factor)
UNITS = (
    ("meters", "centimeters", 100),
    ("kilometers", "meters", 1000),
    ("kilograms", "grams", 1000),
    ("centimeters", "millimeters", 10),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("weeks", "days", 7),
    ("years", "months", 12),
    ("feet", "inches", 12),
    ("dollars", "cents", 100),
)


def addition(rng: Random) -> dict[str, str]:
    """Two numbers from 1 to 9."""
    a, b = _summands(rng, 1)
    return {"a": str(a), "b": str(b), "answer": str(a + b)}


def addition_in_words(rng: Random) -> dict[str, str]:
    """Two numbers from one to nine, written out."""
    a, b = _summands(rng, 1)
    return {"a": number_word(a), "b": number_word(b), "answer": number_word(a + b)}


def subtraction(rng: Random) -> dict[str, str]:
    """The table of sums read backwards: a number up to 18 minus one of one digit."""
    b, answer = _summands(rng, 1)
    return {"a": str(b + answer), "b": str(b), "answer": str(answer)}


def times_table(rng: Random) -> dict[str, str]:
    """The tables of 2, 3, 4, 5, and 10, either way round."""
    pair = [rng.choice((2, 3, 4, 5, 10)), rng.randint(2, 10)]
    rng.shuffle(pair)
    a, b = pair
    return {"a": str(a), "b": str(b), "answer": str(a * b)}


def large_product(rng: Random) -> dict[str, str]:
    """Two numbers of two digits, multiplied."""
    a, b = rng.randint(12, 99), rng.randint(12, 99)
    return {"a": str(a), "b": str(b), "answer": str(a * b)}


def large_sum(rng: Random) -> dict[str, str]:
    """Two numbers of three digits, added."""
    a, b = rng.randint(100, 999), rng.randint(100, 999)
    return {"a": str(a), "b": str(b), "answer": str(a + b)}


def word_problem(rng: Random) -> dict[str, str]:
    """A person gains or loses some things; every count is at least 2, for the plural."""
    name, friend = rng.sample(lexicon().names, 2)
    things = plural(rng.choice(lexicon().goods + lexicon().kinds["fruit"]))
    a, b = _summands(rng, 2)
    if rng.randrange(2):
        happens = rng.choice((f"buys {b} more", f"gets {b} more from {friend}", f"finds {b} more"))
        have, answer = a, a + b
    else:
        happens = rng.choice((f"gives {b} to {friend}", f"loses {b}", f"sells {b}"))
        have, answer = a + b, a
    story = f"{name} has {have} {things} and {happens}."
    return {"story": story, "name": name, "things": things, "answer": str(answer)}


def shopping(rng: Random) -> dict[str, str]:
    """Two things with prices from 2 to 9 dollars."""
    first, second = rng.sample(lexicon().goods + lexicon().kinds["garment"], 2)
    p, q = _summands(rng, 2)
    return {
        "name": rng.choice(lexicon().names),
        "first": first,
        "second": second,
        "p": str(p),
        "q": str(q),
        "answer": str(p + q),
    }


def unit_conversion(rng: Random) -> dict[str, str]:
    """2 to 10 of a bigger unit in a smaller one."""
    big, small, factor = rng.choice(UNITS)
    n = rng.randint(2, 10)
    return {"n": str(n), "big": big, "small": small, "answer": str(n * factor)}


def _summands(rng: Random, least: int) -> tuple[int, int]:
    """Two numbers of one digit, so that all families share one small table of sums."""
    return rng.randint(least, 9), rng.randint(least, 9)

"""Values about weekdays, months, dates and clock times. Knows no phrasings."""

from __future__ import annotations

from random import Random

from alpaca_cli.data.procedural.lexicon import lexicon

MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def weekday(rng: Random) -> dict[str, str]:
    """A weekday, its neighbors, and the day two or three days later."""
    days = lexicon().weekdays
    index, n = rng.randrange(7), rng.randint(2, 3)
    return {
        "name": rng.choice(lexicon().names),
        "day": days[index],
        "next": days[(index + 1) % 7],
        "previous": days[(index - 1) % 7],
        "n": str(n),
        "later": days[(index + n) % 7],
    }


def month(rng: Random) -> dict[str, str]:
    """A month, its number and its neighbors."""
    months = lexicon().months
    index = rng.randrange(12)
    return {
        "name": rng.choice(lexicon().names),
        "month": months[index],
        "n": str(index + 1),
        "next": months[(index + 1) % 12],
        "previous": months[(index - 1) % 12],
    }


def month_length(rng: Random) -> dict[str, str]:
    """How many days a month of a year from 2001 to 2024 has."""
    index, year = rng.randrange(12), rng.randint(2001, 2024)
    days = MONTH_DAYS[index] + (index == 1 and year % 4 == 0)
    return {"month": lexicon().months[index], "year": str(year), "n": str(days)}


def days_between(rng: Random) -> dict[str, str]:
    """Two dates of one month, two to nine days apart, from its first nine days."""
    start, n = rng.randint(1, 9), rng.randint(2, 9)
    return {
        "name": rng.choice(lexicon().names),
        "month": rng.choice(lexicon().months),
        "start": str(start),
        "end": str(start + n),
        "n": str(n),
    }


def clock(rng: Random) -> dict[str, str]:
    """A time before noon, in quarters of an hour, and 15 or 30 minutes later."""
    start = rng.randint(1, 11) * 60 + rng.choice((0, 15, 30, 45))
    minutes = rng.choice((15, 30))
    end = start + minutes
    return {
        "name": rng.choice(lexicon().names),
        "thing": rng.choice(("film", "class", "game", "concert", "meeting")),
        "start": f"{start // 60}:{start % 60:02}",
        "minutes": str(minutes),
        "end": f"{end // 60}:{end % 60:02}",
    }

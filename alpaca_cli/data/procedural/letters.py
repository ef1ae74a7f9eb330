"""Values for one-line messages: greetings, thanks, email addresses. Knows no phrasings."""

from __future__ import annotations

from random import Random

from alpaca_cli.data.procedural.lexicon import lexicon


def greeting(rng: Random) -> dict[str, str]:
    """Two persons, a present and a day."""
    name, sender = rng.sample(lexicon().names, 2)
    return {
        "name": name,
        "sender": sender,
        "thing": rng.choice(lexicon().goods),
        "day": rng.choice(lexicon().weekdays),
        "city": rng.choice(lexicon().cities),
    }


def address(rng: Random) -> dict[str, str]:
    """A person at a workplace and the address this makes."""
    name, place = rng.choice(lexicon().names), rng.choice(lexicon().goods)
    return {
        "name": name,
        "user": name.lower(),
        "site": f"{place}.example",
        "address": f"{name.lower()}@{place}.example",
    }

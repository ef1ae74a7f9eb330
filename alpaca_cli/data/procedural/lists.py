"""Values for lists and sets of words: count, pick, order, clean, compare.

Items of a list are different unless a task is about repeats. Knows no phrasings.
"""

from __future__ import annotations

from random import Random

from alpaca_cli.data.procedural.lexicon import lexicon, number_word, series, with_article

POSITIONS = ("first", "second", "third", "last")


def count_items(rng: Random) -> dict[str, str]:
    """Two to six things."""
    items = _items(rng, rng.randint(2, 6))
    return {
        "list": ", ".join(items),
        "n": str(len(items)),
        "words": number_word(len(items)),
    }


def pick_item(rng: Random) -> dict[str, str]:
    """Four things and one place among them."""
    items = _items(rng, 4)
    index = rng.randrange(len(POSITIONS))
    return {
        "list": ", ".join(items),
        "first": items[0],
        "last": items[-1],
        "position": POSITIONS[index],
        "answer": items[index] if index < 3 else items[-1],
    }


def reverse_list(rng: Random) -> dict[str, str]:
    """Three things and the same backwards."""
    items = _items(rng, 3)
    return {
        "list": ", ".join(items),
        "reversed": ", ".join(reversed(items)),
        "lines": "\n".join(reversed(items)),
    }


def join_list(rng: Random) -> dict[str, str]:
    """Three things, joined in several ways."""
    items = _items(rng, 3)
    return {
        "spaced": " ".join(items),
        "lines": "\n".join(items),
        "commas": ", ".join(items),
        "series": series(items),
        "bullets": "\n".join(f"- {item}" for item in items),
        "dashed": "-".join(items),
    }


def remove_duplicates(rng: Random) -> dict[str, str]:
    """Two or three things of which one stands twice."""
    unique = _items(rng, rng.randint(2, 3))
    items = [*unique, rng.choice(unique)]
    rng.shuffle(items)
    kept = list(dict.fromkeys(items))
    return {
        "list": ", ".join(items),
        "spaced": " ".join(items),
        "unique": ", ".join(kept),
        "spaced_unique": " ".join(kept),
        "n": str(len(kept)),
    }


def find_duplicate(rng: Random) -> dict[str, str]:
    """Four things, one of which stands twice."""
    items = _items(rng, 3)
    repeated = rng.choice(items)
    items.append(repeated)
    rng.shuffle(items)
    return {"list": ", ".join(items), "spaced": " ".join(items), "answer": repeated}


def sort_words(rng: Random) -> dict[str, str]:
    """Four things, out of alphabetical order."""
    items = _items(rng, 4)
    while items in (sorted(items), sorted(items, reverse=True)):
        rng.shuffle(items)
    return {
        "list": ", ".join(items),
        "up": ", ".join(sorted(items)),
        "down": ", ".join(sorted(items, reverse=True)),
    }


def alphabetical(rng: Random) -> dict[str, str]:
    """Two words with different first letters."""
    first, second = rng.sample(lexicon().items, 2)
    while first[0] == second[0]:
        first, second = rng.sample(lexicon().items, 2)
    return {
        "first": first,
        "second": second,
        "earlier": min(first, second),
        "later": max(first, second),
        "order": f"{min(first, second)}, {max(first, second)}",
    }


def sets(rng: Random) -> dict[str, str]:
    """Two groups of three things with exactly one in common."""
    a1, a2, b1, b2, common = _items(rng, 5)
    a, b = [a1, a2, common], [b1, b2, common]
    rng.shuffle(a)
    rng.shuffle(b)
    return {
        "a": ", ".join(a),
        "b": ", ".join(b),
        "common": common,
        "union": ", ".join(a + [item for item in b if item != common]),
        "difference": ", ".join(item for item in a if item != common),
    }


def membership(rng: Random) -> dict[str, str]:
    """Four things and one word that is or is not among them."""
    *items, other = _items(rng, 5)
    inside = bool(rng.randrange(2))
    word = rng.choice(items) if inside else other
    return {
        "list": ", ".join(items),
        "word": word,
        "answer": "yes" if inside else "no",
        "is": "is" if inside else "is not",
        "boolean": "true" if inside else "false",
    }


def odd_one_out(rng: Random) -> dict[str, str]:
    """Three things of one kind and one of another."""
    kinds = lexicon().kinds
    kind, other = rng.sample(sorted(kinds), 2)
    answer = rng.choice(kinds[other])
    items = [*rng.sample(kinds[kind], 3), answer]
    rng.shuffle(items)
    return {
        "list": ", ".join(items),
        "answer": answer,
        "reason": f"{with_article(answer)} is not {with_article(kind)}",
    }


def _items(rng: Random, count: int) -> list[str]:
    return rng.sample(lexicon().items, count)

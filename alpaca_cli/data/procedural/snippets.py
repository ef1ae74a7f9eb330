"""Values for short Python programs: what they print, and how to write them.

Programs are a few lines without input or imports; what they print is computed beside them,
not by running them. Knows no phrasings.
"""

from __future__ import annotations

from random import Random

from alpaca_cli.data.procedural.lexicon import lexicon


def expression(rng: Random) -> dict[str, str]:
    """A sum or a difference from the small table of sums."""
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    if rng.randrange(2):
        return {"expression": f"{a} + {b}", "answer": str(a + b)}
    return {"expression": f"{a + b} - {b}", "answer": str(a)}


def list_access(rng: Random) -> dict[str, str]:
    """A list of two or three words and one expression about it."""
    items = rng.sample(lexicon().items, rng.randint(2, 3))
    access, answer = rng.choice(
        (
            ("items[0]", items[0]),
            ("items[1]", items[1]),
            ("items[-1]", items[-1]),
            ("len(items)", str(len(items))),
        )
    )
    return {"list": _list(items), "access": access, "answer": answer}


def loop(rng: Random) -> dict[str, str]:
    """A loop over a range or over words."""
    if rng.randrange(2):
        start, count = rng.randint(0, 5), rng.randint(2, 5)
        head = f"for x in range({start}, {start + count}):"
        printed = [str(start + i) for i in range(count)]
    else:
        printed = rng.sample(lexicon().items, rng.randint(2, 3))
        head = f"for x in {_list(printed)}:"
    return {
        "code": f"{head}\n    print(x)",
        "head": head,
        "lines": "\n".join(printed),
        "commas": ", ".join(printed),
        "n": str(len(printed)),
    }


def condition(rng: Random) -> dict[str, str]:
    """A comparison of a variable that decides between two words."""
    yes, no = rng.sample(lexicon().colors, 2)
    x, limit = rng.sample(range(1, 10), 2)
    sign = rng.choice("<>")
    holds = x < limit if sign == "<" else x > limit
    return {
        "code": f'x = {x}\nif x {sign} {limit}:\n    print("{yes}")\nelse:\n    print("{no}")',
        "line": f'x = {x}; print("{yes}" if x {sign} {limit} else "{no}")',
        "answer": yes if holds else no,
        "truth": str(holds),
    }


def slices(rng: Random) -> dict[str, str]:
    """A slice of a word, or the word backwards."""
    word = rng.choice([noun for noun in lexicon().nouns if len(noun) >= 5])
    n = rng.randint(2, 3)
    code, answer = rng.choice(
        (
            (f"[:{n}]", word[:n]),
            (f"[{n}:]", word[n:]),
            (f"[-{n}:]", word[-n:]),
            ("[::-1]", word[::-1]),
        )
    )
    return {
        "code": f'word = "{word}"\nprint(word{code})',
        "word": word,
        "slice": code,
        "answer": answer,
    }


def writing(rng: Random) -> dict[str, str]:
    """Words and numbers to put into one line of Python."""
    items = rng.sample(lexicon().items, 3)
    return {
        "word": items[0],
        "call": f'print("{items[0]}")',
        "name": rng.choice(lexicon().goods),
        "n": str(rng.randint(2, 99)),
        "items": ", ".join(items),
        "list": _list(items),
    }


def _list(items: list[str]) -> str:
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"

"""Values for editing short texts: case, single words, letters, acronyms.

Sentences come from one small pattern (`_sentence`), so that the words, not the syntax,
vary. Knows no phrasings.
"""

from __future__ import annotations

from random import Random

from alpaca_cli.data.procedural.lexicon import lexicon

POSITIONS = ("first", "second", "third", "last")


def change_case(rng: Random) -> dict[str, str]:
    """A color and a thing in small letters, in capitals, with capital initials."""
    text = f"{rng.choice(lexicon().colors)} {rng.choice(lexicon().kinds['animal'])}"
    return {"text": text, "upper": text.upper(), "title": text.title()}


def word_in_sentence(rng: Random) -> dict[str, str]:
    """A sentence and one of its words by place."""
    words = _sentence(rng)
    index = rng.randrange(len(POSITIONS))
    return {
        "sentence": _written(words),
        "first": words[0],
        "last": words[-1],
        "position": POSITIONS[index],
        "answer": words[index] if index < 3 else words[-1],
    }


def remove_word(rng: Random) -> dict[str, str]:
    """A sentence with a color, and without it."""
    words = _sentence(rng)
    return {
        "sentence": _written(words),
        "word": words[3],
        "result": _written(words[:3] + words[4:]),
    }


def replace_word(rng: Random) -> dict[str, str]:
    """A sentence in which the color or the name is replaced."""
    words = _sentence(rng)
    index = rng.choice((0, 3))
    pool = lexicon().names if index == 0 else lexicon().colors
    new = rng.choice([word for word in pool if word != words[index]])
    return {
        "sentence": _written(words),
        "word": words[index],
        "new": new,
        "result": _written([*words[:index], new, *words[index + 1 :]]),
    }


def reverse_word(rng: Random) -> dict[str, str]:
    """A word of three to six letters, backwards."""
    word = rng.choice([w for w in lexicon().nouns + lexicon().colors if 3 <= len(w) <= 6])
    other = rng.choice([w for w in lexicon().nouns + lexicon().colors if w != word])
    return {"word": word, "other": other, "reversed": word[::-1]}


def count_letters(rng: Random) -> dict[str, str]:
    """A word and one of its letters (or, at times, one it does not have)."""
    word = rng.choice(lexicon().nouns + lexicon().colors)
    letter = rng.choice(word + "aeio")
    return {"word": word, "letter": letter, "n": str(word.count(letter)), "length": str(len(word))}


def count_vowels(rng: Random) -> dict[str, str]:
    """Two words without y, which is a vowel only at times."""
    words = [w for w in lexicon().nouns + lexicon().colors if "y" not in w]
    text = " ".join(rng.sample(words, 2))
    return {"text": text, "n": str(sum(letter in "aeiou" for letter in text))}


def count_words(rng: Random) -> dict[str, str]:
    """A sentence of three to seven words."""
    words = _sentence(rng)
    past = [past for _, past in lexicon().motions.values()]
    words = rng.choice((words, words[:3] + words[4:], [words[0], rng.choice(past), "here"]))
    if len(words) > 3 and rng.randrange(2):
        words = [*words, "in", rng.choice(lexicon().cities)]
    return {"sentence": _written(words), "n": str(len(words))}


def acronym(rng: Random) -> dict[str, str]:
    """A made-up organization of three words."""
    words = [rng.choice(choices) for choices in lexicon().titles]
    letters = [word[0] for word in words]
    return {
        "phrase": " ".join(words),
        "answer": "".join(letters),
        "dotted": "".join(f"{letter}." for letter in letters),
    }


def _sentence(rng: Random) -> list[str]:
    """Five words: a name, a verb, the, a color, a thing that can have any color."""
    colorable = lexicon().goods + lexicon().kinds["garment"]
    verb, thing = rng.choice(
        [(a.past, thing) for a in lexicon().actions for thing in a.objects if thing in colorable]
    )
    return [rng.choice(lexicon().names), verb, "the", rng.choice(lexicon().colors), thing]


def _written(words: list[str]) -> str:
    return " ".join(words) + "."

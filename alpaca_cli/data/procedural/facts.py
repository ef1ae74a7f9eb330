"""Values from closed tables: opposites, plurals, capitals, animals, jobs, rhymes, kinds.

A table alone gives a few dozen questions; options, names and sentences around an entry give
the rest, so that unseen questions exist whose answers can be known. Knows no phrasings.
"""

from __future__ import annotations

from random import Random

from alpaca_cli.data.procedural.lexicon import lexicon, plural, series, with_article


def antonym(rng: Random) -> dict[str, str]:
    """A word, its opposite, and the opposite among words of other pairs."""
    pairs = rng.sample(lexicon().antonyms, 3)
    word, answer = rng.sample(pairs[0], 2)
    return {
        "word": word,
        "answer": answer,
        "options": _options(rng, answer, [rng.choice(pair) for pair in pairs[1:]]),
    }


def plurals(rng: Random) -> dict[str, str]:
    """A noun, its plural, and a number of it."""
    nouns = sorted({*lexicon().nouns, *lexicon().plurals})
    noun = rng.choice(nouns)
    return {
        "name": rng.choice(lexicon().names),
        "noun": noun,
        "plural": plural(noun),
        "n": str(rng.randint(2, 9)),
    }


def capital(rng: Random) -> dict[str, str]:
    """A country, its capital and continent, and the capital among others."""
    chosen = rng.sample(list(lexicon().countries), 3)
    country = chosen[0]
    city, continent = lexicon().countries[country]
    others = [lexicon().countries[other][0] for other in chosen[1:]]
    return {
        "name": rng.choice(lexicon().names),
        "country": country,
        "capital": city,
        "continent": continent,
        "options": _options(rng, city, others),
    }


def thing_color(rng: Random) -> dict[str, str]:
    """A thing and its color, alone and among three colors."""
    thing = rng.choice(list(lexicon().thing_colors))
    color = lexicon().thing_colors[thing]
    others = rng.sample([other for other in lexicon().colors if other != color], 2)
    return {"thing": thing, "color": color, "options": _options(rng, color, others)}


def young_animal(rng: Random) -> dict[str, str]:
    """An animal and its young, alone and among three."""
    chosen = rng.sample(list(lexicon().young), 3)
    young = [lexicon().young[animal] for animal in chosen]
    return {
        "name": rng.choice(lexicon().names),
        "animal": chosen[0],
        "young": young[0],
        "options": _options(rng, young[0], young[1:]),
    }


def animal_sound(rng: Random) -> dict[str, str]:
    """An animal and what it does when heard, alone and among three."""
    chosen = rng.sample(list(lexicon().sounds), 3)
    return {
        "name": rng.choice(lexicon().names),
        "animal": chosen[0],
        "an_animal": with_article(chosen[0]),
        "sound": lexicon().sounds[chosen[0]],
        "options": _options(rng, chosen[0], chosen[1:]),
    }


def job_place(rng: Random) -> dict[str, str]:
    """A person with a job and the place of the job."""
    job = rng.choice(list(lexicon().jobs))
    return {
        "name": rng.choice(lexicon().names),
        "job": job,
        "a_job": with_article(job),
        "place": lexicon().jobs[job],
        "a_place": with_article(lexicon().jobs[job]),
    }


def rhyme(rng: Random) -> dict[str, str]:
    """A word and three options of which exactly one rhymes with it."""
    groups = rng.sample(lexicon().rhymes, 3)
    word, answer = rng.sample(groups[0], 2)
    other = rng.choice(groups[1])
    return {
        "word": word,
        "answer": answer,
        "other": other,
        "options": _options(rng, answer, [other, rng.choice(groups[2])]),
        "pair": series(rng.sample([answer, other], 2), "or"),
    }


def kind(rng: Random) -> dict[str, str]:
    """A thing, its kind, and a thing of this kind among others."""
    first, second, third = rng.sample(sorted(lexicon().kinds), 3)
    word = rng.choice(lexicon().kinds[first])
    others = [rng.choice(lexicon().kinds[other]) for other in (second, third)]
    return {
        "word": word,
        "a_word": with_article(word),
        "kind": first,
        "a_kind": with_article(first),
        "options": _options(rng, word, others),
        "kinds": _options(rng, first, [second, third]),
    }


def kind_question(rng: Random) -> dict[str, str]:
    """Whether a thing is of a kind: as often yes as no."""
    right, wrong = rng.sample(sorted(lexicon().kinds), 2)
    word, fits = rng.choice(lexicon().kinds[right]), bool(rng.randrange(2))
    return {
        "word": word,
        "a_word": with_article(word),
        "a_kind": with_article(right if fits else wrong),
        "answer": "yes" if fits else "no",
        "is": "is" if fits else "is not",
    }


def statement(rng: Random) -> dict[str, str]:
    """A sentence about the world that is as often true as false."""
    topic, fits = rng.randrange(3), bool(rng.randrange(2))
    if topic == 0:
        table = {name: capital for name, (capital, _) in lexicon().countries.items()}
        pattern = "{1} is the capital of {0}."
    elif topic == 1:
        table = {name: continent for name, (_, continent) in lexicon().countries.items()}
        pattern = "{0} is in {1}."
    else:
        table = {word: kind for kind, words in lexicon().kinds.items() for word in words}
        table = {with_article(word): with_article(kind) for word, kind in table.items()}
        pattern = "{0} is {1}."
    key = rng.choice(list(table))
    value = table[key]
    if not fits:
        value = rng.choice(sorted({other for other in table.values() if other != value}))
    text = pattern.format(key, value)
    return {
        "statement": text[0].upper() + text[1:],
        "answer": "true" if fits else "false",
        "correct": "yes" if fits else "no",
    }


def _options(rng: Random, answer: str, others: list[str]) -> str:
    options = [answer, *others]
    rng.shuffle(options)
    return ", ".join(options)

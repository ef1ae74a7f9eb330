"""Values for rewriting words and short sentences: tense, degree, negation, question, voice.

Sentences pair a verb only with objects the lexicon lists for it. Knows no phrasings.
"""

from __future__ import annotations

from random import Random

from alpaca_cli.data.procedural.lexicon import lexicon, with_article


def past_tense(rng: Random) -> dict[str, str]:
    """A verb and a sentence with it, in present and past."""
    verbs = [(a.base, a.third, a.past, f" the {o}") for a in lexicon().actions for o in a.objects]
    verbs += [(base, third, past, "") for base, (third, past) in lexicon().motions.items()] * 2
    base, third, past, rest = rng.choice(verbs)
    name = rng.choice(lexicon().names)
    return {
        "verb": base,
        "past": past,
        "name": name,
        "present_sentence": f"{name} {third}{rest}.",
        "past_sentence": f"{name} {past}{rest}.",
        "present_gap": f"Today {name} {third}{rest}. Yesterday {name} ___{rest}.",
    }


def degrees(rng: Random) -> dict[str, str]:
    """An adjective for persons with its comparative and superlative."""
    word = rng.choice(list(lexicon().degrees))
    name, other = rng.sample(lexicon().names, 2)
    comparative, superlative = lexicon().degrees[word]
    return {
        "word": word,
        "name": name,
        "other": other,
        "comparative": comparative,
        "superlative": superlative,
    }


def negation(rng: Random) -> dict[str, str]:
    """A present sentence with its negative and its yes/no question."""
    name = rng.choice(lexicon().names)
    if rng.randrange(3):
        action = rng.choice(lexicon().actions)
        thing = f"the {rng.choice(action.objects)}"
        return {
            "sentence": f"{name} {action.third} {thing}.",
            "negative": f"{name} does not {action.base} {thing}.",
            "question": f"Does {name} {action.base} {thing}?",
        }
    about = rng.choice([with_article(job) for job in lexicon().jobs] + list(lexicon().degrees))
    return {
        "sentence": f"{name} is {about}.",
        "negative": f"{name} is not {about}.",
        "question": f"Is {name} {about}?",
    }


def passive(rng: Random) -> dict[str, str]:
    """A past sentence, active and passive."""
    action = rng.choice(lexicon().actions)
    name, thing = rng.choice(lexicon().names), rng.choice(action.objects)
    return {
        "active": f"{name} {action.past} the {thing}.",
        "passive": f"The {thing} was {action.participle} by {name}.",
    }


def pronoun(rng: Random) -> dict[str, str]:
    """A sentence about a person and the same with he or she."""
    girl = bool(rng.randrange(2))
    name = rng.choice(lexicon().girls if girl else lexicon().boys)
    action = rng.choice(lexicon().actions)
    rest = f"{action.third} the {rng.choice(action.objects)}."
    return {
        "name": name,
        "sentence": f"{name} {rest}",
        "result": f"{'She' if girl else 'He'} {rest}",
        "subject": "she" if girl else "he",
        "object": "her" if girl else "him",
        "possessive": "her" if girl else "his",
        "thing": rng.choice(lexicon().goods),
    }


def article(rng: Random) -> dict[str, str]:
    """A thing, its article, and a sentence with a gap for it."""
    vowels = [noun for noun in lexicon().nouns if noun[0] in "aeiou"]
    # Nouns with "an" are few; half the adjectives before a noun make more of them.
    adjective = rng.choice(("old", "empty", "expensive", "ugly", "big", "new", "red", "cheap"))
    noun = rng.choice(vowels) if rng.randrange(4) == 0 else rng.choice(lexicon().nouns)
    phrase = rng.choice((noun, f"{adjective} {noun}"))
    name = rng.choice(lexicon().names)
    full = with_article(phrase)
    return {
        "phrase": phrase,
        "article": full.split()[0],
        "full": full,
        "gap": f"{name} sees ___ {phrase}.",
        "sentence": f"{name} sees {full}.",
    }


def sentence_parts(rng: Random) -> dict[str, str]:
    """A name, a verb and an object, and the sentences they make."""
    action = rng.choice(lexicon().actions)
    name, thing = rng.choice(lexicon().names), rng.choice(action.objects)
    return {
        "parts": f"{name}, {action.base}, the {thing}",
        "name": name,
        "verb": action.base,
        "thing": thing,
        "present": f"{name} {action.third} the {thing}.",
        "past": f"{name} {action.past} the {thing}.",
    }

"""Values for classifying a text by a rule and for simple conclusions. Knows no phrasings."""

from __future__ import annotations

from random import Random

from alpaca_cli.data.procedural.lexicon import lexicon, number_word

# more, less, most, least
RELATIONS = (
    ("older", "younger", "oldest", "youngest"),
    ("taller", "shorter", "tallest", "shortest"),
)
SPAM = (
    "Win a free {good} now!",
    "Click here to get a free {good}!",
    "You won {n} million dollars, {name}!",
    "Buy a cheap {good} now and win a prize!",
    "{name}, click now to win {n} million dollars!",
)
HAM = (
    "{name} will come to the meeting on {day}.",
    "Please bring the {good} on {day}.",
    "Thank you for the {good}, {name}.",
    "{name} has lost the {good} at school.",
    "Dear {name}, the class starts at {n}.",
)


def sentiment(rng: Random) -> dict[str, str]:
    """A short review of one or two things that is all praise or all blame."""
    good = bool(rng.randrange(2))
    words = lexicon().praise if good else lexicon().blame
    first, second = rng.sample(lexicon().reviewed, 2)
    word, other = rng.sample(words, 2)
    review = rng.choice(
        (
            f"The {first} was {word}.",
            f"The {first} was {word} and the {second} was {other}.",
            f"What {'an' if word[0] in 'aeiou' else 'a'} {word} {first}!",
            f"I think the {first} is {word}.",
        )
    )
    return {
        "review": review,
        "label": "positive" if good else "negative",
        "digit": "1" if good else "0",
        "liked": "yes" if good else "no",
    }


def sentence_type(rng: Random) -> dict[str, str]:
    """A question, a statement or a command about one event."""
    action = rng.choice(lexicon().actions)
    name, thing = rng.choice(lexicon().names), rng.choice(action.objects)
    label, text = rng.choice(
        (
            ("question", f"Does {name} {action.base} the {thing}?"),
            ("question", f"Why did {name} {action.base} the {thing}?"),
            ("statement", f"{name} {action.third} the {thing}."),
            ("statement", f"{name} {action.past} the {thing}."),
            ("command", f"{action.base.capitalize()} the {thing}, {name}!"),
            ("command", f"Please {action.base} the {thing}!"),
        )
    )
    return {"text": text, "label": label, "is_question": "yes" if label == "question" else "no"}


def spam(rng: Random) -> dict[str, str]:
    """A message that promises prizes or one that does not."""
    unwanted = bool(rng.randrange(2))
    message = rng.choice(SPAM if unwanted else HAM).format(
        name=rng.choice(lexicon().names),
        good=rng.choice(lexicon().goods),
        day=rng.choice(lexicon().weekdays),
        n=number_word(rng.randint(2, 10)),
    )
    return {
        "message": message,
        "label": "spam" if unwanted else "not spam",
        "answer": "yes" if unwanted else "no",
        "folder": "spam folder" if unwanted else "inbox",
    }


def text_kind(rng: Random) -> dict[str, str]:
    """A short text that is a number, a time, a word or an email address."""
    name = rng.choice(lexicon().names).lower()
    kind, text = rng.choice(
        (
            ("number", str(rng.randint(1, 999))),
            ("time", f"{rng.randint(1, 12)}:{rng.choice(('00', '15', '30', '45'))}"),
            ("word", rng.choice(lexicon().nouns)),
            ("email address", f"{name}@{rng.choice(lexicon().goods)}.example"),
        )
    )
    return {"text": text, "kind": kind, "a_kind": f"{'an' if kind[0] == 'e' else 'a'} {kind}"}


def number_statement(rng: Random) -> dict[str, str]:
    """A comparison or a sum that is as often true as false."""
    a, b = rng.sample(range(1, 21), 2)
    true = bool(rng.randrange(2))
    style = rng.randrange(3)
    if style == 0:
        low, high = sorted((a, b))
        text = f"{high} is greater than {low}" if true else f"{low} is greater than {high}"
    elif style == 1:
        low, high = sorted((a, b))
        text = f"{low} is less than {high}" if true else f"{high} is less than {low}"
    else:
        a, b = rng.randint(1, 9), rng.randint(1, 9)
        text = f"{a} + {b} = {a + b if true else a + b + rng.choice((-1, 1, 2))}"
    return {
        "statement": text,
        "answer": "true" if true else "false",
        "correct": "yes" if true else "no",
    }


def relation(rng: Random) -> dict[str, str]:
    """Two or three persons in order of age or size."""
    more, less, most, least = rng.choice(RELATIONS)
    top, middle, bottom = rng.sample(lexicon().names, 3)
    pair = rng.choice((f"{top} is {more} than {middle}.", f"{middle} is {less} than {top}."))
    chain = rng.choice(
        (
            f"{top} is {more} than {middle}. {middle} is {more} than {bottom}.",
            f"{bottom} is {less} than {middle}. {middle} is {less} than {top}.",
        )
    )
    up = bool(rng.randrange(2))
    return {
        "pair": pair,
        "ask": more if up else less,
        "answer": top if up else middle,
        "other": middle if up else top,
        "chain": chain,
        "extreme": most if up else least,
        "chain_answer": top if up else bottom,
    }

"""How instructions begin: the opening verb and its object, by rule or by a parser.

The figure that papers on instruction data show (first: self-instruct) takes verb and object
from a dependency parser (`alpaca_cli.data.spacy_openings`). The rules need no model. They know
imperatives and questions in English, and of Chinese the verb alone. Both words are given as they
are written, lower case. Pronouns and clauses are no objects ("explain why …"), nor is what
follows a preposition ("come up with …").

How often the rules are right is measured on hand-labelled rows in `tests/data/test_openings.py`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from alpaca_cli.core.records import Example
from alpaca_cli.core.stats_report import SHOWN, Openings, Pair, Verb, share
from alpaca_cli.data.grouped import grouped, shown
from alpaca_cli.data.openings_chinese import chinese_opening
from alpaca_cli.data.openings_english import english_opening
from alpaca_cli.data.rouge import UNSPACED

OBJECTS = 6  # objects listed for a verb
_READ = 600  # characters of an instruction that are looked at
_LATIN_WORD = re.compile("[A-Za-z]+")
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


def opening(instruction: str) -> tuple[str, str | None] | None:
    """The opening verb and its object (None when there is none); None when no rule applies.

    A question gives its question word, or the auxiliary verb at its beginning, followed by "…?"
    as the verb.
    """
    text = instruction[:_READ]
    if len(UNSPACED.findall(text)) <= len(_LATIN_WORD.findall(text)):
        return english_opening(text)
    verb = chinese_opening(text)
    return None if verb is None else (verb, None)


def measure_openings(examples: Sequence[Example], top: int, nlp: str | None = None) -> Openings:
    """The most frequent opening words, verbs and objects of instructions.

    Args:
        top: how many verbs and first words to list; each verb has up to six objects.
        nlp: a spaCy pipeline (package or folder) that parses them; by rule without one.

    Raises:
        UsageError: spaCy or its pipeline is missing, or the pipeline does not parse.
    """
    if nlp is None:
        method, found = "rule", [opening(example.instruction) for example in examples]
    else:
        from alpaca_cli.data.spacy_openings import parse_openings

        method, found = parse_openings([example.instruction for example in examples], nlp)
    pairs = Counter((verb, noun) for verb, noun in filter(None, found) if noun is not None)
    recognised = sum(one is not None for one in found)
    first = grouped(examples, (_first_word(example.instruction) for example in examples))
    return Openings(
        method=method,
        total=len(examples),
        recognised=recognised,
        recognised_share=share(recognised, len(examples)),
        with_object=pairs.total(),
        distinct_pairs=len(pairs),
        entropy=_entropy(pairs.values()),
        top_pair_share=share(max(pairs.values(), default=0), pairs.total()),
        first_words=dict(list(first.items())[:top]),
        verbs=_verbs(examples, found, pairs, top),
    )


def _verbs(
    examples: Sequence[Example],
    found: Sequence[tuple[str, str | None] | None],
    pairs: Counter[tuple[str, str]],
    top: int,
) -> list[Verb]:
    positions: dict[str, list[int]] = {}
    for position, one in enumerate(found):
        if one is not None:
            positions.setdefault(one[0], []).append(position)
    objects: dict[str, list[Pair]] = {}
    for (verb, noun), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0])):
        objects.setdefault(verb, []).append(Pair(noun, count))
    ordered = sorted(positions, key=lambda verb: (-len(positions[verb]), verb))
    return [
        Verb(
            verb=verb,
            count=len(positions[verb]),
            objects=objects.get(verb, [])[:OBJECTS],
            rows=shown(examples, positions[verb][:SHOWN]),
        )
        for verb in ordered[:top]
    ]


def _first_word(instruction: str) -> str | None:
    """The first word, lower case; the first letter where a script has no spaces."""
    found = _WORD.search(instruction[:_READ].lower())
    if found is None:
        return None
    return found[0][0] if UNSPACED.match(found[0]) else found[0]


def _entropy(counts: Iterable[int]) -> float:
    """Shannon entropy of counts, in bits."""
    known = list(counts)
    total = sum(known)
    return round(sum(count / total * math.log2(total / count) for count in known), 6)

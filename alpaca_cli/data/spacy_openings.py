"""The opening verb and its object, by a spaCy pipeline that the user has.

As in the self-instruct paper: the verb at the root of the sentence, and the noun that is its
direct object, both as lemmas. Two things differ from the paper's notebook, whose recursion stops
at the first child of a root that is no verb: all words below the root are looked at here, the
nearest first; and where the first sentence has no verb, the next ones are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from alpaca_cli.core.errors import UsageError, missing_extra

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token

_READ = 600  # characters of an instruction that are parsed
_SENTENCES = 3
_OBJECTS = ("dobj", "obj")  # in ClearNLP's labels (English), and in Universal Dependencies
_NOUNS = ("NOUN", "PROPN")


def parse_openings(
    instructions: Sequence[str], nlp: str
) -> tuple[str, list[tuple[str, str | None] | None]]:
    """The pipeline's name, and the verb and object of each instruction.

    Args:
        nlp: an installed pipeline package, or the folder of a pipeline.

    Raises:
        UsageError: spaCy is not installed, there is no such pipeline, or it does not parse.
    """
    pipeline = _load(nlp)
    texts = (instruction[:_READ] for instruction in instructions)
    found = [_verb_and_object(parsed) for parsed in pipeline.pipe(texts, batch_size=256)]
    return f"{pipeline.meta['lang']}_{pipeline.meta['name']}", found


def _load(nlp: str) -> Language:
    try:
        import spacy
    except ImportError as error:
        raise missing_extra("spacy", "nlp") from error
    try:
        pipeline = spacy.load(nlp, exclude=["ner", "textcat", "senter"])
    except (OSError, ValueError, ImportError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"stats.nlp: cannot load the spaCy pipeline {nlp}: {first}",
            hint="name an installed pipeline (`pip install` one of spaCy's releases, for example "
            "en_core_web_sm) or the folder of one; without stats.nlp, verbs are found by rule",
        ) from error
    parsed = pipeline("Write a poem.")
    missing = [layer for layer in ("DEP", "POS", "LEMMA") if not parsed.has_annotation(layer)]
    if missing:
        raise UsageError(
            f"stats.nlp: the spaCy pipeline {nlp} does not set {', '.join(missing)}",
            hint="it needs a parser, a tagger (or morphologizer) and a lemmatizer",
        )
    return pipeline


def _verb_and_object(parsed: Doc) -> tuple[str, str | None] | None:
    for number, sentence in enumerate(parsed.sents):
        if number == _SENTENCES:
            break
        for token in _nearest_first(sentence.root):
            if token.pos_ == "VERB":
                return token.lemma_.lower(), _object(token)
    return None


def _object(verb: Token) -> str | None:
    return next(
        (
            child.lemma_.lower()
            for child in verb.children
            if child.dep_ in _OBJECTS and child.pos_ in _NOUNS
        ),
        None,
    )


def _nearest_first(root: Token) -> Iterator[Token]:
    level = [root]
    while level:
        yield from level
        level = [child for token in level for child in token.children]

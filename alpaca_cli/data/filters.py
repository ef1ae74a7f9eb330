"""The rules that a whole candidate must pass: is it worth keeping, as it stands?

Three kinds: bounds and word lists from the recipe (`generate.filters`), the rules for single rows
that `alpaca seed` lints with (`alpaca_cli.data.lint`), and those that only a recipe asks for:
links, personal data, language. They are asked in the order of `core.settings_filters.RULES`, and
the first that is broken is the reason; a filter is a pure function of its settings, the prompt
and the candidate, so that a journal can be filtered anew with other settings.

Whether a candidate is new is not asked here (`alpaca_cli.data.pool`), nor whether its answer is
true.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_filters import KEYWORD_PRESETS, RULES, Filters
from alpaca_cli.data.leftovers import prompt_echo, prompt_lines
from alpaca_cli.data.lint import content_findings
from alpaca_cli.data.personal import find_personal
from alpaca_cli.data.rouge import UNSPACED

Verdict = tuple[str, str]
Filter = Callable[[Example], Verdict | None]


def make_filter(settings: Filters, prompt: str = "") -> Filter:
    """A function from an example to (reason, detail) of the first rule it breaks, else None.

    Args:
        prompt: the rules and forms that the teacher reads, without demonstrations.

    Raises:
        UsageError: `language` is set and its library is not installed.
    """
    on = frozenset(RULES) - frozenset(settings.off)
    parts: list[Callable[[Example], Iterable[Verdict]]] = [
        _bounds(settings),
        _beginnings_and_words(settings),
        _echo(prompt),
        _row_rules,
    ]
    if settings.urls:
        parts.append(_links(settings))
    if settings.personal:
        parts.append(_personal(settings))
    if settings.language and "language" in on:
        parts.append(_language(settings))

    def check(example: Example) -> Verdict | None:
        verdicts = chain.from_iterable(part(example) for part in parts)
        return next((verdict for verdict in verdicts if verdict[0] in on), None)

    return check


def count_words(text: str) -> int:
    """Words between spaces, as Stanford Alpaca counts; letters written without spaces one each."""
    if text.isascii() or not (letters := len(UNSPACED.findall(text))):
        return len(text.split())
    others = UNSPACED.sub(" ", text).split()
    return letters + sum(any(map(str.isalnum, word)) for word in others)


def _bounds(settings: Filters) -> Callable[[Example], Iterator[Verdict]]:
    def check(example: Example) -> Iterator[Verdict]:
        words = count_words(example.instruction)
        input_words, output_words = count_words(example.input), count_words(example.output)
        if not example.instruction.strip():
            yield "empty_instruction", "the instruction is empty"
        if not example.output.strip():
            yield "empty_output", "the output is empty"
        if words < settings.min_words:
            yield "too_short", f"the instruction has {words} words"
        if words > settings.max_words:
            yield "too_long", f"the instruction has {words} words"
        if input_words > settings.max_input_words:
            yield "input_too_long", f"the input has {input_words} words"
        if output_words < settings.min_output_words:
            yield "output_too_short", f"the output has {output_words} words"
        if output_words > settings.max_output_words:
            yield "output_too_long", f"the output has {output_words} words"

    return check


# No sentence begins with these; a list or a template that was cut does.
_DEBRIS = frozenset("!),.:;?]}|>*#-+=_~\\/，。：；！？）】、》」")


def _beginnings_and_words(settings: Filters) -> Callable[[Example], Iterator[Verdict]]:
    openings = _any_of(settings.openings)
    keywords = _any_of(
        [phrase for word in settings.keywords for phrase in KEYWORD_PRESETS.get(word, (word,))]
    )

    def check(example: Example) -> Iterator[Verdict]:
        first = example.instruction[:1]
        if first in _DEBRIS or (settings.ascii_start and not (first.isascii() and first.isalnum())):
            yield "bad_start", f"the instruction begins with {first!r}"
        if openings and (found := openings.match(example.instruction)):
            yield "opening", found[0]
        if keywords and (found := keywords.search(example.instruction)):
            yield "keyword", found[0]

    return check


def _any_of(phrases: list[str]) -> re.Pattern[str] | None:
    """Matches any of the phrases as whole words, whatever their case; None for no phrases.

    Letters written without spaces are never inside a word.
    """
    if not phrases:
        return None
    listed = "|".join(
        ("" if UNSPACED.match(phrase) else r"(?<!\w)")
        + re.escape(phrase)
        + ("" if UNSPACED.match(phrase[-1]) else r"(?!\w)")
        for phrase in phrases
    )
    return re.compile(listed, re.IGNORECASE)


def _echo(prompt: str) -> Callable[[Example], Iterator[Verdict]]:
    lines = prompt_lines(prompt)

    def check(example: Example) -> Iterator[Verdict]:
        if echoed := prompt_echo(example, lines):
            yield "prompt_echo", f"of the prompt: {_excerpt(echoed)}"

    return check


def _row_rules(example: Example) -> Iterator[Verdict]:
    for rule, reason in content_findings(example):
        yield rule.replace("-", "_"), reason


_LINK = re.compile(r"\b(?:https?://|www\.)[^\s<>\"'\])}]+", re.IGNORECASE)


def _links(settings: Filters) -> Callable[[Example], Iterator[Verdict]]:
    def check(example: Example) -> Iterator[Verdict]:
        asked = f"{example.instruction}\n{example.input}"
        for name in settings.urls:
            for link in _LINK.findall(getattr(example, name)):
                if name != "output" or link.rstrip(".,;:!?") not in asked:
                    yield "url", f"{name} holds {_excerpt(link)}"

    return check


def _personal(settings: Filters) -> Callable[[Example], Iterator[Verdict]]:
    kinds = frozenset(settings.personal)

    def check(example: Example) -> Iterator[Verdict]:
        for name in ("instruction", "input", "output"):
            if found := find_personal(getattr(example, name), kinds):
                kind, masked = found
                yield "personal", f"{name} holds {kind} {masked}"

    return check


def _language(settings: Filters) -> Callable[[Example], Iterator[Verdict]]:
    from alpaca_cli.data.language import make_language_check

    foreign = make_language_check(settings.language)

    def check(example: Example) -> Iterator[Verdict]:
        if found := foreign(example):
            yield "language", found

    return check


def _excerpt(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"

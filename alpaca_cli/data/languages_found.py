"""Which languages instructions and answers are in, and where the two do not fit together.

With py3langid (the extra [language]) languages are told as `alpaca_cli.data.language` does;
without it the letters tell the script, which says less but is never wrong. What has too few
letters of prose, or is code, is `unknown`.

An example counts as differing only when that is nearly certain: a wrong finding costs a person's
time, and a missed one is among many. Which probability that takes, and which tasks may be answered
in another language, is known to `alpaca_cli.data.language`.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

from alpaca_cli.core.records import Example
from alpaca_cli.core.stats_report import Languages, group, sample
from alpaca_cli.data.grouped import grouped
from alpaca_cli.data.language import (
    MIN_LETTERS,
    MIN_OUTPUT_LETTERS,
    make_detector,
    make_recogniser,
    may_differ,
    prose,
)

UNKNOWN = "unknown"
_MIN_SCRIPT_LETTERS = 4  # of prose; a script shows sooner than a language
_CHARACTERS_READ = 600
_SURE_SHARE = 0.9  # of the letters, for a script to be that of the text
# Words of Unicode's character names -> scripts, where the two are not the same.
_SCRIPTS = {"cjk": "han", "hiragana": "kana", "katakana": "kana", "halfwidth": "kana"}


def count_languages(examples: Sequence[Example]) -> Languages:
    """Languages (scripts, without py3langid) of instructions and outputs, largest first."""
    installed = find_spec("py3langid") is not None
    recognise = make_recogniser() if installed else _script
    least = MIN_LETTERS if installed else _MIN_SCRIPT_LETTERS
    asked = [recognise(example.instruction, least) or UNKNOWN for example in examples]
    answered = [recognise(example.output, least) or UNKNOWN for example in examples]
    pairs = zip(asked, answered, strict=True)
    suspicious = [number for number, pair in enumerate(pairs) if _apart(*pair)]
    surely = _surely_languages if installed else _surely_scripts
    differing = (
        sample(number + 1, examples[number].id, examples[number].output, note)
        for number in suspicious
        if not may_differ(examples[number])
        and (note := surely(examples[number], asked[number], answered[number]))
    )
    return Languages(
        method="py3langid" if installed else "script",
        instruction=grouped(examples, asked),
        output=grouped(examples, answered),
        differs=group(len(examples), differing),
    )


def _apart(asked: str, answered: str) -> bool:
    return asked != answered and UNKNOWN not in (asked, answered)


def _surely_languages(example: Example, asked: str, answered: str) -> str:
    """What differs, when neither text can be in the other one's language; else empty."""
    foreign = _detector(asked)(example.output, MIN_OUTPUT_LETTERS)
    if not foreign or not _detector(answered)(example.instruction, MIN_LETTERS):
        return ""
    return f"{asked} → {answered}"


def _surely_scripts(example: Example, asked: str, answered: str) -> str:
    """What differs, when nearly all letters of each text are of its script; else empty."""
    for text, least in ((example.instruction, MIN_LETTERS), (example.output, MIN_OUTPUT_LETTERS)):
        counts = _count_scripts(text)
        if counts.total() < least or max(counts.values()) < _SURE_SHARE * counts.total():
            return ""
    return f"{asked} → {answered}"


@cache
def _detector(code: str) -> Callable[[str, int], str]:
    return make_detector([code])


def _script(text: str, at_least: int) -> str:
    """The script of most letters of prose; empty when there are fewer than `at_least`.

    Japanese is written in two: with one letter of kana in ten, it is `kana`.
    """
    counts = _count_scripts(text)
    if counts.total() < at_least:
        return ""
    if counts["kana"] >= 0.1 * counts.total():
        return "kana"
    return counts.most_common(1)[0][0]


def _count_scripts(text: str) -> Counter[str]:
    words = prose(text[:_CHARACTERS_READ])
    if words.isascii():
        return Counter(latin=sum(map(str.isalpha, words)))
    return Counter(map(_script_of, filter(str.isalpha, words)))


@cache
def _script_of(letter: str) -> str:
    name = unicodedata.name(letter, "unknown").split()[0].lower()
    return _SCRIPTS.get(name, name)

"""Is an answer in the language of its question?

Told by py3langid where it is installed (the extra [language]), and for most rows without it: two
texts full of the commonest English words, or of Chinese characters, need no classifier. A finding
needs both directions to be nearly certain: the output is not in the language of the instruction,
and the instruction is not in that of the output; and a task that is not about languages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

from alpaca_cli.core.records import Example
from alpaca_cli.data.language import (
    MIN_LETTERS,
    MIN_OUTPUT_LETTERS,
    make_detector,
    make_language_check,
)

_COMMON = frozenset(
    {
        "the", "of", "and", "to", "a", "in", "is", "for", "that", "with", "you", "are", "on",
        "as", "be", "this", "an", "or", "your", "can", "by", "from", "it", "at", "have", "not",
        "what", "how", "why", "who", "which", "when", "would", "should", "does", "into",
        "between", "their", "its", "about", "three", "following", "given", "write", "create",
        "list", "generate", "name", "identify", "explain", "describe", "suggest", "provide",
        "make", "find", "using", "sentence", "word", "words",
    }
)  # fmt: skip
_HAN, _OTHER_EAST_ASIAN = re.compile("[\u4e00-\u9fff]"), re.compile("[\u3040-\u30ff\uac00-\ud7a3]")
_FIRST = 400  # characters that the quick look reads


def other_language(example: Example) -> str:
    """Which language is answered in which; empty where that is as it should, or not certain.

    Without py3langid nothing is said; scripts are still compared by the rule `script-mix`.
    """
    answered = _home(example.output[:_FIRST])
    if answered and answered == _home(example.instruction[:_FIRST]):
        return ""
    if not _installed():
        return ""
    # The output first: it is code as often as not, of which no model needs to be asked.
    answered = answered or _detector()(example.output, MIN_OUTPUT_LETTERS)
    if not answered or not _detector(answered)(example.instruction, MIN_LETTERS):
        return ""
    asked = _detector()(example.instruction, MIN_LETTERS)
    if not asked or not _detector(asked)(example.output, MIN_OUTPUT_LETTERS):
        return ""
    if not _check(asked)(example):
        return ""  # a task about languages, or about words in Latin letters
    return f"the instruction is in {asked}, the output in {answered}"


@cache
def _installed() -> bool:
    return find_spec("py3langid") is not None


@cache
def _detector(*codes: str) -> Callable[[str, int], str]:
    return make_detector(codes)


@cache
def _check(code: str) -> Callable[[Example], str]:
    return make_language_check([code])


def _home(text: str) -> str:
    """English or Chinese when a look at the commonest words or characters tells; else empty."""
    words = text.lower().split()
    common = sum(word in _COMMON for word in words)
    # Other languages in Latin letters have some of these words, and letters of their own.
    if common >= (0.12 if text.isascii() else 0.25) * max(len(words), 1):
        return "en"
    if len(_HAN.findall(text)) >= 0.3 * len(text) and not _OTHER_EAST_ASIAN.search(text):
        return "zh"
    return ""

"""ROUGE-L between two texts: the words that are compared, and the score.

Scores are the very floats of Google's `rouge-score` (F1, no stemmer), so that a threshold decides
here as it does there, ties included; the longest common subsequence itself comes from rapidfuzz.
Which of many texts are similar is found by `alpaca_cli.data.rouge_index`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from rapidfuzz.distance import LCSseq

Tokenizer = Literal["rouge", "unicode"]

_ROUGE_WORD = re.compile(r"[a-z0-9]+")
# Written without spaces: one token per letter (Han, kana, Thai, Lao, Myanmar, Khmer).
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# Invisible joiners stand inside words: soft hyphen, ZWNJ, ZWJ, word joiner.
_JOINERS = frozenset("\u00ad\u200c\u200d\u2060")


def tokenize(text: str, tokenizer: Tokenizer = "rouge") -> list[str]:
    """The words that are compared.

    `rouge` is `rouge_score.tokenizers.DefaultTokenizer(use_stemmer=False)`: lower case, runs of
    a-z and 0-9; everything else separates, so text in another script has no words at all.
    `unicode` keeps letters, digits and combining marks of every script, after compatibility
    normalisation and case folding; scripts written without spaces give one token per letter.
    """
    if tokenizer == "rouge":
        return _ROUGE_WORD.findall(text.lower())
    text = unicodedata.normalize("NFKC", text).casefold()
    return _ROUGE_WORD.findall(text) if text.isascii() else _words_of_any_script(text)


def _words_of_any_script(text: str) -> list[str]:
    words: list[str] = []
    joined = False  # does the next letter continue the last word?
    for character in text:
        kind = unicodedata.category(character)[0]
        if kind in "LN" and UNSPACED.match(character):
            words.append(character)
            joined = False
        elif kind in "LN":
            if joined:
                words[-1] += character
            else:
                words.append(character)
            joined = True
        elif kind == "M" and words:
            words[-1] += character
        elif character not in _JOINERS:
            joined = False
    return words


def score(a: Sequence[str], b: Sequence[str]) -> float:
    """ROUGE-L F1 of two token lists, between 0 and 1; 0 when one is empty. Symmetric."""
    if not a or not b:
        return 0.0
    return f_measure(LCSseq.similarity(a, b), len(a), len(b))


def f_measure(common: int, length_a: int, length_b: int) -> float:
    """F1 of a common subsequence of `common` tokens, in the arithmetic of `rouge-score`.

    Source: rouge_score.rouge_scorer._score_lcs and rouge_score.scoring.fmeasure. 2c / (a + b)
    is the same number but not always the same float, and 0.7 is not representable.
    """
    if not common:
        return 0.0
    precision, recall = common / length_b, common / length_a
    return 2 * precision * recall / (precision + recall)

"""ROUGE-L between short texts, and an index that finds the nearest earlier text exactly.

Scores are the very floats of Google's `rouge-score` (F1, no stemmer), so that a threshold decides
here as it does there, ties included; the longest common subsequence itself comes from rapidfuzz.
The index returns what a comparison with every stored text would return; it only skips pairs that
cannot exceed the threshold. It knows token lists and positions, not examples or files.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from rapidfuzz import process
from rapidfuzz.distance import Indel, LCSseq

Tokenizer = Literal["rouge", "unicode"]

_ROUGE_WORD = re.compile(r"[a-z0-9]+")
# Written without spaces: one token per letter (Han, kana, Thai, Lao, Myanmar, Khmer).
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# Invisible joiners stand inside words: soft hyphen, ZWNJ, ZWJ, word joiner.
_JOINERS = frozenset("\u00ad\u200c\u200d\u2060")
# Equal fractions are not always equal floats: bounds that skip pairs leave this much room, and
# the final decision is made on rouge-score's own float.
_SLACK = 1e-9
_SIGNATURE_BITS = 509  # prime, so that ids of tokens that arrive together spread


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
        if kind in "LN" and _UNSPACED.match(character):
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


class RougeIndex:
    """Texts seen so far, and the nearest of them for a new one.

    Only pairs that can exceed the threshold are compared. For such a pair the threshold and the
    two lengths give the fewest tokens they must share, which rules out nearly all others:

    - when the tokens of both stand in one order, their first n - k + 1 have one in common, k
      being the fewest that a text of length n must share (prefix filtering; Chaudhuri et al.
      2006). The order is newest token first: late tokens tend to be rare ones, and the order
      never changes while texts are added;
    - every bit of one text's signature (a bit per token, hashed) that the other lacks is a token
      that they do not share.

    Args:
        threshold: a text is similar when its F1 is greater than this; from 0 to 1.
    """

    def __init__(self, threshold: float) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, not {threshold}")
        self.threshold = threshold
        self._texts: list[list[int]] = []
        self._signatures: list[int] = []
        # The k-th occurrence of a token in a text is an element of its own: multisets are sets.
        self._elements: dict[tuple[str, int], int] = {}
        # Element -> length of text -> positions of texts that have the element in their prefix.
        self._postings: dict[int, dict[int, list[int]]] = {}
        self._first: dict[tuple[int, ...], int] = {}  # whole text -> its first position
        self._fewest: dict[tuple[int, int], int] = {}  # two lengths -> see `_needed`
        self._shortest: dict[int, int] = {}  # length -> length of the shortest similar text

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, tokens: Sequence[str]) -> int:
        """Store a text; returns its position, counted from 0."""
        position = len(self._texts)
        ids, elements = self._encode(tokens)
        self._texts.append(ids)
        self._signatures.append(_signature(elements))
        if ids:
            self._first.setdefault(tuple(ids), position)
            for element in self._prefix(elements):
                by_length = self._postings.setdefault(element, {})
                by_length.setdefault(len(ids), []).append(position)
        return position

    def nearest(self, tokens: Sequence[str]) -> tuple[int, float] | None:
        """Position and F1 of the most similar stored text above the threshold, else None.

        Of equally similar texts the earliest. A text without tokens is similar to nothing.
        """
        ids, elements = self._encode(tokens)
        if not ids:
            return None
        # Nothing is more similar than the same tokens, and nothing but them scores 1.
        twin = self._first.get(tuple(ids))
        if twin is not None:
            return (twin, 1.0) if self.threshold < 1 else None
        best: tuple[int, float] | None = None
        for position in self._candidates(elements):
            text = self._texts[position]
            f1 = f_measure(LCSseq.similarity(ids, text), len(ids), len(text))
            if f1 > self.threshold and (best is None or (f1, -position) > (best[1], -best[0])):
                best = (position, f1)
        return best

    def _encode(self, tokens: Iterable[str]) -> tuple[list[int], list[int]]:
        """Token ids in the order of the text, and its elements (see `_elements`)."""
        seen: dict[str, int] = {}
        ids, elements = [], []
        known = self._elements
        for token in tokens:
            count = seen.get(token, 0)
            seen[token] = count + 1
            ids.append(known.setdefault((token, 0), len(known)))
            elements.append(known.setdefault((token, count), len(known)))
        return ids, elements

    def _prefix(self, elements: list[int]) -> list[int]:
        """The newest elements, one of which a similar text has among its own newest."""
        length = len(elements)
        if length not in self._shortest:
            # The shortest similar text shares the fewest tokens: all it has.
            self._shortest[length] = next(
                (n for n in range(1, length + 1) if self._needed(length, n) <= n), length + 1
            )
        return sorted(elements, reverse=True)[: length - self._shortest[length] + 1]

    def _needed(self, length: int, other: int) -> int:
        """The fewest common tokens with which texts of these lengths exceed the threshold."""
        key = (length, other)
        if key not in self._fewest:
            self._fewest[key] = fewest_common(length, other, self.threshold)
        return self._fewest[key]

    def _candidates(self, elements: list[int]) -> Iterator[int]:
        """Positions of the stored texts that may exceed the threshold, each once."""
        length, signature = len(elements), _signature(elements)
        signatures = self._signatures
        found: dict[int, set[int]] = {}
        for element in self._prefix(elements):
            for other, positions in self._postings.get(element, {}).items():
                found.setdefault(other, set()).update(positions)
        for other, candidates in found.items():
            needed = self._needed(length, other)
            if needed <= min(length, other):
                for position in candidates:
                    if (signature & ~signatures[position]).bit_count() <= length - needed:
                        yield position


def _signature(elements: Iterable[int]) -> int:
    """A bit for each element; different elements may share one."""
    signature = 0
    for element in elements:
        signature |= 1 << element % _SIGNATURE_BITS
    return signature


def fewest_common(length_a: int, length_b: int, threshold: float) -> int:
    """The fewest common tokens with which texts of these lengths can exceed the threshold.

    More than the shorter text has when none suffices. At most, not exactly, for the floats.
    """
    common = max(1, int(threshold * (length_a + length_b) / 2) - 1)
    while (
        common <= min(length_a, length_b)
        and f_measure(common, length_a, length_b) <= threshold - _SLACK
    ):
        common += 1
    return common


def nearest_scores(
    token_lists: Sequence[Sequence[str]],
    sample: Iterable[int],
    step: Callable[[], None] = lambda: None,
) -> list[float]:
    """For each position in `sample`, the F1 with the most similar other text; 0 when none.

    Exact, by comparing with every text: about 0.2 microseconds a pair. `step` is called once
    for each position.
    """
    ids: dict[str, int] = {}
    lists = [[ids.setdefault(token, len(ids)) for token in tokens] for tokens in token_lists]
    # rapidfuzz is twice as fast on str; code points end at 0x10FFFF.
    texts: list[str] | list[list[int]] = lists
    if len(ids) < 0x110000:
        texts = ["".join(map(chr, codes)) for codes in lists]
    scores = []
    for position in sample:
        text = texts[position]
        # Two texts without tokens are equal to rapidfuzz, and not similar to rouge-score.
        found = None
        if text:
            others = {other: value for other, value in enumerate(texts) if other != position}
            found = process.extractOne(text, others, scorer=Indel.normalized_similarity)
        if found is None:
            scores.append(0.0)
        else:
            common = round(found[1] * (len(text) + len(found[0])) / 2)
            scores.append(f_measure(common, len(text), len(found[0])))
        step()
    return scores

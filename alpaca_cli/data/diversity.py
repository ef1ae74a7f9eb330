"""How varied the words of many texts are, taken together.

Every measure says something else. Distinct-n and the compression ratio depend on how much text
there is: compare sets of about one size by them. The entropy does so less, MTLD hardly at all.
What a word is, the caller decides.

Sources: distinct-n, Li et al. 2016 (arXiv:1510.03055); MTLD, McCarthy and Jarvis 2010
(doi:10.3758/BRM.42.2.381); compression ratio, Shaib et al. 2024 (arXiv:2403.00553).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from alpaca_cli.core.stats_report import Diversity

MTLD_THRESHOLD = 0.72  # type-token ratio at which a factor is complete


def measure_diversity(texts: Sequence[Sequence[str]], raw: Sequence[str]) -> Diversity:
    """The measures of all texts together.

    Args:
        texts: the words of each text.
        raw: the texts as they are written, for the compression ratio.
    """
    numbers: dict[str, int] = {}
    flat = [numbers.setdefault(word, len(numbers)) for text in texts for word in text]
    words = np.array(flat, dtype=np.int64)
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words to the text's end
    distinct = _distinct_runs(words, left, len(numbers))
    return Diversity(
        words=len(words),
        distinct_words=len(numbers),
        distinct_1=distinct[0],
        distinct_2=distinct[1],
        distinct_3=distinct[2],
        entropy=_entropy(words),
        mtld=mtld(flat),
        compression=_compression(raw),
    )


def _distinct_runs(
    words: NDArray[np.int64], left: NDArray[np.int64], distinct_words: int
) -> list[float]:
    """Share of distinct runs of one, two and three words, of all such runs within texts.

    A run is one number, made of the number of the run without its last word (at most as many as
    there are words, so that nothing overflows) and the number of that word.
    """
    shares = [round(distinct_words / len(words), 6) if len(words) else 0.0]
    starts = np.arange(len(words))
    runs = words
    for length in (2, 3):
        goes_on = left[starts] >= length
        starts = starts[goes_on]
        longer = runs[goes_on] * distinct_words + words[starts + length - 1]
        kinds, runs = np.unique(longer, return_inverse=True)
        shares.append(round(len(kinds) / len(longer), 6) if len(longer) else 0.0)
    return shares


def _entropy(words: NDArray[np.int64]) -> float:
    """Shannon entropy of the words' frequencies, in bits; 0 of nothing."""
    if not len(words):
        return 0.0
    shares = np.bincount(words) / len(words)
    return round(max(0.0, float(-(shares * np.log2(shares)).sum())), 6)


def mtld(words: Sequence[int] | Sequence[str]) -> float | None:
    """The mean length of runs of words in which the type-token ratio stays above 0.72.

    The mean of reading forward and backward. None when not one run ends in either direction: too
    few words to have a measure.
    """
    forward, backward = _factors(words), _factors(reversed(words))
    if forward < 1 or backward < 1:
        return None
    return round((len(words) / forward + len(words) / backward) / 2, 6)


def _factors(words: Iterable[int | str]) -> float:
    """How often the type-token ratio falls to the threshold; the rest counts in part."""
    factors = 0
    seen: set[int | str] = set()
    length = 0
    for word in words:
        length += 1
        seen.add(word)
        if len(seen) / length <= MTLD_THRESHOLD:
            factors += 1
            seen.clear()
            length = 0
    rest = (1 - len(seen) / length) / (1 - MTLD_THRESHOLD) if length else 0.0
    return factors + rest


def _compression(raw: Sequence[str]) -> float:
    """Bytes of the texts, one to a line, over their bytes in a zlib stream of level 6."""
    compressor = zlib.compressobj(6)
    before = after = 0
    for number, text in enumerate(raw):
        data = ("\n" + text if number else text).encode()
        before += len(data)
        after += len(compressor.compress(data))
    after += len(compressor.flush())
    return round(before / after, 6)

"""Lexical diversity: the formulas against plain reckoning, and against values known elsewhere."""

from __future__ import annotations

import math
import random
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.data.diversity import measure_diversity, mtld
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.rouge import tokenize

TEXTS = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=9), max_size=12)


def runs(texts: list[list[str]], length: int) -> list[tuple[str, ...]]:
    return [
        tuple(text[start : start + length])
        for text in texts
        for start in range(len(text) - length + 1)
    ]


@given(TEXTS)
def test_distinct_runs_and_entropy_are_what_one_counts(texts: list[list[str]]) -> None:
    found = measure_diversity(texts, [" ".join(text) for text in texts])
    for length, share in enumerate((found.distinct_1, found.distinct_2, found.distinct_3), 1):
        every = runs(texts, length)
        assert share == (pytest.approx(len(set(every)) / len(every), abs=1e-6) if every else 0)
    counts = Counter(word for text in texts for word in text)
    total = counts.total()
    assert (found.words, found.distinct_words) == (total, len(counts))
    entropy = -sum(n / total * math.log2(n / total) for n in counts.values())
    assert found.entropy == pytest.approx(entropy, abs=1e-6)


def test_runs_do_not_cross_texts() -> None:
    apart = measure_diversity([["a", "b"], ["a", "b"]], ["a b", "a b"])
    assert (apart.distinct_2, apart.distinct_3) == (0.5, 0)
    joined = measure_diversity([["a", "b", "a", "b"]], ["a b a b"])
    assert joined.distinct_2 == pytest.approx(2 / 3, abs=1e-6)
    assert joined.distinct_3 == 1


def test_mtld_by_hand() -> None:
    # Forward: a b c (3/3, but 2/3 after "a b a"): "a b a" is a factor (2/3 <= 0.72), then
    # "c c" (1/2) is one, and "d e" is left with a ratio of 1: no part. 7 words, 2 factors: 3.5.
    # Backward: e d c c (3/4 > 0.72), then e d c c a (4/5), then b (5/6), then a (5/7 <= 0.72):
    # 1 factor of 7 words: 7. The mean is 5.25.
    assert mtld("abaccde") == 5.25
    # Forward: "a a" (1/2), then "b c d d": 3/4 is a part of (1 - 0.75) / (1 - 0.72) of a factor.
    # Backward: "d d", then "c b a a" with the same part.
    part = 0.25 / 0.28
    assert mtld("aabcdd") == pytest.approx(6 / (1 + part), abs=1e-6)


def test_texts_that_never_repeat_have_no_mtld() -> None:
    assert mtld([]) is None
    assert mtld("abcd") is None


def zipf(words: int, kinds: int, seed: int) -> list[str]:
    """Words with the frequencies of running text (Zipf): the same list for the same seed."""
    draw = random.Random(seed)
    weights = [1 / rank for rank in range(1, kinds + 1)]
    return [f"w{number}" for number in draw.choices(range(kinds), weights, k=words)]


# lexicalrichness 0.5.1: LexicalRichness(words, preprocessor=None, tokenizer=None).mtld(0.72)
@pytest.mark.parametrize(
    ("words", "kinds", "seed", "expected"),
    [(300, 50, 1, 9.770017), (2000, 3000, 2, 71.925557), (5000, 400, 3, 25.518155)],
)
def test_mtld_is_that_of_lexicalrichness(
    words: int, kinds: int, seed: int, expected: float
) -> None:
    assert mtld(zipf(words, kinds, seed)) == pytest.approx(expected, abs=1e-6)


def test_compression_is_zlib_at_level_6() -> None:
    raw = ["The sky is blue.", "The sky is blue, too.", "Ein grünes Dach."] * 20
    joined = "\n".join(raw).encode()
    assert measure_diversity([], raw).compression == pytest.approx(
        len(joined) / len(zlib.compress(joined, 6)), rel=1e-6
    )


def test_more_of_the_same_is_less_diverse(real_data: Path) -> None:
    texts = [e.output for e in read_examples([real_data / "alpaca_en_demo.json"])]
    words = [tokenize(text, "unicode") for text in texts]
    varied = measure_diversity(words[:400], texts[:400])
    same = measure_diversity(words[:40] * 10, texts[:40] * 10)
    assert varied.distinct_2 > 5 * same.distinct_2
    assert varied.compression < same.compression
    assert varied.entropy > same.entropy


def test_nothing_has_no_diversity() -> None:
    found = measure_diversity([], [])
    assert (found.words, found.distinct_1, found.entropy, found.mtld) == (0, 0, 0, None)
    assert found.compression == 0

"""Decisions, survivors and scores are those of comparing every pair with rouge-score."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Indel, LCSseq
from rouge_score import rouge_scorer

from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.rouge import f_measure, score, tokenize
from alpaca_cli.data.rouge_index import RougeIndex, first_stays, nearest_others, similar_pairs
from alpaca_cli.data.rouge_kernels import LONGEST

Texts = Sequence[Sequence[str]]
Found = tuple[int, float] | None

# 0.5, 0.6, 2/3, 0.75 and 0.8 are scores that short texts hit exactly; 0.7 as a float is none.
THRESHOLDS = (0.0, 0.2, 0.4, 0.5, 0.6, 2 / 3, 0.7, 0.75, 0.8, 0.98, 1.0)

thresholds = st.one_of(st.sampled_from(THRESHOLDS), st.floats(0, 1))
words = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=9)
# Long enough for bit masks of several words, with few and with many different tokens.
long_words = st.lists(st.sampled_from([f"w{n}" for n in range(30)]), min_size=55, max_size=200)
texts_of_any_length = st.lists(st.one_of(words, long_words), max_size=7)


def reference(a: Sequence[str], b: Sequence[str]) -> float:
    """F1 by rouge-score's own code, as Stanford Alpaca calls it."""
    return float(rouge_scorer._score_lcs(a, b).fmeasure)


def best_of(scores: Sequence[tuple[int, float]], threshold: float) -> Found:
    """The highest score above the threshold, of equal ones the first."""
    above = [pair for pair in scores if pair[1] > threshold]
    return max(above, key=lambda pair: (pair[1], -pair[0]), default=None)


def earlier_by_brute_force(texts: Texts, threshold: float) -> list[Found]:
    return [
        best_of([(earlier, reference(text, texts[earlier])) for earlier in range(n)], threshold)
        for n, text in enumerate(texts)
    ]


def earlier_by_index(texts: Texts, threshold: float) -> list[Found]:
    index = RougeIndex(threshold)
    found = []
    for number, text in enumerate(texts):
        found.append(index.nearest(text))
        assert index.add(text) == number
    assert len(index) == len(texts)
    return found


def stays_by_brute_force(texts: Texts, threshold: float, given: int = 0) -> list[Found]:
    decisions: list[Found] = [None] * given
    for number in range(given, len(texts)):
        staying = [n for n in range(number) if decisions[n] is None]
        decisions.append(
            best_of([(n, reference(texts[n], texts[number])) for n in staying], threshold)
        )
    return decisions


def stays(texts: Texts, threshold: float, given: int = 0, threads: int = 1) -> list[Found]:
    result = first_stays(texts, threshold, given=given, threads=threads)
    return [
        None if survivor < 0 else (int(survivor), float(value))
        for survivor, value in zip(result.survivors, result.scores, strict=True)
    ]


@given(st.lists(words, max_size=12), thresholds)
def test_the_index_finds_what_brute_force_finds(texts: Texts, threshold: float) -> None:
    assert earlier_by_index(texts, threshold) == earlier_by_brute_force(texts, threshold)


@given(st.lists(st.lists(st.one_of(words, long_words), max_size=6), max_size=5), thresholds)
def test_admitting_is_looking_and_then_adding_what_is_new(
    groups: Sequence[Texts], threshold: float
) -> None:
    one, many = RougeIndex(threshold), RougeIndex(threshold)
    for texts in groups:
        expected = []
        for text in texts:
            expected.append(one.nearest(text))
            if expected[-1] is None:
                one.add(text)
        assert many.admit(texts) == expected
        assert len(many) == len(one)


@given(texts_of_any_length, thresholds)
def test_long_texts_too(texts: Texts, threshold: float) -> None:
    assert earlier_by_index(texts, threshold) == earlier_by_brute_force(texts, threshold)


@given(st.lists(words, max_size=12), thresholds, st.integers(0, 3), st.integers(1, 3))
def test_the_first_stays_as_by_brute_force(
    texts: Texts, threshold: float, given: int, threads: int
) -> None:
    given = min(given, len(texts))
    assert stays(texts, threshold, given, threads) == stays_by_brute_force(texts, threshold, given)


@given(texts_of_any_length, thresholds)
def test_all_similar_pairs_are_found(texts: Texts, threshold: float) -> None:
    found = {
        (int(a), int(b)): float(value)
        for pairs, values in similar_pairs(texts, threshold, threads=2)
        for a, b, value in zip(*pairs, values, strict=True)
    }
    expected = {
        (a, b): value
        for b in range(len(texts))
        for a in range(b)
        if (value := reference(texts[a], texts[b])) > threshold
    }
    assert found == expected


@given(st.lists(words, max_size=12))
def test_nearest_others_are_the_best_of_all_others(texts: Texts) -> None:
    positions, scores = nearest_others(texts, threads=1)
    for number, text in enumerate(texts):
        others = [(n, reference(text, texts[n])) for n in range(len(texts)) if n != number]
        assert (int(positions[number]), float(scores[number])) == (
            best_of(others, 0.0) or (-1, 0.0)
        )


def test_nearest_others_of_a_sample() -> None:
    texts = [text.split() for text in ("a b c", "x", "a b d", "a b c d", "")]
    positions, scores = nearest_others(texts, [3, 1, 4])
    assert positions.tolist() == [0, -1, -1]
    assert scores.tolist() == [score(texts[3], texts[0]), 0.0, 0.0]


def test_on_real_instructions_at_every_threshold(real_data: Path) -> None:
    examples = read_examples([real_data / "seed_tasks.jsonl"])
    examples += read_examples([real_data / "code_alpaca_2k.json"])[:150]
    tokens = [tokenize(example.instruction) for example in examples]
    scores = [[reference(a, b) for b in tokens[:number]] for number, a in enumerate(tokens)]
    ties = 0
    for threshold in THRESHOLDS:
        expected = [best_of(list(enumerate(row)), threshold) for row in scores]
        ties += sum(row.count(threshold) for row in scores)
        assert earlier_by_index(tokens, threshold) == expected
    assert ties > 100  # thresholds that are hit exactly were really tested


@pytest.mark.parametrize("key", ["instruction", "output"])
def test_first_stays_on_real_files(real_data: Path, key: str) -> None:
    # Thousands of texts of all lengths: every pair by rapidfuzz, whose LCS is rouge-score's.
    files = ("seed_tasks.jsonl", "code_alpaca_2k.json", "alpaca_en_demo.json")
    examples = read_examples([real_data / name for name in files])
    texts = [tokenize(getattr(example, key)) for example in examples][
        :: 1 if key != "output" else 4
    ]
    for threshold in (0.4, 0.7):
        kept: list[int] = []
        expected: list[Found] = []
        for number, text in enumerate(texts):
            found = best_of([(n, _score_of_ids(texts[n], text)) for n in kept], threshold)
            expected.append(found)
            if found is None:
                kept.append(number)
        assert stays(texts, threshold, threads=2) == expected
        assert len(kept) < len(texts)


def _score_of_ids(a: Sequence[str], b: Sequence[str]) -> float:
    if not a or not b or 2 * min(len(a), len(b)) <= 0.39 * (len(a) + len(b)):
        return 0.0
    return f_measure(LCSseq.similarity(a, b), len(a), len(b))


def test_blocks_threads_and_growth_change_nothing() -> None:
    # More texts than are searched for at once, with copies and near-copies in the same block.
    rng = random.Random(7)
    vocabulary = [f"w{n}" for n in range(300)]
    texts: list[list[str]] = []
    for _ in range(5000):
        if texts and rng.random() < 0.3:
            text = list(rng.choice(texts[-1000:]))
            if text and rng.random() < 0.7:
                text[rng.randrange(len(text))] = rng.choice(vocabulary)
        else:
            text = rng.choices(vocabulary, k=rng.randint(0, 14))
        texts.append(text)
    index = RougeIndex(0.6)
    kept: list[int] = []
    expected: list[Found] = []
    for number, text in enumerate(texts):
        near = index.nearest(text)
        expected.append(None if near is None else (kept[near[0]], near[1]))
        if near is None:
            index.add(text)
            kept.append(number)
    assert stays(texts, 0.6, threads=1) == stays(texts, 0.6, threads=3) == expected
    assert len(kept) < 4500


def test_a_score_of_exactly_the_threshold_is_not_above_it() -> None:
    index = RougeIndex(0.5)
    index.add(["a", "b"])
    assert score(["a", "b"], ["a", "c"]) == 0.5
    assert index.nearest(["a", "c"]) is None
    assert index.nearest(["a", "b", "c"]) == (0, 0.8)


def test_equal_fractions_are_decided_by_their_floats() -> None:
    # 2 · 6 / (15 + 15) is 0.4, and rouge-score's float for it is larger.
    a = [f"a{number}" for number in range(15)]
    b = [*a[:6], *(f"b{number}" for number in range(9))]
    assert reference(a, b) > 0.4
    assert Indel.normalized_similarity(a, b) == 0.4
    index = RougeIndex(0.4)
    index.add(a)
    assert index.nearest(b) == (0, reference(a, b))


def test_the_first_of_equally_similar_texts_is_named() -> None:
    index = RougeIndex(0.5)
    for text in ("x y z", "a b c d", "a b c e", "a b c f", "a b c e"):
        index.add(text.split())
    assert index.nearest(["a", "b", "c", "g"]) == (1, 0.75)
    assert index.nearest(["a", "b", "c", "e"]) == (2, 1.0)


def test_permutations_share_all_words_and_are_not_similar() -> None:
    text = [f"w{number}" for number in range(12)]
    index = RougeIndex(0.7)
    index.add(text)
    assert index.nearest(text[::-1]) is None
    assert index.nearest([*text[6:], *text[:6]]) is None
    assert index.nearest([*text[1:], text[0]]) == (0, reference(text, [*text[1:], text[0]]))


def test_texts_without_tokens_are_similar_to_nothing() -> None:
    index = RougeIndex(0.0)
    assert index.add([]) == 0
    assert index.nearest([]) is None
    assert index.nearest(["a"]) is None
    assert stays([[], [], ["a"], []], 0.0) == [None] * 4


def test_nothing_is_above_one() -> None:
    assert stays([["a"], ["a"], ["a", "b"], ["a"]], 1.0) == [None] * 4


def test_repeated_tokens_count_as_often_as_they_occur() -> None:
    index = RougeIndex(0.6)
    index.add(["no", "no", "no", "no"])
    assert index.nearest(["no"]) is None
    assert index.nearest(["no", "no", "no"]) == (0, reference(["no"] * 4, ["no"] * 3))


def test_two_thousand_tokens() -> None:
    rng = random.Random(3)
    text = rng.choices([f"w{n}" for n in range(500)], k=2000)
    near = [word for word in text if rng.random() < 0.8] + rng.choices(text, k=100)
    far = rng.sample(text, len(text))
    index = RougeIndex(0.7)
    index.add(far)
    index.add(text)
    assert index.nearest(near) == (1, reference(text, near))
    assert reference(text, far) < 0.7


def test_texts_longer_than_the_postings_can_say() -> None:
    text = [f"w{number % 40_000}" for number in range(LONGEST + 5000)]
    cut = text[:-3000]
    index = RougeIndex(0.9)
    index.add(text)
    assert index.nearest(cut) == (0, f_measure(len(cut), len(cut), len(text)))
    assert index.nearest(text[: LONGEST // 2]) is None


def test_what_a_text_costs_does_not_grow_with_texts_of_other_words() -> None:
    def postings_per_text(size: int) -> float:
        rng = random.Random(1)
        topics = [[f"t{topic}-{n}" for n in range(20)] for topic in range(size // 20)]
        texts = [rng.choices(rng.choice(topics), k=12) for _ in range(size)]
        return first_stays(texts, 0.7, threads=1).counts["scanned"] / size

    assert 1 < postings_per_text(20_000) < 1.1 * postings_per_text(2_000)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        RougeIndex(threshold)


def test_positions_and_scores_are_plain_arrays() -> None:
    result = first_stays([["a", "b"], ["a", "b"]], 0.5)
    assert result.survivors.dtype == np.int64
    assert result.survivors.tolist() == [-1, 0]

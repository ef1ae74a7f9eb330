"""Scores, decisions and survivors are rouge-score's own, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Indel
from rouge_score import rouge_scorer, tokenizers

from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.rouge import RougeIndex, nearest_scores, score, tokenize

REFERENCE_TOKENIZER = tokenizers.DefaultTokenizer(use_stemmer=False)
# 0.5, 0.6, 2/3, 0.75 and 0.8 are scores that short texts hit exactly; 0.7 as a float is none.
THRESHOLDS = (0.0, 0.2, 0.4, 0.5, 0.6, 2 / 3, 0.7, 0.75, 0.8, 0.98, 1.0)


def reference(a: list[str], b: list[str]) -> float:
    """F1 by rouge-score's own code, as Stanford Alpaca calls it."""
    return float(rouge_scorer._score_lcs(a, b).fmeasure)


def brute_force(texts: list[list[str]], threshold: float) -> list[tuple[int, float] | None]:
    """For each text the most similar earlier one above the threshold, by comparing with all."""
    found: list[tuple[int, float] | None] = []
    for number, text in enumerate(texts):
        best = None
        for earlier in range(number):
            value = reference(text, texts[earlier])
            if value > threshold and (best is None or value > best[1]):
                best = (earlier, value)
        found.append(best)
    return found


def by_index(texts: list[list[str]], threshold: float) -> list[tuple[int, float] | None]:
    index = RougeIndex(threshold)
    found = []
    for number, text in enumerate(texts):
        found.append(index.nearest(text))
        assert index.add(text) == number
    assert len(index) == len(texts)
    return found


words = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=9)


@given(st.text())
def test_tokens_are_those_of_rouge_score(text: str) -> None:
    assert tokenize(text) == REFERENCE_TOKENIZER.tokenize(text)


@given(words, words)
def test_scores_are_those_of_rouge_score(a: list[str], b: list[str]) -> None:
    assert score(a, b) == reference(a, b) == score(b, a)


@given(st.lists(words, max_size=12), st.sampled_from(THRESHOLDS))
def test_the_index_decides_like_brute_force(texts: list[list[str]], threshold: float) -> None:
    assert by_index(texts, threshold) == brute_force(texts, threshold)


def test_on_real_instructions(real_data: Path) -> None:
    examples = read_examples([real_data / "seed_tasks.jsonl"])
    examples += read_examples([real_data / "code_alpaca_2k.json"])[:150]
    tokens = [tokenize(example.instruction) for example in examples]
    assert tokens == [REFERENCE_TOKENIZER.tokenize(example.instruction) for example in examples]
    scores = [[reference(a, b) for b in tokens[:number]] for number, a in enumerate(tokens)]
    ties = 0
    for threshold in THRESHOLDS:
        expected = []
        for row in scores:
            best = max(row, default=0.0)
            expected.append((row.index(best), best) if best > threshold else None)
            ties += row.count(threshold)
        assert by_index(tokens, threshold) == expected
    assert ties > 100  # thresholds that are hit exactly were really tested


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


def test_texts_without_tokens_are_similar_to_nothing() -> None:
    index = RougeIndex(0.0)
    assert index.add([]) == 0
    assert index.nearest([]) is None
    assert index.nearest(["a"]) is None
    assert score([], []) == 0.0


def test_repeated_tokens_count_as_often_as_they_occur() -> None:
    index = RougeIndex(0.6)
    index.add(["no", "no", "no", "no"])
    assert index.nearest(["no"]) is None
    assert index.nearest(["no", "no", "no"]) == (0, reference(["no"] * 4, ["no"] * 3))


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        RougeIndex(threshold)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't stop, Café!", ["don", "t", "stop", "café"]),
        ("snake_case 3.14", ["snake", "case", "3", "14"]),
        ("写一个 Python 函数。", ["写", "一", "个", "python", "函", "数"]),
        ("カタカナとひらがな", list("カタカナとひらがな")),
        ("한국어 문장", ["한국어", "문장"]),
        ("Привет, мир", ["привет", "мир"]),
        ("हिन्दी में लिखें", ["हिन्दी", "में", "लिखें"]),  # vowel signs stay inside the words
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),  # a mark stays with its letter
        ("می\u200cخواهم", ["میخواهم"]),  # the invisible joiner does not split
        ("ＡＢＣ１２", ["abc12"]),
        ("— … !", []),
    ],
)
def test_words_of_every_script(text: str, tokens: list[str]) -> None:
    assert tokenize(text, "unicode") == tokens


@given(st.text(st.characters(max_codepoint=127)))
def test_both_tokenizers_agree_on_ascii(text: str) -> None:
    assert tokenize(text, "unicode") == tokenize(text, "rouge")


@given(st.lists(words, min_size=1, max_size=10))
def test_nearest_scores_are_the_best_of_all_others(texts: list[list[str]]) -> None:
    steps: list[None] = []
    found = nearest_scores(texts, range(len(texts)), lambda: steps.append(None))
    assert len(steps) == len(texts)
    for number, value in enumerate(found):
        others = texts[:number] + texts[number + 1 :]
        assert value == pytest.approx(
            max((reference(texts[number], other) for other in others), default=0.0)
        )

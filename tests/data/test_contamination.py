"""What is found is what a comparison with every evaluation text finds."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_cli.core.records import Example
from alpaca_cli.data.contamination import FEWEST_WORDS, EvaluationTexts, Overlap
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.rouge import tokenize

# 1/3, 2/3, 0.3 and 0.7 are no exact floats; texts of 3 and 10 n-grams hit them exactly.
SHARES = (1e-9, 0.2, 0.25, 0.3, 1 / 3, 0.5, 2 / 3, 0.7, 1.0)


def naive(
    texts: Sequence[Sequence[str]], ngram: int, share: float, tokens: Sequence[str]
) -> Overlap | None:
    """Every n-gram of every text, looked for at every place of the example."""
    best = None
    for position, text in enumerate(texts):
        if len(text) < FEWEST_WORDS:
            continue
        length = min(ngram, len(text))
        runs = {tuple(text[start : start + length]) for start in range(len(text) - length + 1)}
        found = sum(
            any(tuple(tokens[start : start + length]) == run for start in range(len(tokens)))
            for run in runs
        )
        value = found / len(runs)
        if value >= share and (best is None or value > best.share):
            best = Overlap(position, value)
    return best


words = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=16)


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[list[str]], list[str]]:
    """Evaluation texts, and an example made of pieces of them and of other words."""
    texts = draw(st.lists(words, max_size=8))
    example: list[str] = []
    for piece in draw(st.lists(st.sampled_from([*texts, ["a", "d"], ["x"]]), max_size=4)):
        start = draw(st.integers(0, len(piece)))
        example += piece[start : draw(st.integers(start, len(piece)))]
    return texts, example


@settings(max_examples=1000)
@given(corpora(), st.integers(1, 9), st.sampled_from(SHARES) | st.floats(0.01, 1))
def test_decides_like_a_comparison_with_every_text(
    corpus: tuple[list[list[str]], list[str]], ngram: int, share: float
) -> None:
    texts, example = corpus
    index = EvaluationTexts(texts, ngram, share)
    assert index.worst(example) == naive(texts, ngram, share, example)
    assert index.without_words == sum(not text for text in texts)
    assert index.too_short == sum(0 < len(text) < FEWEST_WORDS for text in texts)
    for text in texts:
        assert index.worst(text) == naive(texts, ngram, share, text)


@pytest.mark.parametrize("count", range(1, 60))
def test_a_share_that_is_reached_exactly_is_found(count: int) -> None:
    text = [str(number) for number in range(count + FEWEST_WORDS - 1)]
    for common in range(1, count + 1):
        example = text[: common + FEWEST_WORDS - 1]
        index = EvaluationTexts([text], FEWEST_WORDS, common / count)
        assert index.worst(example) == Overlap(0, common / count)
        assert index.worst(example[:-1]) is None


def test_the_largest_share_wins_and_of_equal_ones_the_first() -> None:
    texts = [list("abcdefgh"), list("abcdefgz"), list("abcdefgh"), list("stuvwxyz")]
    index = EvaluationTexts(texts, 5, 0.5)
    assert index.worst(list("__abcdefgz__")) == Overlap(1, 1.0)
    assert index.worst(list("__abcdefgh__")) == Overlap(0, 1.0)
    assert index.worst(list("abcdefg")) == Overlap(0, 0.75)
    assert index.worst(list("abcdef_stuvwxyz")) == Overlap(3, 1.0)
    assert index.worst(list("stuvwxyz_abcdefgh")) == Overlap(0, 1.0)
    assert index.worst(list("abcde_stuvw")) is None


def test_a_repeated_ngram_counts_once() -> None:
    index = EvaluationTexts([["ha"] * 9 + ["end"]], 5, 0.1)
    assert index.worst(["ha"] * 5) == Overlap(0, 0.5)
    assert index.worst(["ha"] * 50) == Overlap(0, 0.5)


def test_a_text_shorter_than_an_ngram_is_found_whole_and_in_a_row() -> None:
    index = EvaluationTexts([list("abcdef"), list("abcde"), list("uvwxyz")], 8, 0.1)
    assert index.worst(list("__abcde__")) == Overlap(1, 1.0)
    assert index.worst(list("__abcdef")) == Overlap(0, 1.0)
    assert index.worst(list("abcd_e")) is None
    assert index.worst(list("abcdabcde")) == Overlap(1, 1.0)
    assert index.worst(list("zuvwxy")) is None
    # Whole, it wins over a longer text that is there in part.
    mixed = EvaluationTexts([list("abcdefghijk"), list("pqrst")], 8, 0.1)
    assert mixed.worst(list("abcdefghij_pqrst")) == Overlap(1, 1.0)
    assert mixed.worst(list("abcdefghij_pqrs")) == Overlap(0, 0.75)


def test_everyday_phrases_are_not_looked_for_but_counted() -> None:
    phrases = ["Translate", "Answer this.", "Answer the following question:", "!!!", ""]
    index = EvaluationTexts([tokenize(phrase, "unicode") for phrase in phrases], 1, 0.5)
    assert (index.too_short, index.without_words) == (3, 2)
    for phrase in phrases:
        assert index.worst(tokenize(phrase, "unicode")) is None
    five = [*phrases, "Answer the following question twice"]
    index = EvaluationTexts([tokenize(phrase, "unicode") for phrase in five], 8, 0.5)
    assert index.too_short == 3
    assert index.worst(tokenize(f"Please: {five[-1]}!", "unicode")) == Overlap(5, 1.0)


def test_nothing_to_look_for_or_to_look_in() -> None:
    assert EvaluationTexts([], 8, 0.5).worst(["a"] * 20) is None
    index = EvaluationTexts(iter([["a"] * 20]), 8, 0.5)
    assert index.worst([]) is None
    assert index.worst(["a"] * 7) is None
    assert index.worst(["a"] * 8) == Overlap(0, 1.0)


@pytest.mark.parametrize(("ngram", "share"), [(0, 0.5), (8, 0.0), (8, 1.01), (8, float("nan"))])
def test_settings_out_of_range_are_refused(ngram: int, share: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        EvaluationTexts([], ngram, share)


@pytest.mark.parametrize(
    "text",
    [
        "写一篇关于气候变化对农业影响的短文",
        "اكتب قصيدة قصيرة عن البحر والسماء في الليل",
        "बारिश के मौसम के बारे में एक छोटी कहानी लिखिए",
        "Напишите короткое письмо другу о вашем последнем путешествии",
        "แปลประโยคต่อไปนี้เป็นภาษาอังกฤษ",
    ],
)
def test_other_scripts(text: str) -> None:
    texts = [tokenize(text, "unicode")]
    index = EvaluationTexts(texts, 8, 0.5)
    example = tokenize(f"Example 1. «{text.upper()}»! 完了 done", "unicode")
    assert index.worst(example) == Overlap(0, 1.0)
    assert index.worst(list(reversed(example))) is None
    blind = EvaluationTexts([tokenize(text, "rouge")], 8, 0.5)
    assert (blind.without_words, blind.worst(tokenize(example[0], "rouge"))) == (1, None)


def test_an_opening_that_all_texts_share_does_not_slow_down() -> None:
    draw = random.Random(0)
    opening = [f"opening{number}" for number in range(20)]

    def text() -> list[str]:
        return opening + [f"word{draw.randrange(5000)}" for _ in range(100)]

    def seconds(index: EvaluationTexts) -> float:
        started = time.process_time()
        assert all(index.worst(example) is None for example in examples)
        return time.process_time() - started

    examples = [text() for _ in range(500)]
    texts = [text() for _ in range(1600)]
    few, many = (EvaluationTexts(some, 8, 0.3) for some in (texts[:100], texts))
    # 16 times the texts; counting what each has in common with the example takes 10 times as long.
    assert min(seconds(many) for _ in range(5)) < 4 * min(seconds(few) for _ in range(5))


def prompt(example: Example) -> list[str]:
    return tokenize(f"{example.instruction}\n{example.input}", "unicode")


def whole(example: Example) -> list[str]:
    return prompt(example) + tokenize(example.output, "unicode")


def test_on_real_evaluation_texts(real_data: Path) -> None:
    texts = [prompt(row) for row in read_examples([real_data / "user_oriented_instructions.jsonl"])]
    rows = [whole(row) for row in read_examples([real_data / "code_alpaca_2k.json"])]
    index = EvaluationTexts(texts, 8, 0.3)
    assert (index.too_short, index.without_words) == (0, 0)

    untouched = [index.worst(row) for row in rows]
    assert sum(found is not None for found in untouched) <= len(rows) // 200
    assert untouched[:25] == [naive(texts, 8, 0.3, row) for row in rows[:25]]

    # An evaluation text inside a longer instruction; then with one word in twenty replaced.
    draw = random.Random(0)
    embedded, changed = [], []
    for text, row in zip(texts, rows, strict=False):
        place = draw.randrange(len(row))
        embedded.append(index.worst(row[:place] + text + row[place:]))
        first = draw.randrange(20)
        edited = ["changed" if number % 20 == first else word for number, word in enumerate(text)]
        changed.append(index.worst(row[:place] + edited + row[place:]))
    assert embedded == [Overlap(texts.index(text), 1.0) for text in texts]
    assert sum(found is not None for found in changed) > 0.8 * len(texts)


def test_on_real_chinese(real_data: Path) -> None:
    examples = read_examples([real_data / "alpaca_zh_demo.json"])
    texts = [prompt(example) for example in examples[:300]]
    index = EvaluationTexts(texts, 8, 0.5)
    assert index.too_short == sum(len(text) < FEWEST_WORDS for text in texts) < 10
    hidden = [whole(other) + text for other, text in zip(examples[300:], texts, strict=False)]
    found = [index.worst(words) for words in hidden]
    assert sum(overlap is not None for overlap in found) == len(texts) - index.too_short
    assert found[:15] == [naive(texts, 8, 0.5, words) for words in hidden[:15]]
    untouched = [index.worst(whole(example)) for example in examples[300:]]
    assert sum(overlap is not None for overlap in untouched) <= 7

    blind = EvaluationTexts([tokenize(example.instruction) for example in examples], 8, 0.5)
    assert blind.without_words > len(examples) // 2

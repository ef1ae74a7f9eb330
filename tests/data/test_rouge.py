"""Words and scores are rouge-score's own, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer, tokenizers

from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.rouge import score, tokenize

REFERENCE_TOKENIZER = tokenizers.DefaultTokenizer(use_stemmer=False)


def reference(a: list[str], b: list[str]) -> float:
    """F1 by rouge-score's own code, as Stanford Alpaca calls it."""
    return float(rouge_scorer._score_lcs(a, b).fmeasure)


words = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=9)


@given(st.text())
def test_tokens_are_those_of_rouge_score(text: str) -> None:
    assert tokenize(text) == REFERENCE_TOKENIZER.tokenize(text)


@given(words, words)
def test_scores_are_those_of_rouge_score(a: list[str], b: list[str]) -> None:
    assert score(a, b) == reference(a, b) == score(b, a)


def test_real_instructions_have_the_words_of_rouge_score(real_data: Path) -> None:
    examples = read_examples([real_data / "seed_tasks.jsonl"])
    examples += read_examples([real_data / "code_alpaca_2k.json"])
    for example in examples:
        text = example.instruction
        assert tokenize(text) == REFERENCE_TOKENIZER.tokenize(text)


def test_texts_without_tokens_are_similar_to_nothing() -> None:
    assert score([], []) == score([], ["a"]) == 0.0


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

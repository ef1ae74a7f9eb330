"""Which examples stay is what comparing every pair with rouge-score decides."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rouge_score import rouge_scorer, tokenizers

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings import Dedup
from alpaca_cli.data.duplicates import (
    Difference,
    Dropped,
    Outcome,
    differences,
    find_duplicates,
    preference,
)
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.texts import key_text

# a ~ b and b ~ c (0.8 each), a is not like c (0.6).
A, B, C = "a b c d e f g h i j", "a b c d e f g h x y", "a b c d e f q r x y"


class Told:
    """Progress whose lines can be read."""

    def __init__(self) -> None:
        self._file = StringIO()
        self.progress = Progress(Console(file=self._file, width=200))

    @property
    def text(self) -> str:
        return self._file.getvalue()


def quiet() -> Progress:
    return Told().progress


def find(
    examples: Sequence[Example],
    *,
    against: Sequence[Example] = (),
    evaluation: Sequence[Example] = (),
    **changes: Any,
) -> Outcome:
    dedup = Dedup.model_validate(changes)
    return find_duplicates(examples, dedup, quiet(), against=against, evaluation=evaluation)


def naive(
    examples: Sequence[Example], dedup: Dedup, against: Sequence[Example] = ()
) -> tuple[list[int], list[Dropped]]:
    """One after another, best first, against all that stay, by rouge-score's own scorer."""
    tokenizer = tokenizers.DefaultTokenizer(use_stemmer=False)

    def rank(row: int) -> tuple[bool, float, int]:
        if dedup.keep == "first":
            return False, 0, row
        if dedup.keep == "longest":
            return False, -len(examples[row].output), row
        value = examples[row].extra.get(dedup.keep)
        return value is None, -(value or 0), row

    stay = [(key_text(one, dedup.key), number - len(against)) for number, one in enumerate(against)]
    tokens = [tokenizer.tokenize(text) for text, _ in stay]
    kept, dropped = [], []
    for row in sorted(range(len(examples)), key=rank):
        text = key_text(examples[row], dedup.key)
        new = tokenizer.tokenize(text)
        scores = [rouge_scorer._score_lcs(old, new).fmeasure for old in tokens]
        best = max(scores, default=0)
        if best > dedup.threshold:
            like, other = stay[scores.index(best)]
            if other < 0:
                other += len(against)
                dropped.append(Dropped(row, "against", other, best, like == text))
            else:
                dropped.append(Dropped(row, "duplicate", other, best, like == text))
        else:
            kept.append(row)
            stay.append((text, row))
            tokens.append(new)
    return sorted(kept), sorted(dropped, key=lambda found: found.row)


def real_examples(folder: Path) -> list[Example]:
    return read_examples([folder / "code_alpaca_2k.json", folder / "alpaca_en_demo.json"])


@pytest.mark.parametrize("changes", [{"threshold": 0.5}, {"threshold": 0.6, "keep": "longest"}])
def test_real_files(real_data: Path, changes: dict[str, Any]) -> None:
    # Slices, so that the exact duplicates inside alpaca_en_demo are among them.
    examples = real_examples(real_data)
    against = examples[700:760]
    examples = [*examples[:120], *examples[2017:2117], *examples[2516:2616]]
    outcome = find(examples, against=against, **changes)
    expected = naive(examples, Dedup.model_validate(changes), against)
    assert (outcome.kept, outcome.dropped) == expected
    assert outcome.dropped


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_whole_real_files(real_data: Path) -> None:
    examples = real_examples(real_data)
    outcome = find(examples)
    assert (outcome.kept, outcome.dropped) == naive(examples, Dedup())


texts = st.lists(st.sampled_from("abcd"), max_size=8).map(" ".join)
examples_strategy = st.builds(
    Example,
    instruction=texts,
    input=st.sampled_from(["", "a b"]),
    output=texts,
    extra=st.fixed_dictionaries(
        {}, optional={"quality": st.none() | st.integers(-2, 2) | st.sampled_from([0.5, math.inf])}
    ),
)
THRESHOLDS = st.sampled_from([0.3, 0.5, 2 / 3, 0.7, 0.8, 1.0]) | st.floats(0.01, 1)


@settings(max_examples=250)
@given(
    st.lists(examples_strategy, min_size=1, max_size=14),
    st.lists(examples_strategy, max_size=4),
    THRESHOLDS,
    st.sampled_from(["first", "longest", "quality"]),
    st.sampled_from(["instruction", "instruction+input", "output"]),
)
def test_any_texts_thresholds_sets_and_preferences(
    examples: list[Example], against: list[Example], threshold: float, keep: str, key: str
) -> None:
    examples[-1] = replace(examples[-1], extra={"quality": 1})
    changes: dict[str, Any] = {"threshold": threshold, "keep": keep, "key": key}
    dedup = Dedup.model_validate(changes)
    outcome = find(examples, against=against, **changes)
    assert (outcome.kept, outcome.dropped) == naive(examples, dedup, against)
    found = differences(examples, outcome, dedup, quiet(), against=against, rows=99, seed=1)
    assert found == []


def test_only_what_stays_drops_others() -> None:
    outcome = find([Example(text) for text in (A, B, C, A)])
    assert outcome.kept == [0, 2]
    assert outcome.dropped == [
        Dropped(1, "duplicate", 0, 0.8000000000000002, False),
        Dropped(3, "duplicate", 0, 1.0, True),
    ]


@pytest.mark.parametrize(
    ("qualities", "survivors"),
    [
        ((1, 2, 3), {1: 2}),  # c, then b, which goes for c; a is like b only, so it stays
        ((3, 2, 1), {1: 0}),
        ((1, 3, 2), {0: 1, 2: 1}),  # b stays, both others go for it
        ((1, None, 1), {1: 0}),  # without a number it comes last; 0 and 2 are equally like it
    ],
)
def test_the_preferred_one_stays(
    qualities: tuple[int | None, ...], survivors: dict[int, int]
) -> None:
    rows = [
        Example(text, extra={} if value is None else {"quality": value})
        for text, value in zip((A, B, C), qualities, strict=True)
    ]
    outcome = find(rows, keep="quality")
    assert {found.row: found.other for found in outcome.dropped} == survivors
    assert outcome.kept == [row for row in range(3) if row not in survivors]


def test_the_longest_output_stays() -> None:
    outcome = find(
        [Example(A, output=text) for text in ("four", "longest", "twelve")], keep="longest"
    )
    assert outcome.kept == [1]
    assert [found.other for found in outcome.dropped] == [1, 1]


def test_what_goes_for_a_known_one_drops_no_other() -> None:
    outcome = find([Example(B), Example(C), Example(C)], against=[Example("other"), Example(A)])
    assert outcome.kept == [1]
    assert outcome.dropped == [
        Dropped(0, "against", 1, 0.8000000000000002, False),
        Dropped(2, "duplicate", 1, 1.0, True),
    ]


def test_a_known_one_stays_whatever_is_preferred() -> None:
    outcome = find([Example(A, output="long")], against=[Example(A)], keep="longest")
    assert outcome.dropped == [Dropped(0, "against", 0, 1.0, True)]


def test_of_equally_similar_ones_the_first_compared_is_named() -> None:
    rows = [Example(A, extra={"q": 1}), Example(C, extra={"q": 2}), Example(B)]
    assert [found.other for found in find(rows).dropped] == [0]
    assert [found.other for found in find(rows, keep="q").dropped] == [1]


@pytest.mark.parametrize(
    ("field", "order"),
    [
        ("first", [0, 1, 2, 3]),
        ("longest", [3, 1, 0, 2]),
        ("quality", [3, 0, 1, 2]),  # of the row before that of its meta; null and none are last
        ("huge", [2, 1, 0, 3]),  # more than a float holds
    ],
)
def test_order_of_preference(field: str, order: list[int]) -> None:
    rows = [
        Example("x", output="ab", meta={"quality": 0.5}, extra={"huge": -(10**400)}),
        Example("x", output="abc", meta={"quality": 9}, extra={"quality": None, "huge": 1.5}),
        Example("x", output="ab", extra={"huge": 10**400}),
        Example("x", output="abcd", meta={"quality": 0}, extra={"quality": 1}),
    ]
    assert preference(rows, field) == order


@pytest.mark.parametrize("value", ["0.9", True, math.nan, [1], {}])
def test_a_field_that_is_no_number_is_refused_with_its_row(value: object) -> None:
    rows = [Example("x", extra={"quality": 1}), Example("x", meta={"quality": value})]
    with pytest.raises(DataError) as caught:
        preference(rows, "quality")
    assert str(caught.value).startswith('row 2: field "quality" must be a number')
    with pytest.raises(DataError, match=r"^second: field"):
        find_duplicates(
            rows, Dedup(keep="quality"), quiet(), name=lambda row: ["first", "second"][row]
        )


def test_a_field_that_no_example_has_is_refused() -> None:
    with pytest.raises(DataError, match='no example has a field "qualty"'):
        find([Example("x", extra={"quality": 1})], keep="qualty")


@pytest.mark.parametrize(
    ("key", "kept"),
    [("instruction", [0, 3]), ("instruction+input", [0, 1, 2, 3]), ("output", [0, 2])],
)
def test_keys(key: str, kept: list[int]) -> None:
    rows = [
        Example("Sort the words.", "cherry apple banana", "apple banana cherry"),
        Example("Sort the words.", "banana apple cherry and four more", "apple banana cherry"),
        Example("Sort the words.", "zebra yak ox", "ox yak zebra"),
        Example("Put them in alphabetical order.", "cherry banana apple", "apple banana cherry"),
    ]
    assert find(rows, key=key).kept == kept


def test_nothing_is_like_a_text_without_words() -> None:
    outcome = find([Example("a"), Example(""), Example("?!"), Example("")])
    assert outcome.kept == [0, 1, 2, 3]
    assert outcome.without_words == 3
    assert find([Example("a")], against=[Example("?")]).without_words == 0


def test_exact_is_to_the_character_not_to_the_word() -> None:
    outcome = find([Example(text) for text in ("Name a bird.", "name a bird", "Name a bird.")])
    assert [(found.score, found.exact) for found in outcome.dropped] == [(1.0, False), (1.0, True)]


def test_other_scripts_need_the_unicode_tokenizer(real_data: Path) -> None:
    rows = read_examples([real_data / "alpaca_zh_demo.json"])
    rouge, told, unicode, nothing_told = Dedup(), Told(), Dedup(tokenizer="unicode"), Told()
    by_rouge = find_duplicates(rows, rouge, told.progress)
    by_unicode = find_duplicates(rows, unicode, nothing_told.progress)
    assert by_rouge.without_words == 812
    assert "warning: 812 of 1,000 rows have no words for the rouge tokenizer" in told.text
    assert "--tokenizer unicode" in told.text
    assert by_unicode.without_words == 0
    assert "warning" not in nothing_told.text
    unseen = {found.row for found in by_unicode.dropped} - {found.row for found in by_rouge.dropped}
    assert unseen
    assert differences(rows, by_unicode, unicode, quiet(), rows=20, seed=3) == []


def test_few_rows_without_words_are_no_reason_to_warn() -> None:
    told = Told()
    rows = [Example(f"w{number}") for number in range(19)]
    find_duplicates([*rows, Example("写")], Dedup(), told.progress)
    assert "warning" not in told.text
    find_duplicates([*rows[:18], Example("写")], Dedup(), told.progress)
    assert "warning: 1 of 19 rows have no words" in told.text


QUESTION = "which of these two rivers is the longer one and by how much"


def test_an_evaluation_question_is_found_wherever_it_stands() -> None:
    rows = [
        Example("Tell me a joke about rivers."),
        Example(f"Please say: {QUESTION.upper()}?"),
        Example("Write a quiz question.", output=f"Here is one: {QUESTION}?"),
        Example("Which of these two rivers is blue?"),
        Example("Answer the question.", QUESTION),
    ]
    outcome = find(rows, evaluation=[Example("Another question that is not here at all"),
                                     Example("Which of these", QUESTION[15:])])  # fmt: skip
    assert outcome.kept == [0, 3]
    assert outcome.dropped == [
        Dropped(1, "contaminated", 1, 1.0, False),
        Dropped(2, "contaminated", 1, 1.0, False),
        Dropped(4, "contaminated", 1, 1.0, False),
    ]
    assert outcome.order == [0, 3]


def test_what_is_contaminated_drops_no_other() -> None:
    rows = [Example(f"{A} {QUESTION}"), Example(f"{A} {QUESTION[:40]}")]
    assert find(rows, threshold=0.6).kept == [0]
    outcome = find(rows, threshold=0.6, containment=0.9, evaluation=[Example(QUESTION)])
    assert (outcome.kept, [found.reason for found in outcome.dropped]) == ([1], ["contaminated"])


def test_part_of_a_question_counts_as_the_settings_say() -> None:
    rows = [Example(" ".join(QUESTION.split()[:9]))]  # two of its six 8-grams
    evaluation = [Example(QUESTION)]
    assert find(rows, evaluation=evaluation).dropped[0].score == 1 / 3
    assert find(rows, evaluation=evaluation, containment=0.34).kept == [0]
    assert find(rows, evaluation=evaluation, ngram=10).kept == [0]


def test_short_evaluation_texts_are_told_of() -> None:
    told = Told()
    short = [Example("Translate."), Example("写"), Example(QUESTION)]
    outcome = find_duplicates([Example("Translate.")], Dedup(), told.progress, evaluation=short)
    assert outcome.kept == [0]
    assert "2 of 3 evaluation texts have fewer than 5 words and are not looked for" in told.text


def test_real_evaluation_questions_are_not_found_where_they_are_not(real_data: Path) -> None:
    questions = read_examples([real_data / "user_oriented_instructions.jsonl"])
    examples = real_examples(real_data)
    rng = random.Random(5)
    hidden = {rng.randrange(len(examples)): rng.choice(questions) for _ in range(20)}
    for row, question in hidden.items():
        asked = f"{question.instruction} {question.input}"
        examples[row] = replace(examples[row], output=f"First: {asked}. Then more.")
    outcome = find(examples, evaluation=questions)
    found = {one.row for one in outcome.dropped if one.reason == "contaminated"}
    assert found == hidden.keys()


def doctored() -> tuple[list[Example], list[Example], Outcome]:
    """Rows, a set to compare with, and what is right for them."""
    rows = [Example(text) for text in (A, B, C, A, "k l m n o", "p q r s t", "k l m n o")]
    against = [Example("u v w x y z"), Example("p q r s t u")]
    outcome = find(rows, against=against)
    assert outcome.kept == [0, 2, 4]
    assert [(found.row, found.other) for found in outcome.dropped] == [
        (1, 0), (3, 0), (5, 1), (6, 4)
    ]  # fmt: skip
    return rows, against, outcome


def wrong(outcome: Outcome, **options: int) -> list[Difference]:
    rows, against, _ = doctored()
    chosen = {"rows": 100, "seed": 1} | options
    return differences(rows, outcome, Dedup(), quiet(), against=against, **chosen)


def test_a_right_outcome_has_no_differences() -> None:
    assert wrong(doctored()[2]) == []


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        (0, {"other": 2}),  # equally similar, but not the first
        (0, {"score": math.nextafter(0.8000000000000002, 1)}),
        (0, {"exact": True}),
        (1, {"other": 2}),
        (2, {"other": 0}),
        (2, {"reason": "duplicate"}),
        (3, {"other": 0, "score": 0.9}),
    ],
)
def test_a_wrong_survivor_or_score_is_named(place: int, changes: dict[str, object]) -> None:
    outcome = doctored()[2]
    right = outcome.dropped[place]
    outcome.dropped[place] = false = replace(right, **changes)  # type: ignore[arg-type]  # any field
    assert wrong(outcome) == [Difference(right.row, false, right)]


def test_a_row_that_should_have_gone_is_named() -> None:
    outcome = doctored()[2]
    right = outcome.dropped.pop()
    outcome.kept.append(right.row)
    assert wrong(outcome) == [Difference(right.row, None, right)]


def test_a_row_that_should_have_stayed_is_named() -> None:
    outcome = doctored()[2]
    outcome.kept.remove(2)
    false = Dropped(2, "duplicate", 0, 0.9, False)
    outcome.dropped.append(false)
    assert wrong(outcome) == [Difference(2, false, None)]


def test_rows_are_drawn_by_the_seed() -> None:
    outcome = doctored()[2]
    outcome.dropped[0] = replace(outcome.dropped[0], score=0.9)
    found = [len(wrong(outcome, rows=3, seed=seed)) for seed in range(20)]
    assert set(found) == {0, 1}
    assert found == [len(wrong(outcome, rows=3, seed=seed)) for seed in range(20)]

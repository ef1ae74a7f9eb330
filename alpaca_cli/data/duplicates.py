"""Which examples of a corpus stay: the first, or the best, of those that say nearly the same.

The rule is greedy and exact: taken one after another, an example goes when its ROUGE-L F1 with one
that stays before it is above the threshold. That is not one example per connected group: when b
is like a and c is like b but not like a, then c stays.

It knows examples, not files or folders; how rows are named in messages is told it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings import Dedup
from alpaca_cli.data.contamination import FEWEST_WORDS, EvaluationTexts
from alpaca_cli.data.rouge import Tokenizer, tokenize
from alpaca_cli.data.rouge_index import Stays, first_stays
from alpaca_cli.data.semantic import load_encoder, semantic_twins
from alpaca_cli.data.texts import key_text

Name = Callable[[int], str]  # how a row is named in messages

MANY_WITHOUT_WORDS = 0.05  # from this share of the rows on there is a warning


@dataclass(frozen=True, slots=True)
class Dropped:
    """An example that goes.

    Attributes:
        row: its position among the examples, from 0.
        reason: `excluded` by a person; `duplicate` of another one, like one of the set `against`,
            `contaminated` with an evaluation text, or `semantic`: it means nearly the same as
            another one.
        other: position of the most similar one among the examples, the set or the texts; -1 for
            what is excluded, and its score is 0.
        score: ROUGE-L F1 of the two; for `contaminated` the share of n-grams, for `semantic` the
            cosine.
        exact: the compared texts are equal, character for character; only for the first two.
    """

    row: int
    reason: Literal["excluded", "duplicate", "against", "contaminated", "semantic"]
    other: int
    score: float
    exact: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What stays and what goes, both in the order of the examples.

    Attributes:
        order: the rows that were compared, all but the excluded and the contaminated, in the
            order in which they were.
        without_words: rows whose text has no words for the tokenizer; nothing is similar to them.
        counts: what the comparison cost (`rouge_index.Stays.counts`).
    """

    kept: list[int]
    dropped: list[Dropped]
    order: list[int]
    without_words: int
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Difference:
    """A row of which rouge-score decides otherwise; None stands for "stays"."""

    row: int
    ours: Dropped | None
    theirs: Dropped | None


def _by_number(row: int) -> str:
    return f"row {row + 1}"


def find_duplicates(
    examples: Sequence[Example],
    settings: Dedup,
    progress: Progress,
    *,
    against: Sequence[Example] = (),
    evaluation: Sequence[Example] = (),
    excluded: Set[str] = frozenset(),
    name: Name = _by_number,
) -> Outcome:
    """Decide which examples stay.

    Args:
        against: examples that those of the corpus must not be like.
        evaluation: examples whose questions must not occur in those of the corpus.
        excluded: `Example.review_key` of examples that go before any are compared: nothing goes
            for being like them.
        name: of a row, for messages.

    Raises:
        DataError: `settings.keep` names a field that is no number, or that no example has; or the
            encoder of `settings.semantic` cannot be loaded.
        UsageError: the extra that it needs is not installed.
    """
    preferred = preference(examples, settings.keep, name)
    encoder = None if settings.semantic is None else load_encoder(settings.encoder)
    dropped = _excluded(examples, excluded)
    out = {found.row for found in dropped}
    contaminated = find_contaminated(examples, evaluation, settings, progress)
    dropped += [found for found in contaminated if found.row not in out]
    gone = {found.row for found in dropped}
    order = [row for row in preferred if row not in gone]
    texts = [key_text(one, settings.key) for one in (*against, *(examples[row] for row in order))]
    given = len(against)
    stays, without_words = _compare(texts, given, settings, progress)
    survivors, scores = stays.survivors[given:].tolist(), stays.scores[given:].tolist()
    kept = []
    for text, row, survivor, score in zip(texts[given:], order, survivors, scores, strict=True):
        if survivor < 0:
            kept.append(row)
        else:
            dropped.append(_dropped(row, survivor, score, text == texts[survivor], order, given))
    if settings.semantic is not None:
        texts = [key_text(examples[row], settings.key) for row in kept]
        with progress.task("comparing meanings", total=len(texts)) as task:
            found = semantic_twins(texts, settings.semantic, encoder)
            task.set(len(texts), f"{len(found):,} found")
        twins = [
            Dropped(kept[twin.text], "semantic", kept[twin.other], twin.score, False)
            for twin in found
        ]
        kept = sorted({*kept} - {twin.row for twin in twins})
        dropped += twins
    dropped.sort(key=lambda found: found.row)
    return Outcome(sorted(kept), dropped, order, without_words, stays.counts)


def _excluded(examples: Sequence[Example], keys: Set[str]) -> list[Dropped]:
    if not keys:
        return []
    return [
        Dropped(row, "excluded", -1, 0.0, False)
        for row, example in enumerate(examples)
        if example.review_key() in keys
    ]


def _dropped(
    row: int, survivor: int, score: float, exact: bool, order: Sequence[int], given: int
) -> Dropped:
    """A row that goes for the text at `survivor`, counted over `given` ones and the order."""
    if survivor < given:
        return Dropped(row, "against", survivor, score, exact)
    return Dropped(row, "duplicate", order[survivor - given], score, exact)


def _compare(
    texts: Sequence[str], given: int, settings: Dedup, progress: Progress
) -> tuple[Stays, int]:
    """What stays of the texts after the first `given`, and how many of them have no words."""
    lengths: list[int] = []

    def token_lists() -> Iterator[list[str]]:
        for text in texts:
            tokens = tokenize(text, settings.tokenizer)
            lengths.append(len(tokens))
            yield tokens

    with progress.task("comparing examples", total=len(texts) - given) as task:

        def show(done: int, counts: Mapping[str, int]) -> None:
            task.set(done, f"{counts['bounded']:,} pairs bounded, {counts['compared']:,} compared")

        stays = first_stays(token_lists(), settings.threshold, given=given, step=show)
    without_words = lengths[given:].count(0)
    if without_words > MANY_WITHOUT_WORDS * (len(texts) - given):
        warning = f"{without_words:,} of {len(texts) - given:,} rows have no words"
        if settings.tokenizer == "rouge":
            warning += (
                " for the rouge tokenizer (a-z, 0-9) and are like no other; the rest are compared "
                "by such words alone; --tokenizer unicode reads every script"
            )
        else:
            warning += " and are like no other"
        progress.warn(warning)
    return stays, without_words


def preference(examples: Sequence[Example], keep: str, name: Name = _by_number) -> list[int]:
    """The rows in the order in which they are compared, so that the preferred one stays.

    Args:
        keep: `first`; `longest` output; or the name of a field, of the row or of its `meta`,
            that holds a number, of which the highest is preferred. Of equal ones the first;
            those without the field come last.

    Raises:
        DataError: the field is no number, or no example has it.
    """
    if keep == "first":
        return list(range(len(examples)))
    values: list[float]
    if keep == "longest":
        values = [len(example.output) for example in examples]
    else:
        values = _numbers(examples, keep, name)
    return sorted(range(len(examples)), key=lambda row: -values[row])


def _numbers(examples: Sequence[Example], field: str, name: Name) -> list[float]:
    """The field's values; minus infinity where it is missing."""
    found = [example.extra.get(field, example.meta.get(field)) for example in examples]
    for row, value in enumerate(found):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and (not number or value != value):
            raise DataError(
                f'{name(row)}: field "{field}" must be a number to prefer by, not {value!r}'
            )
    if examples and all(value is None for value in found):
        raise DataError(
            f'no example has a field "{field}" to prefer one by',
            hint="keep is first, longest, or a field with a number",
        )
    return [float("-inf") if value is None else value for value in found]


def find_contaminated(
    examples: Sequence[Example],
    evaluation: Sequence[Example],
    settings: Dedup,
    progress: Progress,
) -> list[Dropped]:
    """Examples in which enough of an evaluation question occurs.

    Question and answer of an example are searched, for either can give a question away.
    """
    if not evaluation:
        return []
    questions = EvaluationTexts(
        (tokenize(_question(example), "unicode") for example in evaluation),
        settings.ngram,
        settings.containment,
    )
    if unsought := questions.too_short + questions.without_words:
        progress.warn(
            f"{unsought:,} of {len(evaluation):,} evaluation texts have fewer than "
            f"{FEWEST_WORDS} words and are not looked for"
        )
    found = []
    with progress.task("looking for evaluation texts", total=len(examples)) as task:
        for row, example in enumerate(examples):
            text = f"{_question(example)}\n{example.output}"
            worst = questions.worst(tokenize(text, "unicode"))
            if worst is not None:
                found.append(Dropped(row, "contaminated", worst.text, worst.share, False))
            if row % 1000 == 999:
                task.set(row + 1, f"{len(found):,} found")
        task.set(len(examples), f"{len(found):,} found")
    return found


def _question(example: Example) -> str:
    return key_text(example, "instruction+input")


def differences(
    examples: Sequence[Example],
    outcome: Outcome,
    settings: Dedup,
    progress: Progress,
    *,
    against: Sequence[Example] = (),
    rows: int,
    seed: int,
) -> list[Difference]:
    """Compare some rows, drawn at random, with all that stay before them, by `rouge-score`.

    Excluded and contaminated rows are not drawn, for no score decided them.

    Returns:
        The rows of which decision, survivor or score differ; none when all is right.
    """
    from rouge_score import rouge_scorer

    order, given = outcome.order, len(against)
    texts = [key_text(one, settings.key) for one in (*against, *(examples[row] for row in order))]
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=_Remembering(settings.tokenizer))
    # What only means the same was kept by this comparison, and dropped by a later one.
    dropped = {found.row: found for found in outcome.dropped if found.reason != "semantic"}
    kept = {*order} - dropped.keys()
    drawn = random.Random(seed).sample(range(len(order)), min(rows, len(order)))
    wrong = []
    with progress.task("comparing with rouge-score", total=len(drawn)) as task:
        for place in sorted(drawn):
            row, text = order[place], texts[given + place]
            best, score = -1, settings.threshold
            before = (given + other for other in range(place) if order[other] in kept)
            for other in (*range(given), *before):
                # Which of the two is the prediction makes no difference, not even in the float.
                value = scorer.score(texts[other], text)["rougeL"].fmeasure
                if value > score:
                    best, score = other, value
            ours, theirs = dropped.get(row), None
            if best >= 0:
                theirs = _dropped(row, best, score, text == texts[best], order, given)
            if ours != theirs:
                wrong.append(Difference(row, ours, theirs))
            task.advance()
    return wrong


class _Remembering:
    """A tokenizer for rouge-score that reads each text once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[str]] = {}

    def tokenize(self, text: str) -> list[str]:
        tokens = self._known.get(text)
        if tokens is None:
            tokens = self._known[text] = tokenize(text, self._tokenizer)
        return tokens

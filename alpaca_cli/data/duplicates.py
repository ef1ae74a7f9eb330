"""Which examples of a corpus stay: the first, or the best, of those that say nearly the same.

The rule is greedy and exact: taken one after another, an example goes when its ROUGE-L F1 with one
that stays before it is above the threshold. That is not one example per connected group: when b
is like a and c is like b but not like a, then c stays.

It knows examples and their names, not files or folders.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings import Dedup
from alpaca_cli.data.contamination import EvaluationTexts
from alpaca_cli.data.rouge import tokenize
from alpaca_cli.data.rouge_index import first_stays
from alpaca_cli.data.texts import key_text


@dataclass(frozen=True, slots=True)
class Dropped:
    """An example that goes.

    Attributes:
        row: its position among the examples, from 0.
        reason: `duplicate` of another one, like one of the set `against`, or `contaminated` with
            an evaluation text.
        other: position of the most similar one among the examples, the set or the texts.
        score: ROUGE-L F1 of the two; for `contaminated` the share of n-grams.
        exact: the compared texts are equal, character for character.
    """

    row: int
    reason: str
    other: int
    score: float
    exact: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What stays and what goes, both in the order of the examples.

    Attributes:
        order: the rows that were compared, in the order in which they were.
        without_words: rows whose text has no words for the tokenizer; nothing is similar to them.
        counts: what the comparison cost (`rouge_index.Stays.counts`).
    """

    kept: list[int]
    dropped: list[Dropped]
    order: list[int]
    without_words: int
    counts: dict[str, int]


def find_duplicates(
    examples: Sequence[Example],
    settings: Dedup,
    progress: Progress,
    *,
    against: Sequence[Example] = (),
    evaluation: Sequence[Example] = (),
) -> Outcome:
    """Decide which examples stay.

    Args:
        against: examples that those of the corpus must not be like.
        evaluation: examples whose questions must not occur in those of the corpus.

    Raises:
        DataError: `settings.keep` names a field that is no number, or that no example has.
    """
    contaminated = _contaminated(examples, evaluation, settings, progress)
    gone = {found.row for found in contaminated}
    order = [row for row in preference(examples, settings.keep) if row not in gone]
    compared = [*against, *(examples[row] for row in order)]
    without_words = 0

    def texts() -> Iterator[list[str]]:
        nonlocal without_words
        for number, example in enumerate(compared):
            tokens = tokenize(key_text(example, settings.key), settings.tokenizer)
            without_words += not tokens and number >= len(against)
            yield tokens

    with progress.task("comparing examples", total=len(order)) as task:

        def show(done: int, counts: Mapping[str, int]) -> None:
            task.set(done, f"{counts['bounded']:,} pairs bounded, {counts['compared']:,} compared")

        stays = first_stays(texts(), settings.threshold, given=len(against), step=show)
    kept, dropped = [], contaminated
    survivors, scores = stays.survivors.tolist(), stays.scores.tolist()
    for place, row in enumerate(order, len(against)):
        survivor, score = survivors[place], scores[place]
        if survivor < 0:
            kept.append(row)
            continue
        known = survivor < len(against)
        reason = "against" if known else "duplicate"
        other = survivor if known else order[survivor - len(against)]
        text = key_text(examples[row], settings.key)
        exact = text == key_text(compared[survivor], settings.key)
        dropped.append(Dropped(row, reason, other, score, exact))
    if without_words > 0.05 * len(order):
        progress.warn(
            f"{without_words:,} of {len(order):,} rows have no words for the "
            f"{settings.tokenizer} tokenizer, so nothing is similar to them; others are compared "
            "by the words it reads"
            + ("; --tokenizer unicode reads every script" if settings.tokenizer == "rouge" else "")
        )
    dropped.sort(key=lambda found: found.row)
    return Outcome(sorted(kept), dropped, order, without_words, stays.counts)


def preference(examples: Sequence[Example], keep: str) -> list[int]:
    """The rows in the order in which they are compared, so that the preferred one stays.

    Args:
        keep: `first`; `longest` output; or the name of a field, of the row or of its `meta`,
            that holds a number, of which the highest is preferred. Of equal ones the first.

    Raises:
        DataError: the field is no number, or no example has it.
    """
    if keep == "first":
        return list(range(len(examples)))
    if keep == "longest":
        values = [float(len(example.output)) for example in examples]
    else:
        values = [_number(example, keep, row) for row, example in enumerate(examples, 1)]
        if examples and all(value == float("-inf") for value in values):
            raise DataError(
                f'no example has a field "{keep}" to prefer one by',
                hint="keep is first, longest, or a field with a number",
            )
    return sorted(range(len(examples)), key=lambda row: (-values[row], row))


def _number(example: Example, field: str, row: int) -> float:
    """The field's value; minus infinity, so that others are preferred, where it is missing."""
    value = example.extra.get(field, example.meta.get(field))
    if value is None:
        return float("-inf")
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        name = f"row {row}" if example.id is None else f"row {row} ({example.id})"
        raise DataError(f'{name}: field "{field}" must be a number to prefer by, not {value!r}')
    return float(value)


def _contaminated(
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
    unsought = questions.too_short + questions.without_words
    if unsought:
        progress.warn(
            f"{unsought:,} of {len(evaluation):,} evaluation texts are too short to be looked for"
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
) -> list[str]:
    """Compare some rows, drawn at random, with all that stay before them, by `rouge-score`.

    Returns:
        A line for each row of which decision, survivor or score differ; none when all is right.
    """
    from rouge_score import rouge_scorer

    texts = [key_text(example, settings.key) for example in [*against, *examples]]
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=_Remembering(settings))
    given = len(against)
    kept, dropped = set(outcome.kept), {found.row: found for found in outcome.dropped}
    drawn = random.Random(seed).sample(range(len(outcome.order)), min(rows, len(outcome.order)))
    wrong = []
    with progress.task("comparing with rouge-score", total=len(drawn)) as task:
        for place in sorted(drawn):
            row = outcome.order[place]
            before = [given + other for other in outcome.order[:place] if other in kept]
            best, score = -1, settings.threshold
            for other in [*range(given), *before]:
                # Both ways round it is the same float.
                value = scorer.score(texts[other], texts[given + row])["rougeL"].fmeasure
                if value > score:
                    best, score = other, value
            found = dropped.get(row)
            ours = None if found is None else (_position(found, given), found.score)
            theirs = None if best < 0 else (best, score)
            if ours != theirs:
                wrong.append(
                    f"row {row + 1}: {_said(ours, given)}, rouge-score: {_said(theirs, given)}"
                )
            task.advance()
    return wrong


def _position(found: Dropped, given: int) -> int:
    return found.other if found.reason == "against" else given + found.other


def _said(decision: tuple[int, float] | None, given: int) -> str:
    if decision is None:
        return "stays"
    other, score = decision
    name = f"row {other - given + 1}" if other >= given else f"row {other + 1} of --against"
    return f"goes for {name} at {score!r}"


class _Remembering:
    """A tokenizer for rouge-score that reads each text once."""

    def __init__(self, settings: Dedup) -> None:
        self._tokenizer = settings.tokenizer
        self._known: dict[str, list[str]] = {}

    def tokenize(self, text: str) -> list[str]:
        tokens = self._known.get(text)
        if tokens is None:
            tokens = self._known[text] = tokenize(text, self._tokenizer)
        return tokens

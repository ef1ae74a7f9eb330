"""The report of an evaluation: its fields, and how they come from answers, scores and verdicts.

Where answers and verdicts come from is not known here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alpaca_cli.core.progress import Progress
from alpaca_cli.data.rouge import tokenize
from alpaca_cli.stages.eval_comparison import (
    Rows,
    Scores,
    difference,
    figures,
    reference_figures,
)
from alpaca_cli.stages.eval_preferences import preferences
from alpaca_cli.stages.pairwise import Judged
from alpaca_cli.stages.questions import Question, pair
from alpaca_cli.stages.scoring import Bootstrap, summarize

MISSES = 10  # wrong answers shown in the report


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured; also the content of `report.json`.

    Attributes:
        model: relative to the run where it is part of it.
        rows: rows of the data; rows that ask the same are one question.
        without_reference: rows that have no answer to compare with. Their questions are left out,
            unless others answer them, too.
        in_training: questions whose instruction and input are in the run's training data.
        exact_match, rouge_l: over the `scored` questions, those with a reference; None without.
        exact_match_interval: Wilson's, at 95 %; `rouge_l_interval`: a percentile bootstrap of the
            questions.
        by_family: family or category -> the five figures; empty where rows name none.
        families_at_90: families with an exact match of 0.9 and more.
        seen_phrasings, unseen_phrasings: the figures of questions whose wordings training data may
            and never does use; None where rows do not say.
        cut: answers that max_new_tokens or the context ended.
        too_long: questions that do not fit into the model's context; their answers are empty.
        misses: wrong answers, of different families where rows name them.
        against: opponent -> its own figures, the questions that it has no answer to (`missing`),
            and its paired `difference` to the model.
        pairwise: opponent -> what the judge said, see `eval_preferences.preferences`; from the
            model's side.
        judge: who judged, and what it cost; None without a judge.
        lm_eval: task -> results of lm-evaluation-harness, as they are.
        gates: each gate with its figure and whether it passed; not part of `report.json`.
        measured_with: what can change without asking anything again.
    """

    model: str
    data: str
    rows: int
    without_reference: int
    questions: int
    in_training: int
    exact_match: float | None
    exact_match_interval: Sequence[float] | None
    rouge_l: float | None
    by_family: Mapping[str, Mapping[str, Any]]
    families_at_90: int
    seen_phrasings: Mapping[str, Any] | None
    unseen_phrasings: Mapping[str, Any] | None
    cut: int
    too_long: int
    misses: Sequence[Mapping[str, Any]]
    rouge_l_interval: Sequence[float] | None = None
    scored: int = 0
    against: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pairwise: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    judge: Mapping[str, Any] | None = None
    lm_eval: Mapping[str, Any] = field(default_factory=dict)
    gates: Sequence[Mapping[str, Any]] = ()
    measured_with: Mapping[str, Any] = field(default_factory=dict)


def own_figures(
    questions: Sequence[Question],
    rows: Rows,
    scores: Scores,
    seen: Collection[tuple[str, str]],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """The fields that come from the evaluated model's answers and scores, JSON-able."""
    return {
        "questions": len(questions),
        "in_training": sum(pair(each.instruction, each.input) in seen for each in questions),
        **reference_figures(questions, rows, scores, bootstrap),
        "seen_phrasings": _part(questions, scores, bootstrap, held_out=False),
        "unseen_phrasings": _part(questions, scores, bootstrap, held_out=True),
        "misses": _misses(questions, rows, scores),
    }


def opponents_figures(
    questions: Sequence[Question],
    answers: Mapping[str, Rows],
    scores: Mapping[str, Scores],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """The field `against`, from everyone's answers and scores, the evaluated model's first."""
    first, *others = answers
    return {
        name: {
            "missing": len(questions) - len(answers[name]),
            **reference_figures(questions, answers[name], scores[name], bootstrap),
            "difference": difference(scores[first], scores[name], bootstrap),
        }
        for name in others
    }


def preference_figures(
    questions: Sequence[Question], judged: Sequence[Judged], bootstrap: Bootstrap
) -> dict[str, Any]:
    """The field `pairwise`, from what the judge said of all pairs."""
    families = {index: each.family for index, each in enumerate(questions)}
    by_opponent: dict[str, list[Judged]] = {}
    for each in judged:
        by_opponent.setdefault(each.pair.opponent, []).append(each)
    return {name: preferences(found, families, bootstrap) for name, found in by_opponent.items()}


def _part(
    questions: Sequence[Question], scores: Scores, bootstrap: Bootstrap, *, held_out: bool
) -> dict[str, Any] | None:
    chosen = [score for index, score in scores.items() if questions[index].held_out is held_out]
    return figures(summarize(chosen, bootstrap)) if chosen else None


def _misses(questions: Sequence[Question], rows: Rows, scores: Scores) -> list[dict[str, Any]]:
    """The first wrong answer of each family, at most MISSES; without families, the first ones."""
    found: dict[str, dict[str, Any]] = {}
    for index, score in scores.items():
        question = questions[index]
        key = question.family or str(index)
        if not score.exact and key not in found and len(found) < MISSES:
            found[key] = {
                "instruction": question.instruction,
                "input": question.input,
                "expected": question.references[0],
                "answer": rows[index]["answer"],
                "family": question.family,
            }
    return list(found.values())


def warn(report: Report, questions: Sequence[Question], progress: Progress) -> None:
    """What makes the figures mean less than they seem to."""
    if report.in_training:
        progress.warn(f"questions that are in the run's training data: {report.in_training:,}")
    if report.too_long:
        progress.warn(f"questions too long for the model, not asked: {report.too_long:,}")
    referenced = [question for question in questions if question.references]
    wordless = sum(
        not any(tokenize(each, "rouge") for each in question.references) for question in referenced
    )
    if wordless > 0.05 * len(referenced):
        progress.warn(f"references without a-z or 0-9, whose ROUGE-L is always 0: {wordless:,}")

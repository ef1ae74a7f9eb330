"""Figures of several contenders on the same questions, side by side, and the rows behind them.

Differences are paired: what is resampled is the difference on one question, so that questions that
are hard for everyone do not blur it. Where answers come from is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from alpaca_cli.stages.pairwise import Judged, Pair
from alpaca_cli.stages.questions import Question
from alpaca_cli.stages.scoring import Bootstrap, Score, Summary, by_group, score_answers, summarize

Rows = Mapping[int, Mapping[str, Any]]
Scores = dict[int, Score]


def scores_of(questions: Sequence[Question], rows: Rows) -> Scores:
    """A score by question, wherever there is an answer and a reference."""
    scored = [index for index in sorted(rows) if questions[index].references]
    found = score_answers(
        [rows[index]["answer"] for index in scored],
        [questions[index].references for index in scored],
    )
    return dict(zip(scored, found, strict=True))


def figures(summary: Summary) -> dict[str, Any]:
    """A summary as JSON-able fields."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(summary).items()}


def reference_figures(
    questions: Sequence[Question], rows: Rows, scores: Scores, bootstrap: Bootstrap
) -> dict[str, Any]:
    """What one contender's answers come to; figures against references are None without any."""
    names = ("exact_match", "exact_match_interval", "rouge_l", "rouge_l_interval")
    overall = figures(summarize(list(scores.values()), bootstrap)) if scores else {}
    families = by_group(
        ((questions[index].family, score) for index, score in scores.items()
         if questions[index].family),
        bootstrap,
    )  # fmt: skip
    reasons = [row["finish_reason"] for row in rows.values()]
    return {
        "scored": len(scores),
        **{name: overall.get(name) for name in names},
        "by_family": {name: figures(summary) for name, summary in families.items()},
        "families_at_90": sum(summary.exact_match >= 0.9 for summary in families.values()),
        "cut": reasons.count("length"),
        "too_long": reasons.count("prompt_too_long"),
    }


def difference(mine: Scores, theirs: Scores, bootstrap: Bootstrap) -> dict[str, Any] | None:
    """By how much an opponent scores higher than the evaluated model, where both answered.

    Returns:
        n, and exact_match and rouge_l with their intervals; None without a common question.
    """
    common = sorted(mine.keys() & theirs.keys())
    if not common:
        return None
    exact = [float(theirs[index].exact - mine[index].exact) for index in common]
    rouge = [theirs[index].rouge_l - mine[index].rouge_l for index in common]
    return {
        "n": len(common),
        "exact_match": round(fmean(exact), 4),
        "exact_match_interval": list(bootstrap.interval(exact)),
        "rouge_l": round(fmean(rouge), 4),
        "rouge_l_interval": list(bootstrap.interval(rouge)),
    }


def pairs(questions: Sequence[Question], first: Rows, others: Mapping[str, Rows]) -> list[Pair]:
    """What a judge is to compare: question by question, opponents in their order."""
    return [
        Pair(
            index,
            name,
            question.instruction,
            question.input,
            first[index]["answer"],
            rows[index]["answer"],
        )
        for index, question in enumerate(questions)
        for name, rows in others.items()
        if index in rows
    ]


def rows(
    questions: Sequence[Question],
    answers: Mapping[str, Rows],
    scores: Mapping[str, Scores],
    judged: Iterable[Judged],
) -> list[dict[str, Any]]:
    """The lines of comparison.jsonl: a question, everyone's answer, and the judge's verdicts."""
    found: list[dict[str, Any]] = [
        {
            "index": index,
            "instruction": question.instruction,
            "input": question.input,
            "references": question.references,
            "family": question.family,
            "answers": {
                name: _answer(rows[index], scores[name].get(index))
                for name, rows in answers.items()
                if index in rows
            },
            "verdicts": {},
        }
        for index, question in enumerate(questions)
    ]
    for each in judged:
        found[each.pair.question]["verdicts"][each.pair.opponent] = {
            "result": each.result,
            "shown_first": each.shown_first,
            "shown_second": each.shown_second,
            "reasons": list(each.reasons),
            "pending": each.pending,
        }
    return found


def _answer(row: Mapping[str, Any], score: Score | None) -> dict[str, Any]:
    scored = {} if score is None else {"exact": score.exact, "rouge_l": round(score.rouge_l, 4)}
    return {"text": row["answer"], "finish_reason": row["finish_reason"], **scored}

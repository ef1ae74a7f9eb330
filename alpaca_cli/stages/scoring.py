"""Scores of answers against references: exact match and ROUGE-L, with their intervals.

Plain functions and small records; where answers come from is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from alpaca_cli.core.intervals import mean_interval, wilson_interval

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Score:
    """One answer against its best reference: `exact` 0 or 1, `rouge_l` from 0 to 1."""

    exact: int
    rouge_l: float


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How means are resampled: how often, and from which seed."""

    resamples: int
    seed: int

    def interval(self, values: Sequence[float]) -> Interval:
        """The 95 % interval for the mean of some questions' values, to four places."""
        low, high = mean_interval(values, self.resamples, self.seed)
        return round(low, 4), round(high, 4)


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over `n` scores, with intervals at 95 %: Wilson's, and a bootstrap of the questions."""

    n: int
    exact_match: float
    exact_match_interval: Interval
    rouge_l: float
    rouge_l_interval: Interval


def score_answers(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[Score]:
    """Each answer against its references, of which the best counts.

    Exact match compares texts after white space is made single blanks. ROUGE-L is the F1 of
    `rouge-score` without stemming; its tokenizer knows a-z and 0-9 only, so other scripts and
    bare symbols score 0.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return [
        Score(
            exact=int(plain(answer) in map(plain, expected)),
            rouge_l=max(scorer.score(each, answer)["rougeL"].fmeasure for each in expected),
        )
        for answer, expected in zip(answers, references, strict=True)
    ]


def summarize(scores: Sequence[Score], bootstrap: Bootstrap) -> Summary:
    """Means and intervals of at least one score, rounded to four places."""
    hits = sum(score.exact for score in scores)
    low, high = wilson_interval(hits, len(scores))
    found = [score.rouge_l for score in scores]
    return Summary(
        n=len(scores),
        exact_match=round(hits / len(scores), 4),
        exact_match_interval=(round(low, 4), round(high, 4)),
        rouge_l=round(fmean(found), 4),
        rouge_l_interval=bootstrap.interval(found),
    )


def by_group(scores: Iterable[tuple[str, Score]], bootstrap: Bootstrap) -> Mapping[str, Summary]:
    """A summary for each named group, by name."""
    groups: dict[str, list[Score]] = {}
    for name, score in scores:
        groups.setdefault(name, []).append(score)
    return {name: summarize(groups[name], bootstrap) for name in sorted(groups)}


def plain(text: str) -> str:
    """The text with every stretch of white space as one blank, none around it."""
    return " ".join(text.split())

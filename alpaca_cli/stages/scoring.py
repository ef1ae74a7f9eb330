"""Scores of answers against references: exact match, ROUGE-L, and how sure a share is.

Plain functions and small records; where answers come from is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean


@dataclass(frozen=True, slots=True)
class Score:
    """One answer against its best reference: `exact` 0 or 1, `rouge_l` from 0 to 1."""

    exact: int
    rouge_l: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over `n` scores. `exact_match_interval` is Wilson's, at 95 %."""

    n: int
    exact_match: float
    exact_match_interval: tuple[float, float]
    rouge_l: float


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


def summarize(scores: Sequence[Score]) -> Summary:
    """Means and interval of at least one score, rounded to four places."""
    hits = sum(score.exact for score in scores)
    low, high = wilson_interval(hits, len(scores))
    return Summary(
        n=len(scores),
        exact_match=round(hits / len(scores), 4),
        exact_match_interval=(round(low, 4), round(high, 4)),
        rouge_l=round(fmean(score.rouge_l for score in scores), 4),
    )


def by_group(scores: Iterable[tuple[str, Score]]) -> Mapping[str, Summary]:
    """A summary for each named group, by name."""
    groups: dict[str, list[Score]] = {}
    for name, score in scores:
        groups.setdefault(name, []).append(score)
    return {name: summarize(groups[name]) for name in sorted(groups)}


def wilson_interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share of `hits` in `n` > 0.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    JASA 22 (1927).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def plain(text: str) -> str:
    """The text with every stretch of white space as one blank, none around it."""
    return " ".join(text.split())

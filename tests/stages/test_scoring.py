"""Scores of answers: exact match, ROUGE-L, and their summaries."""

from __future__ import annotations

import pytest

from alpaca_cli.core.intervals import mean_interval, wilson_interval
from alpaca_cli.stages.scoring import Bootstrap, Score, by_group, score_answers, summarize

BOOTSTRAP = Bootstrap(resamples=1000, seed=1)


def test_scores_are_exact_match_and_rouge_l_of_the_best_reference() -> None:
    scores = score_answers(
        ["  four\n", "the cat sat", "Four", "no"],
        [["4", "four"], ["a dog", "the cat"], ["four"], ["yes"]],
    )
    assert [score.exact for score in scores] == [1, 0, 0, 0]
    assert [score.rouge_l for score in scores] == pytest.approx([1, 0.8, 1, 0])
    summary = summarize(scores, BOOTSTRAP)
    assert (summary.n, summary.exact_match, summary.rouge_l) == (4, 0.25, 0.7)
    groups = by_group(zip("baab", scores, strict=True), BOOTSTRAP)
    assert {name: part.exact_match for name, part in groups.items()} == {"a": 0, "b": 0.5}


def test_every_figure_has_its_interval() -> None:
    scores = [Score(exact=int(at % 3 == 0), rouge_l=at / 59) for at in range(60)]
    summary = summarize(scores, BOOTSTRAP)
    assert summary.exact_match_interval == pytest.approx(wilson_interval(20, 60), abs=1e-4)
    expected = mean_interval([score.rouge_l for score in scores], 1000, 1)
    assert summary.rouge_l_interval == pytest.approx(expected, abs=1e-4)
    assert summary.rouge_l_interval[0] < summary.rouge_l == 0.5 < summary.rouge_l_interval[1]
    [half, _] = by_group([("a" if at < 30 else "b", each) for at, each in enumerate(scores)],
                         BOOTSTRAP).values()  # fmt: skip
    expected = mean_interval([score.rouge_l for score in scores[:30]], 1000, 1)
    assert half.rouge_l_interval == pytest.approx(expected, abs=1e-4)

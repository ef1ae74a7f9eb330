"""Which seed tasks do better or worse than chance alone explains.

Each seed's share of kept candidates is compared with that of the whole run:

1. Candidates of one reply rise and fall together: all are lost with a reply that cannot be read. So
   they tell less than as many independent ones; the run's own scatter between requests says by
   what factor (the design effect: Kish 1965, Survey Sampling, section 5.4; for a ratio of sums as
   in Cochran 1977, Sampling Techniques, section 6.3), and all candidates count as so many fewer.
2. The exact binomial probability of a share as far from the run's, or farther, is doubled for the
   two sides and multiplied by the number of comparisons: two for every seed that was shown. Below
   0.05 the seed is named. So of reports about seeds that are all alike, at most one in twenty names
   any.
3. The second comparison is of requests that brought no readable task at all (refused, failed or
   unparsable), for these leave hardly a candidate behind. It is binomial as well, one-sided.

Verdicts:

    breeds             more of its candidates are kept
    breeds duplicates  fewer are kept, and more of the difference are like an earlier task
    breeds rejections  fewer are kept, and more of the difference are rejected for something else;
                       or more of its requests bring nothing
    too little shown   so few candidates that not even with none kept it would be named
    ordinary           all others

The run's own share holds the seed's requests and those of its company: where seeds are few, a very
bad one makes all others look a little better. Requests are taken as exchangeable, as they are when
seeds are drawn alike; a seed that was shown mostly early, when all is new, has an advantage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from alpaca_cli.core.intervals import wilson_interval

Verdict = Literal[
    "breeds", "breeds duplicates", "breeds rejections", "too little shown", "ordinary"
]

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
LEVEL = 0.05  # of all comparisons together
COMPARISONS = 2  # for each seed: of its candidates, and of its requests


@dataclass(frozen=True, slots=True)
class Counts:
    """What came of the requests that showed one seed, or of all requests.

    Attributes:
        candidates: without those that came when there were enough already.
        duplicates: those of them that are like another example.
        requests: those that were judged; `lost` of them brought no readable task.
    """

    candidates: int = 0
    kept: int = 0
    duplicates: int = 0
    requests: int = 0
    lost: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.candidates + other.candidates,
            self.kept + other.kept,
            self.duplicates + other.duplicates,
            self.requests + other.requests,
            self.lost + other.lost,
        )


def design_effect(requests: Iterable[tuple[int, int]]) -> float:
    """How many candidates of replies tell as much as one independent one; at least 1.

    Args:
        requests: candidates of each request, and how many of them were kept.
    """
    pairs = np.array([pair for pair in requests if pair[0]], dtype=float).reshape(-1, 2)
    if len(pairs) < 2:
        return 1.0
    candidates, kept = pairs.T
    share = kept.sum() / candidates.sum()
    expected = candidates.sum() * share * (1 - share)
    if not expected:
        return 1.0
    scatter = ((kept - share * candidates) ** 2).sum() * len(pairs) / (len(pairs) - 1)
    return max(1.0, float(scatter / expected))


def interval(part: int, whole: int, effect: float = 1.0) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927), (0, 1) of nothing.

    Args:
        effect: so many count as one; see `design_effect`.
    """
    if not whole:
        return 0.0, 1.0
    return wilson_interval(part / effect, whole / effect)


def judge_seed(seed: Counts, run: Counts, seeds: int, effect: float) -> tuple[Verdict, float]:
    """The verdict, and the corrected probability that it rests on; the module states the rule.

    Args:
        run: of all requests.
        seeds: how many seeds were shown.
        effect: the run's design effect.
    """
    comparisons = COMPARISONS * seeds
    share = _share(run.kept, run.candidates)
    few, many = _tails(seed.kept, seed.candidates, share, effect)
    of_kept = min(1.0, 2 * min(few, many) * comparisons)
    _, many_lost = _tails(seed.lost, seed.requests, _share(run.lost, run.requests), 1.0)
    of_lost = min(1.0, many_lost * comparisons)
    if of_kept < LEVEL and few < many:
        return _what_instead(seed, run), of_kept
    if of_lost < LEVEL:
        return "breeds rejections", of_lost
    if of_kept < LEVEL:
        return "breeds", of_kept
    none_kept = (1 - share) ** math.floor(seed.candidates / effect)
    # Where the run keeps all or nothing, seeds do not differ however often they are shown.
    alike = bool(seed.candidates) and share in (0, 1)
    shown = alike or 2 * none_kept * comparisons < LEVEL
    return "ordinary" if shown else "too little shown", min(of_kept, of_lost)


def _what_instead(seed: Counts, run: Counts) -> Verdict:
    """Of candidates that were not kept: what there is more of than in the run."""

    def excess(count: int, total: int) -> float:
        return _share(count, seed.candidates) - _share(total, run.candidates)

    others = seed.candidates - seed.kept - seed.duplicates
    of_run = run.candidates - run.kept - run.duplicates
    like_another = excess(seed.duplicates, run.duplicates) > excess(others, of_run)
    return "breeds duplicates" if like_another else "breeds rejections"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _tails(part: int, whole: int, share: float, effect: float) -> tuple[float, float]:
    """Binomial probabilities of so few, and of so many, when `effect` trials count as one.

    Counts are rounded towards what is less surprising.
    """
    trials = math.floor(whole / effect)
    if not trials or not 0 < share < 1:
        return 1.0, 1.0
    successes = np.arange(trials + 1)
    factorials = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, trials + 1)))))
    logs = (
        factorials[-1]
        - factorials
        - factorials[::-1]
        + successes * math.log(share)
        + (trials - successes) * math.log1p(-share)
    )
    chances = np.exp(logs)
    mean = part / whole * trials
    few, many = math.ceil(mean - 1e-9), math.floor(mean + 1e-9)
    return min(1.0, float(chances[: few + 1].sum())), min(1.0, float(chances[many:].sum()))

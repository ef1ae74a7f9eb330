"""What pairwise verdicts add up to: win rates, the judge's bias for a position, and for length.

A pair is won when both orders prefer the model, lost when both prefer the opponent, and a tie
when they disagree or say so. Rates count a tie as half a win. Questions are the unit of every
interval, because the two verdicts on a pair are not independent.

The length-controlled rate answers: what would the rate be if both answers were equally long? As in
AlpacaEval 2 (Dubois et al. 2024, arXiv:2404.04475) the preference is explained by a logistic model:

    P(model preferred) = 1 / (1 + exp(-(b0 + b1 * tanh(d / sd(d)))))

with d the model's characters less its opponent's; the rate is that of d = 0. Unlike there, one
model is compared with one other at a time, so there are no terms for the question's difficulty.
It is not given where it would be a guess: when one side is always longer, or length alone decides
every pair. And it cannot tell a judge that likes length from answers that are better because they
say more.

Who judged is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any

from alpaca_cli.core.intervals import CONFIDENCE, sign_test, wilson_interval
from alpaca_cli.stages.pairwise import Judged, Side
from alpaca_cli.stages.scoring import Bootstrap

SIGNIFICANT = 0.05  # p-value below which a bias for a position is said in words
RIDGE = 1e-3  # of b1: keeps it finite when length explains nearly every preference
STEPS = 100  # of Newton's method; it takes about ten


@dataclass(frozen=True, slots=True)
class LengthControl:
    """The rate at equal length, its 95 % interval, or why there is none."""

    win_rate: float | None
    interval: tuple[float, float] | None
    note: str = ""


def preferences(
    judged: Sequence[Judged], families: Mapping[int, str], bootstrap: Bootstrap
) -> dict[str, Any]:
    """The figures of one model against one opponent, JSON-able.

    Args:
        families: question -> its family or category, where it has one.

    Returns:
        n: pairs with a result: `wins`, `losses`, `ties`; `identical` of these have equal texts.
        no_verdict, pending: pairs without a result, for good and for now.
        win_rate, interval: a tie is half a win; None without any pair, as all rates here. The
            interval is a bootstrap's; Wilson's when all pairs went the same way.
        decisive_rate, decisive_interval: wins of wins and losses; Wilson's.
        length_controlled, length_controlled_interval, length_controlled_note.
        characters: mean length of both sides' answers, in characters.
        by_order: the rate by the verdicts with the model shown first, and second, alone.
        position_bias, position_bias_interval: how often the answer shown first is preferred, a tie
            as half; `position_bias_p` is of the sign test on the pairs whose orders disagree;
            `position_note` says it in words when it is significant.
        agreement: share of pairs whose orders say the same.
        by_family: n and win_rate of each family.
    """
    known = [each for each in judged if each.result is not None]
    results = [each.result for each in known]
    wins, losses = results.count("a"), results.count("b")
    rates = [_points(each.result) for each in known]
    pending = sum(each.pending for each in judged)
    return {
        "n": len(known),
        "wins": wins,
        "losses": losses,
        "ties": results.count("tie"),
        "identical": sum(each.identical for each in known),
        "no_verdict": len(judged) - len(known) - pending,
        "pending": pending,
        "win_rate": _mean(rates),
        "interval": _interval(rates, bootstrap),
        **_decisive(wins, losses),
        **_length_controlled(known),
        **_position(known, bootstrap),
        "by_family": _by_family(known, families),
    }


def _points(side: Side | None) -> float:
    """A win is one, a tie half."""
    return {"a": 1.0, "b": 0.0}.get(side or "tie", 0.5)


def _mean(values: Sequence[float]) -> float | None:
    return round(fmean(values), 4) if values else None


def _interval(values: Sequence[float], bootstrap: Bootstrap) -> list[float] | None:
    if not values:
        return None
    if len(set(values)) > 1:
        return list(bootstrap.interval(values))
    # Of equal values a bootstrap makes a point, as if three wins of three were certainty.
    return [round(end, 4) for end in wilson_interval(sum(values), len(values))]


def _decisive(wins: int, losses: int) -> dict[str, Any]:
    if not wins + losses:
        return {"decisive_rate": None, "decisive_interval": None}
    interval = wilson_interval(wins, wins + losses)
    return {
        "decisive_rate": round(wins / (wins + losses), 4),
        "decisive_interval": [round(end, 4) for end in interval],
    }


def _by_family(known: Sequence[Judged], families: Mapping[int, str]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[float]] = {}
    for each in known:
        if family := families.get(each.pair.question, ""):
            groups.setdefault(family, []).append(_points(each.result))
    return {name: {"n": len(groups[name]), "win_rate": _mean(groups[name])}
            for name in sorted(groups)}  # fmt: skip


# --- position -------------------------------------------------------------------------------------


def _position(known: Sequence[Judged], bootstrap: Bootstrap) -> dict[str, Any]:
    """How much the order decides. Pairs of equal texts, which nobody was shown, are left out."""
    shown = [each for each in known if not each.identical]
    first = [_points(each.shown_first) for each in shown]
    second = [_points(each.shown_second) for each in shown]
    # Of the two answers that a pair's orders show first, one is the model's, one its opponent's.
    leaning = [(mine + 1 - theirs) / 2 for mine, theirs in zip(first, second, strict=True)]
    found = {
        "by_order": {"shown_first": _mean(first), "shown_second": _mean(second)},
        "position_bias": _mean(leaning),
        "position_bias_interval": _interval(leaning, bootstrap),
        "position_bias_p": None,
        "position_note": "",
        "agreement": _mean([float(each.shown_first == each.shown_second) for each in shown]),
    }
    if shown:
        towards, against = sum(each > 0.5 for each in leaning), sum(each < 0.5 for each in leaning)
        found["position_bias_p"] = chance = sign_test(towards, against)
        if chance < SIGNIFICANT:
            place, share = ("first", fmean(leaning)) if towards > against else (
                "second", 1 - fmean(leaning)
            )  # fmt: skip
            found["position_note"] = (
                f"This judge prefers whatever it is shown {place}: in {share:.0%} of its verdicts, "
                f"where 50% would be fair. Pairs on which its orders disagree count as ties."
            )
    return found


# --- length ---------------------------------------------------------------------------------------


def _length_controlled(known: Sequence[Judged]) -> dict[str, Any]:
    lengths = [(len(each.pair.answer), len(each.pair.other)) for each in known]
    found = length_control(
        [_points(each.result) for each in known], [mine - theirs for mine, theirs in lengths]
    )
    return {
        "length_controlled": found.win_rate,
        "length_controlled_interval": None if found.interval is None else list(found.interval),
        "length_controlled_note": found.note,
        "characters": [round(fmean(each), 1) for each in zip(*lengths, strict=True)],
    }


def length_control(preferred: Sequence[float], longer_by: Sequence[float]) -> LengthControl:
    """The rate at equal length; the module has the formula and its limits.

    Args:
        preferred: 1 where the model won, 0 where it lost, 0.5 for a tie.
        longer_by: its characters less its opponent's.

    The fit is Newton's method on the log-likelihood less RIDGE/2 * b1^2. The interval is normal in
    b0, its variance from the inverse of the Hessian: a little wide where there are many ties.
    """
    import numpy as np

    y, d = np.asarray(preferred, dtype=float), np.asarray(longer_by, dtype=float)
    if len(y) < 2 or not (d > 0).any() or not (d < 0).any():
        return LengthControl(None, None, "one side's answers are never longer than the other's")
    if y.min() == y.max() != 0.5:
        return LengthControl(None, None, "one side is always preferred, whatever its length")
    if d[y < 1].max() <= d[y > 0].min() or d[y > 0].max() <= d[y < 1].min():
        return LengthControl(None, None, "length alone decides every pair: no rate can be told")
    x = np.stack([np.ones_like(d), np.tanh(d / d.std())], axis=1)
    ridge = np.diag([0.0, RIDGE])

    def loss(b: Any) -> float:
        logit = x @ b
        return float(np.logaddexp(0, logit).sum() - y @ logit + b @ ridge @ b / 2)

    b = np.zeros(2)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-(x @ b)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge
        step = np.linalg.solve(hessian, x.T @ (y - p) - ridge @ b)
        size = 1.0
        while size > 1e-6 and loss(b + size * step) > loss(b):
            size /= 2
        b = b + size * step
        if float(np.abs(size * step).max()) < 1e-9:
            break
    p = 1 / (1 + np.exp(-(x @ b)))
    hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge
    error = math.sqrt(np.linalg.inv(hessian)[0, 0])
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    low, middle, high = (_share(float(b[0]) + way * z * error) for way in (-1, 0, 1))
    return LengthControl(round(middle, 4), (round(low, 4), round(high, 4)))


def _share(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0

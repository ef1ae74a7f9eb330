"""Two reports side by side: what moved, and whether by more than sampling noise.

Three kinds of figures are compared.

- Shares of examples. The interval is Newcombe's hybrid score interval for the difference of two
  independent proportions (Newcombe 1998, Statistics in Medicine 17:873-890, method 10, from
  Wilson's intervals); p is that of Fisher's exact test, two-sided: the probability, with both
  margins given, of all tables that are no more probable than this one. Where neither set has an
  example, the figure is left out.
- Means. The difference over its standard error is taken as standard normal: Welch's error
  sqrt(s1²/n1 + s2²/n2), or that of the pooled variance where it is larger. Lengths have long tails,
  and a small set that happens to miss the tail underrates its own spread. With fewer than 30
  numbers in one of the sets there is no interval and no p.
- Figures whose noise one report does not tell: medians, diversity, entropy, and all that depends
  on pairs of rows and so on the size of the set (nearest neighbours, duplicates). Only their
  difference is given, and they never count as moved.

Then all p together are corrected by Holm's step-down method (Holm 1979, Scandinavian Journal of
Statistics 6:65-70), so that of two samples of one source at most one comparison in twenty shows
anything as moved at all.

The tests take the rows of both sets as drawn independently. Sets that repeat rows show more than
there is; sets that share rows, such as one before and after dedup, show less. Figures that were
not measured in the same way (another tokenizer, max_length or threshold, other evaluation files,
scripts against languages) are left out. Which change is good is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from alpaca_cli.core.intervals import wilson_interval
from alpaca_cli.core.stats_report import (
    Change,
    Comparison,
    Distribution,
    Group,
    Neighbours,
    Report,
)

LEVEL = 0.05  # family-wise, and one minus the confidence of the intervals
FEWEST = 30  # numbers whose mean is taken as normal
# Rules that compare a row with others: how often they find something depends on the set's size.
PAIR_RULES = ("duplicate-instruction", "near-duplicate-instruction")

_Z = NormalDist().inv_cdf(1 - LEVEL / 2)


@dataclass(frozen=True, slots=True)
class _Part:
    """A count among a total."""

    count: int
    total: int


@dataclass(frozen=True, slots=True)
class _Mean:
    """A mean with what its noise is computed from."""

    mean: float
    sd: float
    count: int


# A figure's value: a share, a mean, or a number whose noise is not known.
_Figures = dict[str, _Part | _Mean | float]


@dataclass(frozen=True, slots=True)
class _Compared:
    """A change before the correction, and by how much it counts.

    Attributes:
        effect: size of the difference in units of its kind: Cohen's h of shares, Cohen's d of
            means, and relative to the larger one where there is no unit.
    """

    change: Change
    effect: float


def compare(report: Report, other: Report) -> Comparison:
    """The report beside another one, which is what was `before`.

    Moved figures come first, then those that could have moved, then those without known noise;
    each kind by the size of its standardised difference.
    """
    before, after = _figures(other), _figures(report)
    _add_absent_groups(before, after)
    left_out = tuple(_measured_otherwise(report, other))
    compared = [
        found
        for name in dict.fromkeys([*after, *before])
        if not name.startswith(left_out)
        and (found := _compared(name, before.get(name), after.get(name))) is not None
    ]
    compared = _corrected(compared)
    compared.sort(key=lambda one: (not one.change.moved, one.change.p is None, -one.effect))
    return Comparison(other.source, other.examples, [one.change for one in compared])


def difference_interval(before: tuple[int, int], after: tuple[int, int]) -> tuple[float, float]:
    """Newcombe's hybrid score interval, 95 %, of `after - before`; each is a count and a total."""
    p1, p2 = after[0] / after[1], before[0] / before[1]
    low1, high1 = wilson_interval(*after)
    low2, high2 = wilson_interval(*before)
    return (
        p1 - p2 - math.hypot(p1 - low1, high2 - p2),
        p1 - p2 + math.hypot(high1 - p1, p2 - low2),
    )


def exact_p(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Two-sided p of Fisher's exact test; each argument is a count and a total.

    Time and memory grow with the smaller margin, not with the totals.
    """
    (count1, total1), (count2, total2) = before, after
    hits, everything = count1 + count2, total1 + total2
    if hits > everything - hits:  # the same table, read by what was not found
        return exact_p((total1 - count1, total1), (total2 - count2, total2))
    low, high = max(0, hits - total2), min(hits, total1)
    k = np.arange(low, high, dtype=float)
    # ln of P(k + 1) / P(k) of the hypergeometric distribution, summed up from its lower end.
    steps = np.log((hits - k) * (total1 - k)) - np.log((k + 1) * (total2 - hits + k + 1))
    logs = np.concatenate(([0.0], np.cumsum(steps)))
    weights = np.exp(logs - logs.max())
    # Tables as probable as this one differ from it by rounding only.
    extreme = weights <= weights[count1 - low] * (1 + 1e-7)
    return min(1.0, float(weights[extreme].sum() / weights.sum()))


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number by Holm's step-down method, in the given order."""
    corrected = [0.0] * len(values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected


def _corrected(compared: Iterable[_Compared]) -> list[_Compared]:
    """The same with p corrected for all of them, and what moved by it."""
    listed = list(compared)
    tested = [one for one in listed if one.change.p is not None]
    values = holm([one.change.p for one in tested if one.change.p is not None])
    by_figure = {one.change.figure: p for one, p in zip(tested, values, strict=True)}
    return [
        replace(one, change=replace(one.change, p=p, moved=p < LEVEL))
        if (p := by_figure.get(one.change.figure)) is not None
        else one
        for one in listed
    ]


def _compared(
    name: str, before: _Part | _Mean | float | None, after: _Part | _Mean | float | None
) -> _Compared | None:
    """One figure of both sets; None when it cannot be compared or is 0 in both."""
    if isinstance(before, _Part) and isinstance(after, _Part):
        return _compared_shares(name, before, after)
    if isinstance(before, _Mean) and isinstance(after, _Mean):
        return _compared_means(name, before, after)
    if isinstance(before, int | float) and isinstance(after, int | float):
        if before == after == 0:
            return None
        effect = abs(after - before) / max(abs(before), abs(after))
        return _Compared(_change(name, before, after, None, None), effect)
    return None


def _compared_shares(name: str, before: _Part, after: _Part) -> _Compared | None:
    if not before.total or not after.total or not before.count + after.count:
        return None
    pair = (before.count, before.total), (after.count, after.total)
    first, second = before.count / before.total, after.count / after.total
    effect = abs(2 * math.asin(math.sqrt(second)) - 2 * math.asin(math.sqrt(first)))
    change = _change(name, first, second, difference_interval(*pair), exact_p(*pair))
    return _Compared(change, effect)


def _compared_means(name: str, before: _Mean, after: _Mean) -> _Compared:
    difference = after.mean - before.mean
    spread = math.sqrt((before.sd**2 + after.sd**2) / 2)
    effect = abs(difference) / spread if spread else math.inf if difference else 0.0
    if min(before.count, after.count) < FEWEST:
        return _Compared(_change(name, before.mean, after.mean, None, None), effect)
    error = _standard_error(before, after)
    interval = difference - _Z * error, difference + _Z * error
    # Without an error all numbers of a set are equal: either the sets differ, or they do not.
    p = math.erfc(abs(difference) / error / math.sqrt(2)) if error else float(not difference)
    return _Compared(_change(name, before.mean, after.mean, interval, p), effect)


def _standard_error(before: _Mean, after: _Mean) -> float:
    """Of the difference of two means: the larger of Welch's and that of the pooled variance."""
    n1, n2 = before.count, after.count
    v1, v2 = before.sd**2, after.sd**2
    pooled = ((n1 - 1) * v1 + (n2 - 1) * v2) / (n1 + n2 - 2)
    return math.sqrt(max(v1 / n1 + v2 / n2, pooled / n1 + pooled / n2))


def _change(
    name: str,
    before: float,
    after: float,
    interval: tuple[float, float] | None,
    p: float | None,
) -> Change:
    """A change with its figures to six digits, like all shares of a report; not yet corrected."""
    low, high = (None, None) if interval is None else (round(end, 6) for end in interval)
    return Change(
        figure=name,
        before=round(before, 6),
        after=round(after, 6),
        difference=round(after - before, 6),
        low=low,
        high=high,
        p=p,
        moved=False,
    )


def _measured_otherwise(report: Report, other: Report) -> Iterator[str]:
    """Beginnings of the paths of figures that the two reports measured in different ways."""
    if report.languages.method != other.languages.method:
        yield "languages."
    if report.openings.method != other.openings.method:
        yield from ("openings.recognised", "openings.distinct", "openings.entropy", "openings.top")
    for name in ("neighbours", "seeds"):
        mine, theirs = getattr(report, name), getattr(other, name)
        if mine and theirs and (mine.key, mine.threshold) != (theirs.key, theirs.threshold):
            yield f"{name}."
    mine, theirs = report.contamination, other.contamination
    if mine and theirs and mine.files != theirs.files:
        yield "contamination."
    mine, theirs = report.tokens, other.tokens
    if mine and theirs and mine.tokenizer != theirs.tokenizer:
        yield "tokens."
        yield from (f"lengths.{name}.tokens" for name in report.lengths)
    elif mine and theirs and mine.max_length != theirs.max_length:
        yield "tokens.over"


def _add_absent_groups(before: _Figures, after: _Figures) -> None:
    """A language or category that only one set has occurs 0 times in the other.

    First words are not all listed, so there absence says nothing; and a set without any
    categories has unknown ones.
    """
    for some, others in ((before, after), (after, before)):
        for name, value in list(some.items()):
            kind = ".".join(name.split(".")[:2]) + "."
            if not name.startswith(("languages.", "groups.")) or name in others:
                continue
            total = next(
                (
                    part.total
                    for known, part in others.items()
                    if known.startswith(kind) and isinstance(part, _Part)
                ),
                None,
            )
            if isinstance(value, _Part) and total is not None:
                others[name] = _Part(0, total)


def _figures(report: Report) -> _Figures:
    """Every figure of a report that can be compared, by its path."""
    total = report.examples
    languages = report.languages
    found: _Figures = {
        "examples": float(total),
        "with_input_share": _Part(report.with_input, total),
        **_lengths(report),
        **_groups("languages.instruction", languages.instruction, total),
        **_groups("languages.output", languages.output, total),
        "languages.differs.share": _Part(languages.differs.count, total),
        **_openings(report),
        **_groups("task_types", report.task_types, total),
    }
    for field, diversity in report.diversity.items():
        for measure in ("distinct_1", "distinct_2", "distinct_3", "entropy", "mtld", "compression"):
            value = getattr(diversity, measure)
            found |= {} if value is None else {f"diversity.{field}.{measure}": float(value)}
    found |= _neighbours("neighbours", report.neighbours, among_themselves=True)
    if report.seeds is not None:
        found |= _neighbours("seeds", report.seeds, among_themselves=False)
    for kind, repeats in report.duplicates.items():
        found[f"duplicates.{kind}.share"] = repeats.share
    for rule, hits in report.lint.items():
        pairs = rule in PAIR_RULES
        found[f"lint.{rule}.share"] = hits.share if pairs else _Part(hits.count, total)
    found["findings.rows_share"] = report.findings.rows_share  # with those of PAIR_RULES
    if report.contamination is not None:
        found["contamination.found.share"] = _Part(report.contamination.found.count, total)
    for kind, named in report.groups.items():
        found |= _groups(f"groups.{kind}", named, total)
    return found | _provenance(report)


def _lengths(report: Report) -> _Figures:
    found: _Figures = {}
    for field, lengths in report.lengths.items():
        for unit in ("words", "characters", "tokens"):
            found |= _distribution(f"lengths.{field}.{unit}", getattr(lengths, unit))
    if report.tokens is not None:
        rows = report.tokens.lengths
        found |= _distribution("tokens.lengths", rows)
        found["tokens.over_share"] = _Part(report.tokens.over, rows.count)
    return found


def _provenance(report: Report) -> _Figures:
    """Sums over a run. Candidates of one reply are alike, so even shares have unknown noise."""
    made = report.provenance
    if made is None:
        return {}
    found: dict[str, float | None] = {"requests": made.requests, "cost": made.cost}
    if made.funnel is not None:
        for name in ("candidates", "generated", "kept"):
            found[f"funnel.{name}"] = getattr(made.funnel, name)
    return {f"provenance.{name}": float(value) for name, value in found.items() if value}


def _distribution(path: str, found: Distribution | None) -> _Figures:
    if found is None or not found.count:
        return {}
    return {
        f"{path}.mean": _Mean(found.mean, found.sd, found.count),
        f"{path}.median": float(found.median),
        f"{path}.p95": float(found.p95),
    }


def _groups(path: str, groups: Mapping[str, Group], total: int) -> _Figures:
    return {f"{path}.{name}.share": _Part(group.count, total) for name, group in groups.items()}


def _openings(report: Report) -> _Figures:
    found = report.openings
    return {
        "openings.recognised_share": _Part(found.recognised, found.total),
        "openings.distinct_pairs": float(found.distinct_pairs),
        "openings.entropy": found.entropy,
        "openings.top_pair_share": found.top_pair_share,
        **_groups("openings.first_words", found.first_words, found.total),
    }


def _neighbours(path: str, found: Neighbours, *, among_themselves: bool) -> _Figures:
    if found.scores is None:
        return {}
    if among_themselves:
        return {
            f"{path}.above_share": found.above_share,
            f"{path}.scores.mean": found.scores.mean,
            f"{path}.scores.median": float(found.scores.median),
        }
    return {
        f"{path}.above_share": _Part(found.above, found.measured),
        **_distribution(f"{path}.scores", found.scores),
    }

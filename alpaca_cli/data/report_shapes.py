"""What the figures of the report draw, as plain numbers.

One place decides which bars, steps and slices there are; the page's own SVG, plotly and matplotlib
only draw them, so that the three never disagree. Colours, sizes and fonts are not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alpaca_cli.core.stats_report import Bin, Funnel, Group, Neighbours, Verb
from alpaca_cli.data.report_tags import clean, number

LABEL = 28  # characters of a name in a figure
BARS = 24  # bars of one chart; what is left is one more
VERBS, OBJECTS = 20, 4  # slices of the sunburst, as in the figure of Wang et al. 2023
REASONS = 16  # reasons of one stage in the funnel


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a chart."""

    name: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bars side by side, all drawn equally wide.

    Attributes:
        edges: one more than bars: round numbers, also where the outer bars hold what lies further
            out.
        labels: from where to where each bar reaches, in words.
        total: all that was counted.
    """

    edges: list[float]
    counts: list[int]
    labels: list[str]
    total: int

    def place(self, value: float) -> float | None:
        """Where a value stands, in bars from the left; None when outside."""
        if not self.edges[0] <= value <= self.edges[-1]:
            return None
        width = (self.edges[-1] - self.edges[0]) / len(self.counts)
        return (value - self.edges[0]) / width

    def edge(self, index: int) -> str:
        """What is written at an edge."""
        return number(self.edges[index])

    def ticks(self, most: int) -> list[int]:
        """Edges to write a number at, so many at most, in round steps."""
        bins = len(self.counts)
        every = next((step for step in (1, 2, 4, 5, 10, 20) if bins <= step * most), bins)
        return list(range(0, bins + 1, every))


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the funnel: what there is (`whole`), or what goes out of it for one reason."""

    name: str
    count: int
    start: int
    """What is left after this step: where its bar begins."""
    whole: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice of the sunburst: a verb (`parent` is empty) or an object of it.

    Attributes:
        start, end: its place on the circle, 0 to 1.
        colour: its verb's position.
        rest: its verb's other objects together, and its instructions without one.
    """

    id: str
    parent: str
    name: str
    count: int
    start: float
    end: float
    colour: int
    rest: bool = False


def bars(groups: Mapping[str, Group], total: int) -> list[Bar]:
    """The largest groups, and the others together; empty ones are left out."""
    found = sorted(
        ((name, group.count) for name, group in groups.items() if group.count),
        key=lambda item: -item[1],
    )
    rest = sum(count for _, count in found[BARS:])
    shown = [Bar(clean(name, LABEL), count, _share(count, total)) for name, count in found[:BARS]]
    if rest:
        shown.append(Bar(f"{len(found) - BARS:,} others", rest, _share(rest, total)))
    return shown


def histogram(bins: Sequence[Bin]) -> Histogram:
    """The bars of a distribution; the outermost are drawn as wide as those between them."""
    width = bins[1].high - bins[1].low if len(bins) > 2 else bins[0].high - bins[0].low
    first = bins[0].high - width if len(bins) > 1 else bins[0].low
    edges = [max(first, bins[0].low), *(found.high for found in bins)]
    if len(bins) > 2:
        edges[-1] = min(edges[-1], edges[-2] + width)
    if edges[-1] <= edges[0]:  # one value alone
        edges[-1] = edges[0] + 1
    labels = [f"{number(found.low)} to {number(found.high)}" for found in bins]
    counts = [found.count for found in bins]
    return Histogram(edges, counts, labels, sum(counts))


def at_least(found: Neighbours) -> list[tuple[float, float]]:
    """Points of the similarity curve: a score, and the share of examples that reach it.

    The last is the lower edge of the last bar: how its examples lie inside it is not known.
    """
    if found.scores is None:
        return []
    left = total = sum(part.count for part in found.scores.histogram)
    points = []
    for part in found.scores.histogram:
        points.append((part.low, _share(left, total)))
        left -= part.count
    return points


def steps(funnel: Funnel) -> list[Step]:
    """From candidates to examples: what goes out for each reason, the largest first."""
    found = [Step("written by the teacher", funnel.candidates, 0, True)]
    found += _losses("rejected", funnel.rejected, funnel.candidates)
    found.append(Step("kept by generate", funnel.generated, 0, True))
    if funnel.kept is not None:
        found += _losses("dropped", funnel.dropped, funnel.generated)
        found.append(Step("kept by dedup", funnel.kept, 0, True))
    return found


def slices(verbs: Sequence[Verb]) -> list[Slice]:
    """The most frequent verbs around the circle, each with its most frequent objects inside it."""
    shown = [verb for verb in verbs if verb.count][:VERBS]
    total = sum(verb.count for verb in shown)
    found: list[Slice] = []
    start = 0
    for place, verb in enumerate(shown):
        id = f"verb-{place}"
        name = clean(verb.verb, LABEL)
        ends = start / total, (start + verb.count) / total
        found.append(Slice(id, "", name, verb.count, *ends, place))
        inner = start
        for rank, pair in enumerate(verb.objects[:OBJECTS]):
            ends = inner / total, (inner + pair.count) / total
            object_ = clean(pair.object, LABEL)
            found.append(Slice(f"{id}-{rank}", id, object_, pair.count, *ends, place))
            inner += pair.count
        start += verb.count
        if inner < start:
            ends = inner / total, start / total
            found.append(
                Slice(f"{id}-rest", id, "other or none", start - inner, *ends, place, True)
            )
    return found


def _losses(verb: str, reasons: Mapping[str, int], left: int) -> list[Step]:
    found = sorted(reasons.items(), key=lambda item: -item[1])
    rest = sum(count for _, count in found[REASONS:])
    named = [(f"{verb}: {clean(reason, LABEL)}", count) for reason, count in found[:REASONS]]
    if rest:
        named.append((f"{verb}: {len(found) - REASONS} other reasons", rest))
    steps = []
    for name, count in named:
        left -= count
        steps.append(Step(name, count, max(left, 0), False))
    return steps


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0

"""The report's figures as SVG and HTML that need no script: drawn first, and always printed.

Plotly may replace them on a screen; what is read aloud stays this. Colours come from the page's
style, through classes and custom properties.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from alpaca_cli.data.report_shapes import Bar, Histogram, Slice, Step
from alpaca_cli.data.report_tags import Html, join, number, percent, tag

COLOURS = 8  # fills of the sunburst, --slice-0 … in report.css
_WIDTH, _HEIGHT = 440, 210  # of a plot, in SVG units
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 22, 24  # room for the labels of the axes
_PLOT = _HEIGHT - _TOP - _BOTTOM
_BASE = _HEIGHT - _BOTTOM
_CENTRE = 250.0  # of the sunburst, which is twice as wide
_RINGS = (62.0, 146.0, 246.0)  # radii: verbs between the first two, objects outside
_LETTER = 7.2  # width of a letter of the sunburst, for where a label still fits
_LINE = 15.0  # the least height of a slice with a label


def bar_table(bars: Sequence[Bar], heads: tuple[str, str], label: str) -> Html:
    """A table of names, counts and shares in which the counts are bars, too."""
    largest = max((bar.count for bar in bars), default=0)
    rows = [
        _bar_row(bar.name, bar.count, percent(bar.share), 0, bar.count / largest) for bar in bars
    ]
    return _bars([*heads, "Share", ""], rows, label)


def funnel_table(steps: Sequence[Step], label: str) -> Html:
    """The funnel: each loss is drawn where it comes off what was there before."""
    total = steps[0].count or 1
    rows = [
        _bar_row(
            step.name,
            step.count,
            percent(step.count / total),
            step.start / total,
            step.count / total,
            "whole" if step.whole else "loss",
        )
        for step in steps
    ]
    return _bars(["Step", "Tasks", "Share", ""], rows, label)


def _bars(heads: Sequence[str], rows: Sequence[Html], label: str) -> Html:
    kinds = ["", "number", "number", "bar"]
    cells = [
        tag("th", head, scope="col", class_=kind or None)
        if head
        else tag("td", class_=kind, aria_hidden="true")
        for head, kind in zip(heads, kinds, strict=True)
    ]
    return tag(
        "table",
        tag("caption", label, class_="hidden"),
        tag("thead", tag("tr", *cells)),
        tag("tbody", *rows),
        class_="bars",
    )


def _bar_row(
    name: str, count: int, share: str, start: float, width: float, kind: str = "whole"
) -> Html:
    drawn = tag("rect", x=100 * start, width=100 * width, height=8)
    picture = tag("svg", drawn, viewBox="0 0 100 8", preserveAspectRatio="none")
    return tag(
        "tr",
        tag("th", tag("bdi", name), scope="row"),
        tag("td", f"{count:,}" if kind == "whole" else f"−{count:,}", class_="number"),
        tag("td", share, class_="number"),
        tag("td", picture, class_=f"bar {kind}", aria_hidden="true"),
    )


def histogram(shape: Histogram, label: str, mark: tuple[float, str] | None = None) -> Html:
    """Bars with an axis of counts; `mark` is a value with a line and a word at it."""
    top = _round_top(max(shape.counts))
    step = (_WIDTH - _LEFT - _RIGHT) / len(shape.counts)
    parts = [_grid(top * share, share, number(top * share)) for share in (0.5, 1.0)]
    for place, count in enumerate(shape.counts):
        height = _PLOT * count / top
        parts.append(
            tag(
                "rect",
                x=_LEFT + place * step + 0.75,
                y=_BASE - height,
                width=max(step - 1.5, 0.5),
                height=height,
            )
        )
    for place in shape.ticks(6):
        anchor = "start" if place == 0 else "middle"
        x = _LEFT + place * step
        if place == len(shape.edges) - 1:
            x, anchor = float(_WIDTH), "end"
        parts.append(_text(x, _HEIGHT - 6, shape.edge(place), anchor))
    parts.append(_line("axis", _LEFT, _WIDTH - _RIGHT, _BASE, _BASE))
    if mark is not None and (found := shape.place(mark[0])) is not None:
        parts += _mark(_LEFT + found * step, mark[1])
    return _picture(parts, label)


def curve(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    label: str,
    mark: tuple[float, str],
) -> Html:
    """Lines over 0 to 1 in both directions, each a name with its points."""
    width = _WIDTH - _LEFT - _RIGHT
    parts = [_grid(share, share, f"{100 * share:.0f} %") for share in (0.25, 0.5, 0.75, 1.0)]
    for place in range(6):
        x = _LEFT + width * place / 5
        parts.append(_text(x, _HEIGHT - 6, f"{place / 5:g}", "end" if place == 5 else "middle"))
    parts.append(_line("axis", _LEFT, _WIDTH - _RIGHT, _BASE, _BASE))
    parts += _mark(_LEFT + width * mark[0], mark[1])
    for place, (_, points) in enumerate(series):
        spots = [(_LEFT + width * x, _BASE - _PLOT * y) for x, y in points]
        path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(tag("path", d=path, class_=f"curve curve-{place}"))
    return _picture(parts, label)


def legend(names: Sequence[str]) -> Html:
    """Which line of a curve is whose."""
    return tag(
        "p",
        *(
            tag(
                "span",
                tag("svg", _line(f"curve curve-{at}", 0, 26, 6, 6), viewBox="0 0 26 12"),
                name,
            )
            for at, name in enumerate(names)
        ),
        class_="legend",
    )


def sunburst(slices: Sequence[Slice], middle: str, label: str) -> Html:
    """Two rings: verbs inside, their objects outside; `middle` stands in the centre."""
    parts = []
    for part in slices:
        inner, outer = _RINGS[1:] if part.parent else _RINGS[:2]
        kind = "slice rest" if part.rest else f"slice slice-{part.colour % COLOURS}"
        kind += " object" if part.parent else ""
        title = tag("title", f"{part.name}: {part.count:,}")
        arc = tag("path", title, d=_arc(part.start, part.end, inner, outer), class_=kind)
        parts += [arc, *_slice_label(part, inner, outer)]
    parts.append(_text(_CENTRE, _CENTRE - 2, middle, "middle", class_="total"))
    parts.append(_text(_CENTRE, _CENTRE + 17, "instructions", "middle"))
    size = 2 * _CENTRE
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {size:g} {size:g}",
        role="img",
        aria_label=label,
        class_="sunburst",
    )


def _slice_label(part: Slice, inner: float, outer: float) -> list[Html]:
    """The name along the radius, where the slice is wide enough for a line of text."""
    middle = (part.start + part.end) / 2
    # An object stands at the rim, where there is most room.
    radius = outer - 6 if part.parent else (inner + outer) / 2
    if part.rest or (part.end - part.start) * 2 * math.pi * (radius - 18) < _LINE:
        return []
    letters = int((outer - inner - 8) / _LETTER)
    name = part.name if len(part.name) <= letters else f"{part.name[: letters - 1]}…"
    turn = 360 * middle - 90
    flip = 180 if middle > 0.5 else 0  # never upside down
    place = f"rotate({turn:.2f} {_CENTRE:g} {_CENTRE:g})"
    x = _CENTRE + radius
    own = f" rotate({flip} {x:g} {_CENTRE:g})" if flip else ""
    text = tag(
        "text",
        name,
        x=x,
        y=_CENTRE,
        dy="0.35em",
        text_anchor="middle" if not part.parent else "start" if flip else "end",
        transform=place + own,
        class_="slice-name",
    )
    return [text]


def _arc(start: float, end: float, inner: float, outer: float) -> str:
    end = min(end, start + 0.99999)  # a full circle has no arc
    turns = [2 * math.pi * turn - math.pi / 2 for turn in (start, end)]
    (x1, y1), (x2, y2) = [(math.cos(turn), math.sin(turn)) for turn in turns]
    large = int(end - start > 0.5)

    def at(radius: float, x: float, y: float) -> str:
        return f"{_CENTRE + radius * x:.2f},{_CENTRE + radius * y:.2f}"

    return (
        f"M{at(outer, x1, y1)}A{outer:g},{outer:g} 0 {large} 1 {at(outer, x2, y2)}"
        f"L{at(inner, x2, y2)}A{inner:g},{inner:g} 0 {large} 0 {at(inner, x1, y1)}Z"
    )


def _picture(parts: Sequence[Html], label: str) -> Html:
    box = f"0 0 {_WIDTH} {_HEIGHT}"
    return tag("svg", join(parts), viewBox=box, role="img", aria_label=label, class_="plot")


def _grid(value: float, share: float, label: str) -> Html:
    y = _BASE - _PLOT * share
    line = _line("grid", _LEFT, _WIDTH - _RIGHT, y, y)
    return join([line, _text(_LEFT - 6, y + 4, label, "end")])


def _mark(x: float, label: str) -> list[Html]:
    right = x > _WIDTH / 2
    return [
        _line("mark", x, x, 4, _BASE),
        _text(x - 5 if right else x + 5, 14, label, "end" if right else "start", class_="mark"),
    ]


def _line(kind: str, x1: float, x2: float, y1: float, y2: float) -> Html:
    return tag("line", class_=kind, x1=x1, x2=x2, y1=y1, y2=y2)


def _text(x: float, y: float, text: str, anchor: str, class_: str | None = None) -> Html:
    return tag("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def _round_top(highest: int) -> int:
    """The next even number of one or two digits and zeros: half of it is a whole number, too."""
    if highest <= 2:
        return 2
    step = 10 ** max(0, len(str(highest)) - 2)
    step = step if step > 1 else 2
    return math.ceil(highest / step) * step

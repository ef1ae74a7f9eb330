"""The report's figures for papers: each as PNG and as SVG, drawn by matplotlib.

The same report gives the same bytes on the same machine: no dates, no random ids. SVG keeps its
letters as text, so that a reader's own fonts show every script. In a PNG a name that no installed
font can write is replaced by its number in the report, and the figure says so. What is drawn is
decided in `report_shapes`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import missing_extra
from alpaca_cli.core.files import atomic_file
from alpaca_cli.core.stats_report import Distribution, Group, Report
from alpaca_cli.data.report_shapes import (
    Bar,
    Slice,
    at_least,
    bars,
    histogram,
    slices,
    steps,
)
from alpaca_cli.data.report_tags import number, percent

DPI = 200
# Families that have Chinese, Japanese and Korean letters, in the order in which they are tried.
WIDE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "Noto Sans SC", "PingFang SC",
    "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip
# One colour for each verb, in turn: light enough for black letters, told apart by colour-blind
# readers by their lightness as well; the same as in report.css.
COLOURS = (
    "#a9c7e8", "#f2cb94", "#a6d6c2", "#e6b8cc", "#c9c4ea", "#ebdc8e", "#a3d6e0", "#dcc8ae",
)  # fmt: skip
_BLUE, _ORANGE, _LOSS, _MARK, _REST = "#3d6fa5", "#b8651b", "#c4a15c", "#b4472f", "#efedea"
_STYLE = {
    "svg.hashsalt": "alpaca",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in the data is no formula
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e3e1dc",
    "axes.titlesize": 10,
}

_UNWRITABLE = "#1, #2 …: names that no font here can write, by their place in the report"

Name = Callable[[str, str], str]
"""A name as it is drawn: what it is, and what stands for it where it cannot be written."""


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Write every figure that the report has something for, as `<name>.png` and `<name>.svg`.

    Returns:
        The files, in the order of the report.

    Raises:
        UsageError: matplotlib is not installed, or the folder cannot be written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "report") from error
    written = []
    fonts, known = _fonts()
    with rc_context({**_STYLE, "font.family": fonts}):
        for name, draw in _drawings(report):
            for kind in ("png", "svg"):
                figure = Figure(layout="constrained", dpi=DPI)
                missing: list[str] = []
                draw(figure, _as_it_is if kind == "svg" else _writable(known, missing))
                if missing:
                    figure.supxlabel(_UNWRITABLE, fontsize=7)
                written.append(_save(figure, folder / f"{name}.{kind}"))
    return written


def _as_it_is(text: str, other: str) -> str:
    return text


def _writable(known: Callable[[str], bool], missing: list[str]) -> Name:
    """Names that the fonts know stay; the others are added to `missing`."""

    def name(text: str, other: str) -> str:
        if known(text):
            return text
        missing.append(text)
        return other

    return name


def _save(figure: Any, path: Path) -> Path:
    # matplotlib's way of leaving out the time and its own version.
    metadata = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
    with warnings.catch_warnings(), atomic_file(path) as file:
        if path.suffix == ".svg":  # the reader's fonts write what matplotlib's cannot measure
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format=path.suffix[1:], dpi=DPI, metadata=metadata)
    return path


def _fonts() -> tuple[list[str], Callable[[str], bool]]:
    """The families to draw with, and whether they have every letter of a text."""
    from matplotlib import font_manager

    installed = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist}
    families = ["DejaVu Sans", *(name for name in WIDE_FONTS if name in installed)]
    letters: set[int] = set()
    for name in families:
        path = font_manager.findfont(font_manager.FontProperties(family=name))
        letters |= set(font_manager.get_font(path).get_charmap())
    # The last is for those who read an SVG without any of these.
    return [*families, "sans-serif"], lambda text: letters.issuperset(map(ord, text))


def _drawings(report: Report) -> Iterator[tuple[str, Callable[[Any, Name], None]]]:
    """File names and how to draw them, for what the report has."""
    known = report.provenance
    if known is not None and known.funnel is not None:
        yield "funnel", lambda figure, name: _funnel(figure, name, report)
    if any(found.words.count for found in report.lengths.values()):
        yield "lengths", lambda figure, name: _lengths(figure, report)
    if report.openings.verbs:
        yield "openings", lambda figure, name: _openings(figure, name, report)
    if report.examples:
        types = [("", report.task_types)]
        yield "task_types", lambda figure, name: _groups(figure, name, types, report.examples)
        fields = [
            ("Instruction", report.languages.instruction),
            ("Output", report.languages.output),
        ]
        yield "languages", lambda figure, name: _groups(figure, name, fields, report.examples)
    if report.neighbours.scores is not None:
        yield "similarity", lambda figure, name: _similarity(figure, report)


def _funnel(figure: Any, name: Name, report: Report) -> None:
    assert report.provenance is not None
    assert report.provenance.funnel is not None
    found = steps(report.provenance.funnel)
    total = found[0].count or 1
    figure.set_size_inches(6.4, 0.6 + 0.28 * len(found))
    axes = figure.subplots()
    for place, step in enumerate(found):
        colour = _BLUE if step.whole else _LOSS
        axes.barh(place, step.count, left=step.start, color=colour, height=0.62)
        sign = "" if step.whole else "−"
        axes.text(
            step.start + step.count,
            place,
            f" {sign}{step.count:,} · {percent(step.count / total)}",
            va="center",
        )
    labels = [name(step.name, f"#{place}") for place, step in enumerate(found)]
    _name_rows(axes, labels)
    axes.set_xlim(0, total * 1.3)


def _lengths(figure: Any, report: Report) -> None:
    shown: list[tuple[str, Distribution, int | None]] = [
        (f"{field.capitalize()}, words", found.words, None)
        for field, found in report.lengths.items()
        if found.words.count
    ]
    if report.tokens is not None and report.tokens.lengths.count:
        tokens = report.tokens
        shown.append(("Training row, tokens", tokens.lengths, tokens.max_length))
    rows = math.ceil(len(shown) / 2)
    figure.set_size_inches(7.2, 2.3 * rows)
    grid = figure.subplots(rows, 2, squeeze=False).flat
    for axes, (title, found, limit) in zip(grid, shown, strict=False):
        mark = None if limit is None else (float(limit), f"max_length {limit:,}")
        _histogram(axes, title, found, mark)
    for axes in list(grid)[len(shown) :]:
        axes.set_visible(False)


def _histogram(
    axes: Any, title: str, found: Distribution, mark: tuple[float, str] | None = None
) -> None:
    shape = histogram(found.histogram)
    places = range(len(shape.counts))
    axes.bar([place + 0.5 for place in places], shape.counts, width=0.92, color=_BLUE)
    ticks = shape.ticks(6)
    axes.set_xticks(ticks, [shape.edge(tick) for tick in ticks])
    axes.set(title=title, xlim=(0, len(shape.counts)))
    axes.yaxis.set_major_formatter(lambda value, _: number(value))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y")
    if mark is not None and (place := shape.place(mark[0])) is not None:
        axes.set_ylim(0, 1.18 * max(shape.counts))  # room for what is written at the mark
        _mark(axes, place, mark[1], place > len(shape.counts) / 2)


def _similarity(figure: Any, report: Report) -> None:
    both = [("Nearest other example", report.neighbours), ("Nearest seed task", report.seeds)]
    figure.set_size_inches(7.2, 2.8)
    left, right = figure.subplots(1, 2)
    styles = [(_BLUE, "-"), (_ORANGE, "--")]
    for (name, found), (colour, line) in zip(both, styles, strict=True):
        if found is not None and found.scores is not None:
            points = at_least(found)
            left.plot(*zip(*points, strict=True), color=colour, linestyle=line, label=name)
    threshold = report.neighbours.threshold
    left.set(
        xlim=(0, 1),
        ylim=(0, 1.18),
        yticks=[0, 0.25, 0.5, 0.75, 1],
        xlabel="ROUGE-L F1",
        title="At least this similar",
    )
    left.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    left.grid(axis="y")
    _mark(left, threshold, f"threshold {threshold:g}", threshold > 0.5)
    if len(left.lines) > 2:
        left.legend(loc="lower left", frameon=False)
    assert report.neighbours.scores is not None
    mark = (threshold, f"threshold {threshold:g}")
    _histogram(right, "Nearest other example", report.neighbours.scores, mark)
    right.set_xlabel("ROUGE-L F1")


def _groups(
    figure: Any, name: Name, charts: Sequence[tuple[str, dict[str, Group]]], total: int
) -> None:
    shown = [(title, bars(groups, total)) for title, groups in charts]
    rows = max(len(found) for _, found in shown)
    figure.set_size_inches(6.4 if len(shown) == 1 else 7.2, 0.7 + 0.28 * rows)
    grid = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (title, found) in zip(grid, shown, strict=True):
        _bars(axes, name, found)
        axes.set_title(title)
        axes.set_ylim(rows - 0.4, -0.6)


def _bars(axes: Any, name: Name, found: Sequence[Bar]) -> None:
    for place, bar in enumerate(found):
        axes.barh(place, bar.count, color=_BLUE, height=0.62)
        axes.text(bar.count, place, f" {bar.count:,} · {percent(bar.share)}", va="center")
    _name_rows(axes, [name(bar.name, f"#{place}") for place, bar in enumerate(found, 1)])
    axes.set_xlim(0, 1.45 * max((bar.count for bar in found), default=1))


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)


def _mark(axes: Any, place: float, label: str, right: bool) -> None:
    axes.axvline(place, color=_MARK, linestyle="--", linewidth=1.2)
    axes.annotate(
        label,
        (place, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-3 if right else 3, 0),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top",
        color=_MARK,
    )


def _openings(figure: Any, name: Name, report: Report) -> None:
    """Two rings: verbs inside, their objects outside, both from twelve o'clock clockwise."""
    figure.set_size_inches(6, 6)
    axes = figure.subplots(subplot_kw={"aspect": "equal"})
    found = slices(report.openings.verbs)
    for part in found:
        inner, outer = (0.6, 1.0) if part.parent else (0.25, 0.6)
        _slice(axes, part, inner, outer)
        _slice_name(axes, part, inner, outer, name)
    total = sum(part.count for part in found if not part.parent)
    axes.text(0, 0, f"{total:,}\ninstructions", ha="center", va="center")
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
    axes.set_axis_off()


def _slice(axes: Any, part: Slice, inner: float, outer: float) -> None:
    from matplotlib.patches import Wedge

    wedge = Wedge(
        (0, 0),
        outer,
        90 - 360 * part.end,
        90 - 360 * part.start,
        width=outer - inner,
        facecolor=_REST if part.rest else COLOURS[part.colour % len(COLOURS)],
        edgecolor="white",
        linewidth=0.8,
        alpha=0.75 if part.parent else 1,
    )
    axes.add_patch(wedge)


def _slice_name(axes: Any, part: Slice, inner: float, outer: float, name: Name) -> None:
    """Along the radius, where the slice is wide enough for a line of text."""
    # An object stands at the rim, where there is most room.
    radius = outer - 0.03 if part.parent else (inner + outer) / 2
    if part.rest or (part.end - part.start) * 2 * math.pi * (radius - 0.08) < 0.036:
        return
    places = [str(int(place) + 1) for place in part.id.split("-")[1:]]
    text = name(part.name, f"#{'.'.join(places)}")
    letters = 13 if part.parent else 11
    text = text if len(text) <= letters else f"{text[: letters - 1]}…"
    angle = 90 - 180 * (part.start + part.end)
    turn = math.radians(angle)
    flip = 180 if math.cos(turn) < -1e-9 else 0  # never upside down
    axes.text(
        radius * math.cos(turn),
        radius * math.sin(turn),
        text,
        rotation=angle + flip,
        rotation_mode="anchor",
        ha="center" if not part.parent else "left" if flip else "right",
        va="center_baseline",
        fontsize=7,
    )

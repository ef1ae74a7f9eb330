"""What every section of the report page is made of: figures, tables, and folds of examples.

Tables that may be wider than a telephone scroll inside a box of their own; a figure carries its
numbers for plotly beside the picture that needs no script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alpaca_cli.core.stats_report import Group, Sample
from alpaca_cli.data.report_tags import CUT, Html, clean, join, percent, script_json, tag

ROWS = 200  # of any one table
FOLDS = 40  # groups with their examples in one list
ID = 60  # characters of an example's id


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page; a link of the contents leads to it."""

    id: str
    title: str
    body: Html

    def html(self) -> Html:
        """The part with its heading."""
        heading = tag("h2", self.title, id=f"{self.id}-title")
        return tag("section", heading, self.body, id=self.id, aria_labelledby=f"{self.id}-title")


def section(id: str, title: str, *body: str) -> Section:
    """A part of the page from its pieces."""
    return Section(id, title, join(body))


def note(*text: str) -> Html:
    """A paragraph that says how to read what follows."""
    return tag("p", *text, class_="note")


def figure(caption: str, drawn: Html, plot: Mapping[str, Any], *below: str) -> Html:
    """A figure: `drawn` needs no script, `plot` is what report.js draws in its place."""
    return tag(
        "figure",
        tag("figcaption", caption),
        tag("div", drawn, class_="drawn"),
        script_json(plot, class_="plot-data"),
        *below,
    )


def table(
    label: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    texts: int = 1,
    wide: bool = False,
) -> Html:
    """A table in a box that scrolls.

    Args:
        label: what it holds, for those who do not see it.
        rows: the first cell of each is its heading; all after the first `texts` are numbers.
        texts: columns of text at the left.
        wide: the last column is text, too.
    """

    def kind(place: int) -> str | None:
        is_text = place < texts or (wide and place == len(heads) - 1)
        return "text" if is_text else "number"

    head = [tag("th", name, scope="col", class_=kind(at)) for at, name in enumerate(heads)]
    body = []
    for row in rows:
        cells = [tag("th", row[0], scope="row", class_="text")]
        cells += [tag("td", cell, class_=kind(at)) for at, cell in enumerate(row[1:], 1)]
        body.append(tag("tr", *cells))
    caption = tag("caption", label, class_="hidden")
    grid = tag("table", caption, tag("thead", tag("tr", *head)), tag("tbody", *body))
    # A box that scrolls must be reachable without a mouse.
    return tag("div", grid, class_="scroll", tabindex="0", role="region", aria_label=label)


def samples(label: str, found: Sequence[Sample]) -> Html:
    """Examples: row, id, why they are here, and how they begin. Empty columns are left out."""
    if not found:
        return Html("")
    named = any(one.id for one in found)
    noted = any(one.note for one in found)
    heads = ["Row", *(["Id"] if named else []), *(["Finding"] if noted else []), "Text"]
    rows = []
    for one in found:
        cells = [tag("th", f"{one.row:,}", scope="row", class_="number")]
        if named:
            cells.append(tag("td", clean(one.id or "", ID), dir="auto"))
        if noted:
            cells.append(tag("td", clean(one.note), dir="auto"))
        cells.append(tag("td", clean(one.text), dir="auto", class_="sample"))
        rows.append(tag("tr", *cells))
    head = [
        tag("th", name, scope="col", class_="number" if name == "Row" else None) for name in heads
    ]
    caption = tag("caption", label, class_="hidden")
    return tag(
        "table",
        caption,
        tag("thead", tag("tr", *head)),
        tag("tbody", *rows),
        class_="samples",
    )


def fold(summary: str, *body: str, id: str | None = None) -> Html:
    """What is hidden until it is asked for; works without a script."""
    return tag("details", tag("summary", summary), *body, id=id)


def rows_fold(name: str, values: Sequence[str], body: Html, id: str | None = None) -> Html:
    """A line of a list: a name, its numbers, and examples that open below."""
    line = [tag("span", tag("bdi", name), class_="name")]
    line += [tag("span", value, class_="number") for value in values]
    if not body:
        return tag("div", *line, class_="line", id=id)
    return tag("details", tag("summary", *line), body, class_="line", id=id)


def group_folds(label: str, groups: Mapping[str, Group], prefix: str) -> Html:
    """Each group with its examples, the largest first."""
    found = sorted(
        ((name, group) for name, group in groups.items() if group.count),
        key=lambda item: -item[1].count,
    )
    lines = [
        rows_fold(
            clean(name, ID),
            [f"{group.count:,}", percent(group.share)],
            samples(f"{label}: {clean(name, ID)}", group.rows),
            f"{prefix}-{place}",
        )
        for place, (name, group) in enumerate(found[:FOLDS])
    ]
    return join([tag("div", *lines, class_="lines"), left_out(len(found), FOLDS)])


def left_out(found: int, shown: int) -> Html:
    """Says so when a table does not show all."""
    return note(f"… and {found - shown:,} more.") if found > shown else Html("")


def cut(text: str) -> str:
    """A text of the data as this page shows it."""
    return clean(text, CUT)

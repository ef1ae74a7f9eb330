"""How `alpaca train --inspect` shows rows: what is trained, what is masked, what is special.

Colour is never the only sign: trained tokens stand in brackets and special ones in guillemets, so
that a pipe, NO_COLOR and a colour-blind reader see the same.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

if TYPE_CHECKING:
    from alpaca_cli.stages.inspection import InspectedRow, Inspection

TRAINED, MASKED, SPECIAL = "green", "dim", "bold reverse"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def show(inspection: Inspection) -> RenderableType:
    """The inspection for people."""
    parts: list[RenderableType] = [_legend()]
    for row in inspection.rows:
        parts += ["", _heading(row, inspection), Padding(_text(row), (0, 0, 0, 2))]
    parts += ["", *_figures(inspection)]
    return Group(*parts)


def _legend() -> Text:
    return Text.assemble(
        ("⟦trained⟧", TRAINED),
        "  ",
        ("masked", MASKED),
        "  ",
        ("«special»", SPECIAL),
        "  ↵ new line",
    )


def _heading(row: InspectedRow, inspection: Inspection) -> Text:
    marks = ["the longest"] if row.total == inspection.longest else []
    if row.whole > row.total:
        marks.append(f"truncated, whole it has {row.whole:,}")
    return Text.assemble(
        (f"example {row.number:,}", "bold"),
        f": {row.total:,} tokens, {row.prompt:,} masked, {row.trained:,} trained",
        f" ({'; '.join(marks)})" if marks else "",
    )


def _text(row: InspectedRow) -> Text:
    """The row's text, every token in the style of its kind."""
    found = Text(overflow="fold")
    for trained, part in groupby(row.tokens, key=lambda token: token.kind.endswith("trained")):
        style = TRAINED if trained else MASKED
        found.append("⟦" if trained else "", style)
        for special, tokens in groupby(part, key=lambda token: token.kind.startswith("special")):
            if special:
                for token in tokens:
                    found.append(f"«{_visible(token.text)}»", f"{style} {SPECIAL}")
            else:
                found.append(_visible("".join(token.text for token in tokens)), style)
        found.append("⟧" if trained else "", style)
    return found


def _visible(text: str) -> str:
    """New lines and control characters to be seen; a terminal must not act on the data."""
    text = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return text.replace("\t", "⇥   ").replace("\n", "↵\n")


def _figures(inspection: Inspection) -> list[RenderableType]:
    """Counts of all rows, and what to know about them."""
    lines: list[RenderableType] = [
        Text.assemble(
            (f"{inspection.kept:,} examples", "bold"),
            f" from {inspection.source}: {inspection.tokens:,} tokens, "
            f"{inspection.trained_tokens:,} trained ({inspection.trained_share:.0%}); the longest "
            f"has {inspection.longest:,}, {inspection.max_length:,} are allowed",
        )
    ]
    if inspection.dropped or inspection.truncated:
        lines.append(
            Text(
                f"too long: {inspection.dropped:,} examples dropped, "
                f"{inspection.truncated:,} responses truncated",
                "yellow",
            )
        )
    if inspection.excluded:
        lines.append(Text(f"marked bad: {inspection.excluded:,} examples left out"))
    lines.append(Text(f"every response ends in {inspection.eos}"))
    return lines + [Text(f"note: {note}") for note in inspection.notes]

"""What the browser shows, as styled text: a line for each row, an example whole, the help.

Colour is never the only sign. Data is text and never markup, and what a terminal would act on is
made visible: a control character is shown as its escape. Where the text goes is not known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from alpaca_cli.data.reviews import Mark
from alpaca_cli.stages.browsing_desk import Desk, Neighbour

SIGNS: dict[Mark, str] = {"good": "✓", "bad": "✗", "none": " "}
STYLES: dict[Mark, str] = {"good": "green", "bad": "red", "none": ""}
MATCH = "reverse"
LONGEST_ID = 14  # cells of an id in the list

# Control characters, marks that turn the direction of text, invisible and line-breaking ones.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]"
)

KEYS = (
    ("j k ↑ ↓ PgUp PgDn", "in the list, or in the example; Home and End, too"),
    ("Enter Tab", "to the example, and back to the list"),
    ("space", "read on: next page, then next example"),
    ("/  n  N", "search; next and previous match"),
    ("f", "filter"),
    ("g  b  u", "mark good, mark bad, clear the mark"),
    ("G  B", "the same, and on to the next row"),
    ("e", "write a note"),
    ("d", "to the row that this one repeats, or the nearest"),
    ("1 … 5", "to one of the nearest"),
    ("Backspace", "back to where you jumped from"),
    ("q", "leave; every mark is on the disk already"),
)
QUERIES = (
    ("word", "occurs in any field; capitals only count if typed"),
    ('"two words" /regex/', "so does a text, or a regular expression"),
    ("rule:refusal", "lint found it; also severity:error"),
    ("mark:good", "or mark:bad, mark:none"),
    ("has:input no:input", "also output, note, id, finding"),
    ("row:17 row:100-200", "places"),
    ("family:sort teacher:g*", "any field of a row, or of its meta"),
    ("-rule:refusal -word", "not"),
    ("rule:refusal mark:none", "several must all hold"),
)
LISTED = (
    ("✓ ✗", "marked good, marked bad"),
    ("*", "with a note"),
    ("1  2!  +", "findings; ! with an error; + ten or more"),
)
TERM = 23  # cells of the left column of the help


def visible(text: str) -> str:
    """The text with nothing in it that a terminal would act on, new lines aside."""
    text = text.expandtabs(4)
    return _UNSEEN.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def one_line(text: str) -> str:
    """The text made visible, on one line."""
    return visible(" ".join(text.split()))


def cut(text: str, width: int) -> str:
    """The text in exactly so many cells, with an ellipsis where it is longer."""
    if cell_len(text) <= width:
        return text + " " * (width - cell_len(text))
    return set_cell_size(text, max(0, width - 1)) + "…" * (width > 0)


def list_line(desk: Desk, row: int, width: int, pattern: re.Pattern[str] | None = None) -> Text:
    """A row in the list: number, mark, note, findings, id, and the beginning of its instruction."""
    example, mark = desk.examples[row], desk.mark(row)
    line = Text(no_wrap=True)
    line.append(f"{row + 1:>{len(str(len(desk)))}} ", "dim")
    line.append(SIGNS[mark], f"bold {STYLES[mark]}".strip())
    line.append("*" if desk.note(row) else " ", "cyan")
    line.append(*_findings_sign(desk, row))
    line.append(" ")
    if example.id is not None and width >= 44:
        line.append(f"{cut(one_line(example.id), min(LONGEST_ID, width // 5))} ", "dim")
    rest = max(0, width - line.cell_len)
    beginning = Text(cut(one_line(example.instruction[: 4 * width]), rest))
    _highlight(beginning, pattern, "underline")
    return line.append_text(beginning)


def _findings_sign(desk: Desk, row: int) -> tuple[str, str]:
    """How many findings, with `!` when one of them is an error; two cells."""
    found = desk.findings.get(row, ())
    if not found:
        return "  ", ""
    count = str(len(found)) if len(found) < 10 else "+"
    if any(finding.severity == "error" for finding in found):
        return f"{count}!", "bold red"
    return f"{count} ", "yellow"


def title(desk: Desk, place: int, shown: int, filtered: str) -> Text:
    """The line above all: where one is, what is marked, which filter holds."""
    parts = [f" {place + 1:,}/{shown:,}"]
    good, bad = desk.marked("good"), desk.marked("bad")
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(parts[0], "bold")
    line.append(f"  {SIGNS['good']} {good:,}", "green")
    line.append(f"  {SIGNS['bad']} {bad:,}", "red")
    if filtered:
        line.append(f"  filter: {one_line(filtered)} (of {len(desk):,})", "yellow")
    return line.append(f"  {one_line(desk.source)}", "dim")


def whole_example(
    desk: Desk,
    row: int,
    neighbours: Sequence[Neighbour] | None,
    pattern: re.Pattern[str] | None = None,
) -> Text:
    """A row with all that is known of it.

    Args:
        neighbours: None while they are looked for.
    """
    example, mark = desk.examples[row], desk.mark(row)
    shown = Text()
    shown.append(f"row {row + 1:,}", "bold")
    if example.id is not None:
        shown.append(f"  {one_line(example.id)}")
    if mark != "none":
        shown.append(f"  {SIGNS[mark]} {mark}", f"bold {STYLES[mark]}")
    if twins := desk.twins(row):
        rows = "row has" if twins == 1 else "rows have"
        shown.append(f"\n{twins:,} other {rows} the same texts, and the same mark", "dim")
    if note := desk.note(row):
        shown.append("\nnote: ", "cyan").append(_searched(note, pattern))
    for finding in desk.findings.get(row, ()):
        style = "bold red" if finding.severity == "error" else "yellow"
        shown.append(f"\n{finding.severity} {finding.rule}: ", style)
        shown.append(one_line(finding.reason))
    for name in ("instruction", "input", "output"):
        text = getattr(example, name)
        if text or name != "input":
            _heading(shown, name)
            shown.append_text(_searched(text, pattern) if text.strip() else Text("(empty)", "dim"))
    _heading(shown, "nearest instructions")
    shown.append_text(_nearest(desk, neighbours))
    if fields := desk.fields(row):
        _heading(shown, "provenance")
        shown.append_text(_provenance(fields, pattern))
    return shown


def _heading(shown: Text, name: str) -> None:
    shown.append("\n\n").append(f"── {name} ──", "bold cyan").append("\n")


def _searched(text: str, pattern: re.Pattern[str] | None) -> Text:
    return _highlight(Text(visible(text)), pattern, MATCH)


def _highlight(text: Text, pattern: re.Pattern[str] | None, style: str) -> Text:
    """The text with what was searched for in this style."""
    if pattern is not None:
        for found in pattern.finditer(text.plain):
            text.stylize(style, found.start(), found.end())
    return text


def _nearest(desk: Desk, neighbours: Sequence[Neighbour] | None) -> Text:
    """A line for each neighbour, with the digit that leads there."""
    if neighbours is None:
        return Text("looking …", "dim")
    if not neighbours:
        return Text("no other has a word in common", "dim")
    lines = []
    for digit, near in enumerate(neighbours, 1):
        line = Text.assemble((f"{digit}  ", "bold"), f"{near.score:.3f}  ")
        line.append(f"{SIGNS[desk.mark(near.row)]} row {near.row + 1:,}  ")
        line.append(one_line(desk.examples[near.row].instruction[:160]), "dim")
        lines.append(line)
    return Text("\n").join(lines)


def _provenance(fields: dict[str, Any], pattern: re.Pattern[str] | None) -> Text:
    """A line for each field; JSON for what is no text."""
    lines = []
    for name, value in fields.items():
        text = (
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        )
        line = Text(f"{one_line(name.replace('_', ' '))}: ", "dim")
        lines.append(line.append_text(_searched(text, pattern)))
    return Text("\n").join(lines)


def help_text(rules: Sequence[str], width: int) -> Text:
    """Keys, filters, and the rules that lint found something by.

    Args:
        width: of the terminal, in cells.
    """
    shown = Text()
    for heading, lines in (
        ("keys", KEYS),
        ("search and filter", QUERIES),
        ("in the list", LISTED),
    ):
        shown.append(f"{heading}\n", "bold cyan")
        for term, meaning in lines:
            if width >= 80:  # beside each other
                shown.append(f"{term:<{TERM}} ", "bold").append(f"{meaning}\n")
            else:
                shown.append(term, "bold").append(f"\n  {meaning}\n")
        shown.append("\n")
    shown.append("rules that found something\n", "bold cyan")
    return shown.append(", ".join(rules) or "none")

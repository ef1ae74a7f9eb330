"""Markdown on a terminal: the same whether it comes at once or letter by letter."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from alpaca_cli.stages.chat_screen import (
    MarkdownStream,
    Pace,
    Region,
    finished,
    lines_of,
    markdown,
    rendered,
    shown,
)
from tests.screen import Screen


class Display(io.StringIO):
    """A file that is a screen."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.screen = Screen(columns, rows)

    def write(self, text: str) -> int:
        self.screen.feed(text.replace("\n", "\r\n").replace("\r\r\n", "\r\n"))
        return len(text)


def display(columns: int = 40, rows: int = 12) -> tuple[Console, Screen]:
    file = Display(columns, rows)
    console = Console(file=file, width=columns, height=rows, force_terminal=True, color_system=None)
    return console, file.screen


def plain(text: str, width: int = 60) -> list[str]:
    return rendered(Console(file=io.StringIO(), width=width), text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# A *title*\ntext", ["A title", "", "text"]),
        ("one\ntwo", ["one", "two"]),
        ("```python\nx = 1\n```", ["  x = 1"]),
        ("```\nx\n  y", ["  x", "    y"]),
        ("- a\n- b\n\n1. c", [" • a", " • b", "", " 1 c"]),
        ("a <b>bold</b>\n\n<div>x</div>", ["a <b>bold</b>", "", "<div>x</div>"]),
        ("[a](http://b) <http://c>", ["a (http://b) http://c"]),
        ("![a](http://b)", ["!a (http://b)"]),
        ("[x]: http://b\n\n[x]", ["[x]: http://b", "", "[x]"]),
        ("2 < 3 & `a*b*c` [bold]x[/]", ["2 < 3 & a*b*c [bold]x[/]"]),
        (" \n\n", []),
    ],
)
def test_markdown_as_lines(text: str, expected: list[str]) -> None:
    assert plain(text) == expected


PIECES = st.sampled_from([
    "word ", "**bold** ", "\n", "\n\n", "- item", "* ", "1. one", "```\n", "```python\n", "# head",
    "| a | b |\n", "|---|---|\n", "> quote", "    ", "---\n", "===\n", "`", "<b>", "[a](b)", "é🦙",
    "[r]: x\n", "\t", "\\",
])  # fmt: skip


@given(st.lists(PIECES, max_size=30).map("".join), st.integers(1, 9))
def test_what_is_finished_never_changes(text: str, step: int) -> None:
    parts: list[str] = []
    rest = ""
    for at in range(0, len(text), step):
        rest += text[at : at + step]
        if length := finished(rest):
            parts.append(rest[:length])
            rest = rest[length:]
    lines: list[str] = []
    for part in (*parts, rest):
        if found := plain(part):
            lines += ["", *found] if lines else found
    assert lines == plain(text)


@given(st.lists(PIECES, max_size=25).map("".join), st.integers(1, 7))
def test_a_stream_ends_as_the_whole_text(text: str, step: int) -> None:
    console, screen = display(rows=6)
    stream = MarkdownStream(console)
    stream._pace = Always()
    for at in range(0, len(text), step):
        stream.write(text[at : at + step])
    stream.close()
    expected = rendered(console, text)
    assert screen.text.rstrip().split("\n") == "\n".join(expected).rstrip().split("\n")
    assert screen.column == 0  # what comes next starts on a line of its own


class Always(Pace):
    """Draws whenever something has come."""

    def due(self) -> bool:
        return True


def test_lines_that_stay_are_not_drawn_again() -> None:
    file = io.StringIO()
    console = Console(file=file, width=20, height=5, force_terminal=True, color_system=None)
    region = Region(console)
    region.draw(["one", "two"])
    before = file.tell()
    region.draw(["one", "twofold", "three"])
    assert "one" not in file.getvalue()[before:]
    before = file.tell()
    region.draw(["four"], settled=["one", "twofold", "three"])
    moves = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]|\s", "", file.getvalue()[before:])
    assert moves == "four"
    region.draw(["fourth"])
    assert file.getvalue().count("one") == 1


def test_a_line_as_wide_as_the_screen_is_one_line() -> None:
    console, screen = display(10, 4)
    region = Region(console)
    region.draw(["x" * 10, "y"])
    region.draw(["x" * 10, "z" * 10])
    region.draw([], settled=["x" * 10, "z" * 9 + "é", "end"])
    assert screen.text == "x" * 10 + "\n" + "z" * 9 + "é\nend"
    region.draw(["a", "b", "c"])
    region.draw([])
    assert screen.text.rstrip() == "x" * 10 + "\n" + "z" * 9 + "é\nend"


def test_drawing_leaves_time_for_the_model() -> None:
    pace = Pace()
    assert pace.due()
    with pace.drawing():
        pass
    assert not pace.due()  # for a twentieth of a second


def test_a_model_cannot_write_control_characters_into_a_column() -> None:
    console = Console(file=io.StringIO(), width=30)
    assert lines_of(console, markdown("a\x1b[31mb\x07")) == ["a[31mb"]
    assert shown("a\x9bb\r\n\tc") == "ab\n\tc"
